//! Wakes up a sleeping thread.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A wakeup flag: setting it never blocks, and a wakeup without a sleeper ends the next sleep.
#[derive(Default)]
pub(crate) struct Wakeup {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wakeup {
    /// Wakes up the sleeper, or ends the next sleep at once.
    pub(crate) fn wake(&self) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }

    /// Sleeps until the next wakeup, at most for `most`.
    pub(super) fn sleep(&self, most: Duration) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.changed.wait_for(&mut woken, most);
        }
        *woken = false;
    }
}

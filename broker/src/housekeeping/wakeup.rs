//! Wakes a thread that rests.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A bell: whoever rings it never waits, and what rings while nobody listens is heard later.
#[derive(Default)]
pub(crate) struct Wakeup {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wakeup {
    /// Ends the rest of whoever listens, or the next one.
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }

    /// Rests until the bell rings, though not for longer than `most`.
    pub(super) fn rest(&self, most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.changed.wait_for(&mut rung, most);
        }
        *rung = false;
    }
}

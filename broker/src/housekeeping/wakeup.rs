//! Wakes up a sleeping thread.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// Holds at most one wakeup: waking never blocks, and a wakeup without a sleeper ends the next sleep.
pub(crate) struct Wakeup {
    tx: Sender<()>,
    rx: Receiver<()>,
}

impl Default for Wakeup {
    fn default() -> Wakeup {
        let (tx, rx) = bounded(1);
        Wakeup { tx, rx }
    }
}

impl Wakeup {
    /// Wakes up the sleeper, or ends the next sleep at once.
    pub(crate) fn wake(&self) {
        // One that is pending already is enough.
        let _ = self.tx.try_send(());
    }

    /// Sleeps until the next wakeup, at most for `most`.
    pub(super) fn sleep(&self, most: Duration) {
        // A timeout is no failure.
        let _ = self.rx.recv_timeout(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakeups_without_a_sleeper_end_one_sleep() {
        let wakeup = Wakeup::default();
        wakeup.wake();
        wakeup.wake();
        wakeup.sleep(Duration::MAX);
        assert!(wakeup.rx.is_empty());
        wakeup.sleep(Duration::from_millis(1));
    }
}

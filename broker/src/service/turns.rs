//! Keeps a client's requests in order when some of them need asynchronous work first.

use parking_lot::Mutex;
use tokio::sync::oneshot::{self, error::TryRecvError};

/// The turns of one client.
#[derive(Debug, Default)]
pub struct Turns {
    /// Resolves when the last turn that was taken ends.
    last: Mutex<Option<oneshot::Receiver<()>>>,
}

/// A position in the order. Later turns wait until this one is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    // Signals the next turn when dropped, so that cancelled work does not block later turns.
    _ended: oneshot::Sender<()>,
}

impl Turns {
    /// Takes the next turn; `None` when all earlier ones have ended and this one needs no asynchronous work.
    pub(super) fn take(&self, takes_time: bool) -> Option<Turn> {
        let mut last = self.last.lock();
        let before = last.take().and_then(|mut before| {
            let is_over = before.try_recv() != Err(TryRecvError::Empty);
            (!is_over).then_some(before)
        });
        if before.is_none() && !takes_time {
            return None;
        }
        let (ended, next) = oneshot::channel();
        *last = Some(next);
        Some(Turn { before, _ended: ended })
    }
}

impl Turn {
    /// Waits until all earlier turns have ended.
    pub(super) async fn comes(&mut self) {
        if let Some(before) = self.before.take() {
            // Nothing is ever sent: the other end is dropped.
            let _ = before.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn turns_come_in_the_order_in_which_they_were_taken() {
        let turns = Turns::default();
        assert!(turns.take(false).is_none(), "no turn is before it");
        let mut first = turns.take(true).expect("it takes time");
        let mut second = turns.take(false).expect("a turn is before it");
        let mut third = turns.take(true).expect("it takes time");
        assert!(first.comes().now_or_never().is_some());
        assert!(second.comes().now_or_never().is_none() && third.comes().now_or_never().is_none());
    }

    #[test]
    fn a_cancelled_turn_does_not_block_later_ones() {
        let turns = Turns::default();
        let first = turns.take(true).expect("it takes time");
        let mut second = turns.take(false).expect("a turn is before it");
        drop(first);
        assert!(second.comes().now_or_never().is_some());
        drop(second);
        assert!(turns.take(false).is_none(), "all have ended");
    }
}

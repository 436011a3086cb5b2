//! The order in which what one client sent takes effect, when some of it takes longer than the rest.

use parking_lot::Mutex;
use tokio::sync::oneshot::{self, error::TryRecvError};

/// The turns of one client.
#[derive(Debug, Default)]
pub struct Turns {
    /// Ends with the last turn that was taken.
    last: Mutex<Option<oneshot::Receiver<()>>>,
}

/// A place in the order. Whoever took theirs later waits until this one is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    // Tells the next one by being dropped, so that work that is given up holds nobody up.
    _ended: oneshot::Sender<()>,
}

impl Turns {
    /// Takes the next turn; `None` when all earlier ones are over and this one takes no time.
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
    /// Waits until all earlier turns are over.
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
        assert!(turns.take(false).is_none(), "nobody is before it");
        let mut first = turns.take(true).expect("it takes time");
        let mut second = turns.take(false).expect("somebody is before it");
        let mut third = turns.take(true).expect("it takes time");
        assert!(first.comes().now_or_never().is_some());
        assert!(second.comes().now_or_never().is_none() && third.comes().now_or_never().is_none());
    }

    #[test]
    fn a_turn_that_is_given_up_holds_nobody_up() {
        let turns = Turns::default();
        let first = turns.take(true).expect("it takes time");
        let mut second = turns.take(false).expect("somebody is before it");
        drop(first);
        assert!(second.comes().now_or_never().is_some());
        drop(second);
        assert!(turns.take(false).is_none(), "all are over");
    }
}

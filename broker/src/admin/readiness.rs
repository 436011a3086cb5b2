//! Whether this node can do its main work now: take records and give them.

use std::time::Duration;

use tokio::sync::watch;

use super::Phase;
use crate::service::{FlushTrouble, Service, WriteStop};

/// A start that is nearly over is waited for, so that whoever asks while a broker comes up need not ask again.
const START_WAIT: Duration = Duration::from_millis(500);

/// Why it cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotReady {
    #[error("the broker is starting: its store is being opened")]
    Starting,
    #[error("the broker is stopping")]
    Stopping,
    #[error("partitions have no leader: {led} of {all} Raft groups are led by this node")]
    NoLeader { led: usize, all: usize },
    #[error(transparent)]
    Writes(#[from] WriteStop),
}

/// As [`now`], but a start may take a moment more.
pub(super) async fn soon(phase: &watch::Sender<Phase>) -> Option<NotReady> {
    let mut phases = phase.subscribe();
    let open = phases.wait_for(|phase| !matches!(phase, Phase::Starting));
    // Whichever it is, what counts is what is so afterwards.
    let _ = tokio::time::timeout(START_WAIT, open).await;
    now(&phase.borrow())
}

/// Why the node is not ready, if it is not.
pub(super) fn now(phase: &Phase) -> Option<NotReady> {
    match phase {
        Phase::Starting => Some(NotReady::Starting),
        Phase::Stopping(_) => Some(NotReady::Stopping),
        Phase::Open(admin) => {
            let service = &admin.sources.service;
            without_leader(service).or_else(|| service.write_stop().map(NotReady::Writes))
        }
    }
}

/// What somebody should look at while the node can go on for a time.
pub(super) fn warning(phase: &Phase) -> Option<FlushTrouble> {
    phase.admin()?.sources.service.flush_trouble()
}

fn without_leader(service: &Service) -> Option<NotReady> {
    let groups = service.shards().map(|shard| shard.group()).chain([service.metadata()]);
    let is_led: Vec<bool> = groups.map(|group| group.led_term().is_some()).collect();
    let (led, all) = (is_led.iter().filter(|led| **led).count(), is_led.len());
    (led < all).then_some(NotReady::NoLeader { led, all })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_start_is_waited_for_and_then_told() {
        let phase = watch::Sender::new(Phase::Starting);
        assert_eq!(soon(&phase).now_or_never(), None, "it may be over in a moment");
        assert_eq!(soon(&phase).await, Some(NotReady::Starting));
    }
}

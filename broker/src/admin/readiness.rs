//! Whether this node can accept and serve records.

use std::time::Duration;

use millstream_model::RaftGroupId;
use tokio::sync::watch;

use super::Phase;
use crate::service::{FlushTrouble, Service, WriteStop};

/// A start that is nearly complete is waited for, so that a client need not poll during it.
const START_WAIT: Duration = Duration::from_millis(500);

/// Most groups listed by name.
const NAMED_MAX: usize = 4;

/// Why it is not ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotReady {
    #[error("the broker is starting: its store is being opened")]
    Starting,
    #[error("the broker is starting: its store is open, and no leader yet have {}", listed(.0))]
    Electing(Vec<RaftGroupId>),
    #[error("the broker is stopping")]
    Stopping,
    #[error("partitions have no leader: of {all} Raft groups this node does not lead {}", listed(.leaderless))]
    NoLeader { leaderless: Vec<RaftGroupId>, all: usize },
    #[error(transparent)]
    Writes(#[from] WriteStop),
}

/// Like [`now`], but waits a moment for a start to complete.
pub(super) async fn soon(phase: &watch::Sender<Phase>) -> Option<NotReady> {
    let mut phases = phase.subscribe();
    let open = phases.wait_for(|phase| !matches!(phase, Phase::Starting | Phase::Electing(_)));
    // Either way the current state decides.
    let _ = tokio::time::timeout(START_WAIT, open).await;
    now(&phase.borrow())
}

/// Why the node is not ready, or `None`.
pub(super) fn now(phase: &Phase) -> Option<NotReady> {
    match phase {
        Phase::Starting => Some(NotReady::Starting),
        Phase::Electing(leaderless) => {
            let groups: Vec<RaftGroupId> = leaderless.lock().iter().copied().collect();
            // Once all are led, the rest takes a moment.
            Some(if groups.is_empty() { NotReady::Starting } else { NotReady::Electing(groups) })
        }
        Phase::Stopping(_) => Some(NotReady::Stopping),
        Phase::Open(admin) => {
            let service = &admin.sources.service;
            without_leader(service).or_else(|| service.write_stop().map(NotReady::Writes))
        }
    }
}

/// A warning for the operator while the node still works.
pub(super) fn warning(phase: &Phase) -> Option<FlushTrouble> {
    phase.admin()?.sources.service.flush_trouble()
}

fn without_leader(service: &Service) -> Option<NotReady> {
    let groups = service.shards().map(|shard| shard.group()).chain([service.metadata()]);
    let (mut leaderless, mut all) = (Vec::new(), 0);
    for group in groups {
        all += 1;
        if group.led_term().is_none() {
            leaderless.push(group.id());
        }
    }
    leaderless.sort_unstable();
    (!leaderless.is_empty()).then_some(NotReady::NoLeader { leaderless, all })
}

/// The first few by name, and the number of the others.
fn listed(groups: &[RaftGroupId]) -> String {
    let (named, others) = groups.split_at(groups.len().min(NAMED_MAX));
    let names: Vec<String> = named.iter().map(ToString::to_string).collect();
    match others.len() {
        0 => names.join(", "),
        n => format!("{} and {n} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use futures::FutureExt;
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_start_is_waited_for_and_then_told() {
        let phase = watch::Sender::new(Phase::Starting);
        assert_eq!(soon(&phase).now_or_never(), None, "it may be over in a moment");
        assert_eq!(soon(&phase).await, Some(NotReady::Starting));
    }

    #[tokio::test]
    async fn a_start_that_waits_for_leaders_names_the_groups() {
        let leaderless = Arc::new(Mutex::new((0..7).map(RaftGroupId).collect::<BTreeSet<_>>()));
        let phase = Phase::Electing(leaderless.clone());
        let reason = now(&phase).expect("not ready").to_string();
        assert!(
            reason.ends_with("no leader yet have metadata, shard-1, shard-2, shard-3 and 3 more"),
            "{reason}"
        );
        leaderless.lock().retain(|group| group.0 == 5);
        let reason = now(&phase).expect("not ready").to_string();
        assert!(reason.ends_with("no leader yet have shard-5"), "{reason}");
    }
}

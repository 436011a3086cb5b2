//! The one task that watches every group's deadlines on this node.

use std::time::{Duration, Instant};

use tokio::{sync::watch, task::JoinHandle};

use super::Groups;
use crate::{clock, service::Service};

/// Deadlines are looked at in steps of this size: sessions last seconds, and a step carries out all that is due.
const STEP: Duration = Duration::from_millis(50);
/// Longest time between two looks: a shard whose leadership has come to this node is taken over by then.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Time between two rounds of expiry.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// The task that keeps the groups.
pub struct GroupExpiry {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl GroupExpiry {
    /// Starts keeping the groups of a node whose shards run.
    pub fn start(service: Service) -> GroupExpiry {
        let (stop, stopped) = watch::channel(false);
        GroupExpiry { stop, task: tokio::spawn(keep(service, stopped)) }
    }

    /// Ends the task.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the keeper of the groups ended badly");
        }
    }
}

async fn keep(service: Service, mut stopped: watch::Receiver<bool>) {
    let groups = service.groups();
    let mut expire_at = clock::monotonic() + EXPIRE_EVERY;
    while !*stopped.borrow() {
        let now = clock::monotonic();
        if now >= expire_at {
            expire_at = now + EXPIRE_EVERY;
            groups.expire(service.broker_config().offsets_retention_ms);
        }
        let next = groups.tick().map_or(now + LOOK_EVERY, |next| next.clamp(now + STEP, now + LOOK_EVERY));
        tokio::select! {
            () = tokio::time::sleep_until(tokio::time::Instant::from_std(next)) => {}
            // A deadline may have come closer, but not closer than one step.
            () = groups.wake.notified() => tokio::time::sleep(STEP).await,
            changed = stopped.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

impl Groups {
    /// Carries out what is due in every group; tells when to look again.
    fn tick(&self) -> Option<Instant> {
        self.slots.iter().filter_map(|slot| Some(slot.instant(slot.tick()?))).min()
    }

    fn expire(&self, retention_ms: i64) {
        self.slots.iter().for_each(|slot| slot.expire(retention_ms));
    }
}

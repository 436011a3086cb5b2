//! The one task that watches the deadlines of all consumer groups of this node and expires committed offsets.

use std::time::{Duration, Instant};

use tokio::{sync::watch, task::JoinHandle};

use super::Groups;
use crate::{clock, service::Service};

/// Shortest time between two checks. Sessions last seconds, and a check handles everything that is due.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Longest time between two checks: within it this node takes over the groups of a shard that it has begun to lead.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Time between two rounds of offset expiry.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// The task that handles group deadlines and expiry.
pub struct GroupExpiry {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl GroupExpiry {
    /// Starts the task on a node whose shards are running.
    pub fn start(service: Service) -> GroupExpiry {
        let (stop, stopped) = watch::channel(false);
        GroupExpiry { stop, task: tokio::spawn(run(service, stopped)) }
    }

    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "group expiry task failed");
        }
    }
}

async fn run(service: Service, mut stopped: watch::Receiver<bool>) {
    let groups = service.groups();
    let mut expire_at = clock::monotonic() + EXPIRY_INTERVAL;
    while !*stopped.borrow() {
        let now = clock::monotonic();
        if now >= expire_at {
            expire_at = now + EXPIRY_INTERVAL;
            groups.expire(service.broker_config().offsets_retention_ms);
        }
        let next = groups.tick().map_or(now + CHECK_INTERVAL_MAX, |next| {
            next.clamp(now + CHECK_INTERVAL_MIN, now + CHECK_INTERVAL_MAX)
        });
        tokio::select! {
            () = tokio::time::sleep_until(tokio::time::Instant::from_std(next)) => {}
            // A deadline may have moved closer, but not closer than the shortest interval.
            () = groups.wake.notified() => tokio::time::sleep(CHECK_INTERVAL_MIN).await,
            changed = stopped.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

impl Groups {
    /// Handles what is due in every group and returns the next deadline.
    fn tick(&self) -> Option<Instant> {
        self.shards.iter().filter_map(|shard| Some(shard.instant(shard.tick()?))).min()
    }

    fn expire(&self, retention_ms: i64) {
        self.shards.iter().for_each(|shard| shard.expire(retention_ms));
    }
}

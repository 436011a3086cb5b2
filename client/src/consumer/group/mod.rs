//! Reading as a member of a group: the group's members share the partitions of its topics, and what was read is noted
//! with the broker.
//!
//! Who does what is decided in `membership` and `assignor` (both pure); `coordinator` is the task that asks. Records are
//! read at least once: what [`GroupConsumer::next`] gave counts as read when it is called again.

mod assignor;
mod coordinator;
mod membership;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

use super::{Chunk, Consumer, ConsumerConfig, Start, TopicPartition};
use crate::{ClientError, Cluster};
use coordinator::{Command, Coordinator};

pub(crate) use assignor::read_assignment;

/// Commands that may wait for the task.
const COMMANDS_WAITING_MAX: usize = 16;

/// How a member takes part in its group.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group.
    pub group: String,
    /// Topics to read.
    pub topics: BTreeSet<String>,
    /// Where to begin in partitions of which the group has noted nothing.
    pub start: Start,
    /// How often what was read is noted; none notes it only when told to.
    pub commit_every: Option<Duration>,
    /// A member that is not heard of for so long is taken out.
    pub session_timeout: Duration,
    /// How often the member is heard of.
    pub heartbeat_interval: Duration,
    /// How long the others wait for this member when the group changes.
    pub rebalance_timeout: Duration,
    /// How it reads.
    pub consumer: ConsumerConfig,
}

impl GroupConfig {
    /// A member of `group` that reads `topics`.
    pub fn new(group: &str, topics: impl IntoIterator<Item = String>) -> GroupConfig {
        GroupConfig {
            group: group.to_string(),
            topics: topics.into_iter().collect(),
            start: Start::End,
            commit_every: Some(Duration::from_secs(5)),
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(300),
            consumer: ConsumerConfig::default(),
        }
    }
}

/// What reader and task share.
#[derive(Default)]
struct Progress {
    /// What this member reads, in this generation.
    assigned: BTreeSet<TopicPartition>,
    /// Offsets to go on with, of what was read.
    read: BTreeMap<TopicPartition, i64>,
    /// Offsets that the broker has noted.
    noted: BTreeMap<TopicPartition, i64>,
    /// Why the task ended.
    failed: Option<ClientError>,
}

impl Progress {
    /// What is to be noted.
    fn due(&self) -> BTreeMap<TopicPartition, i64> {
        let is_new = |(partition, offset): &(&TopicPartition, &i64)| {
            self.assigned.contains(*partition) && self.noted.get(*partition) != Some(*offset)
        };
        self.read.iter().filter(is_new).map(|(partition, offset)| (partition.clone(), *offset)).collect()
    }

    fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.assigned = partitions.into_iter().collect();
        self.read.clear();
        self.noted.clear();
    }
}

/// Reads as a member of a group.
pub struct GroupConsumer {
    consumer: Consumer,
    progress: Arc<Mutex<Progress>>,
    failed: Arc<Notify>,
    commands: mpsc::Sender<Command>,
    /// The chunk that was given last: read when the next one is asked for.
    given: Option<(TopicPartition, i64)>,
    task: Option<JoinHandle<()>>,
}

impl GroupConsumer {
    /// Begins to join a group; must be called on a tokio runtime.
    pub fn new(cluster: Cluster, config: GroupConfig) -> GroupConsumer {
        let consumer = Consumer::new(cluster.clone(), config.consumer.clone());
        let (progress, failed) = (Arc::<Mutex<Progress>>::default(), Arc::<Notify>::default());
        let (commands, orders) = mpsc::channel(COMMANDS_WAITING_MAX);
        let coordinator =
            Coordinator::new(cluster, config, consumer.shared.clone(), progress.clone(), failed.clone());
        let task = Some(tokio::spawn(coordinator.run(orders)));
        GroupConsumer { consumer, progress, failed, commands, given: None, task }
    }

    /// Waits for the next records. What was given before counts as read from now on. A call that is dropped has taken
    /// nothing.
    pub async fn next(&mut self) -> Result<Chunk, ClientError> {
        self.note_given();
        loop {
            if let Some(error) = self.progress.lock().failed.clone() {
                return Err(error);
            }
            tokio::select! {
                chunk = self.consumer.next() => {
                    let chunk = chunk?;
                    if self.progress.lock().assigned.contains(&chunk.partition) {
                        self.given = Some((chunk.partition.clone(), chunk.next_offset));
                        return Ok(chunk);
                    }
                }
                () = self.failed.notified() => {}
            }
        }
    }

    /// Says that only a part of the records that were given last counts as read: those below `offset`.
    pub fn read_up_to(&mut self, partition: &TopicPartition, offset: i64) {
        if let Some((given, next_offset)) = &mut self.given
            && given == partition
        {
            *next_offset = offset.min(*next_offset);
        }
    }

    /// What this member reads now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.progress.lock().assigned.iter().cloned().collect()
    }

    /// Notes with the broker what was read.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.note_given();
        self.tell(Command::Commit).await
    }

    /// Notes what was read and leaves the group, so that others need not wait for the session timeout.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.note_given();
        let left = self.tell(Command::Leave).await;
        if let Some(task) = self.task.take() {
            // It ends by itself; were it to panic, that was said.
            let _ = task.await;
        }
        left
    }

    async fn tell(
        &self,
        command: fn(oneshot::Sender<Result<(), ClientError>>) -> Command,
    ) -> Result<(), ClientError> {
        let (tell, told) = oneshot::channel();
        let closed = |_| self.progress.lock().failed.clone().unwrap_or(ClientError::Closed);
        self.commands.send(command(tell)).await.map_err(|_| closed(()))?;
        told.await.map_err(|_| closed(()))?
    }

    fn note_given(&mut self) {
        if let Some((partition, next_offset)) = self.given.take() {
            let mut progress = self.progress.lock();
            if progress.assigned.contains(&partition) {
                progress.read.insert(partition, next_offset);
            }
        }
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_and_assigned_is_noted() {
        let place = |partition| TopicPartition { topic: "t".into(), partition };
        let mut progress = Progress::default();
        progress.assign([place(0), place(1)]);
        progress.read.insert(place(0), 5);
        progress.read.insert(place(1), 7);
        progress.read.insert(place(2), 9);
        progress.noted.insert(place(1), 7);
        assert_eq!(progress.due(), BTreeMap::from([(place(0), 5)]));
        progress.assign([place(0)]);
        assert!(progress.due().is_empty(), "what was read before belongs to another generation");
    }
}

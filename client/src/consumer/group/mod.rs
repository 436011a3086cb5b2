//! Reading as a member of a group: the group's members share the partitions of its topics, and what was read is committed
//! with the broker.
//!
//! Who does what is decided in `membership` and `assignor` (both pure); `coordinator` is the task that asks, `link` how it
//! asks. Records are read at least once: what [`GroupConsumer::next`] gave counts as read when it is called again.

mod assignor;
mod coordinator;
mod link;
mod membership;
mod pattern;
mod progress;
mod settings;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::Stream;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{Chunk, ConsumedRecord, Consumer, Start, TopicPartition};
use crate::{ClientError, Cluster, clock};
use coordinator::{Change, Command, Coordinator, Late, Presence};
use link::{Link, Offsets};
use progress::Progress;

pub use assignor::Assignor;
pub(crate) use assignor::read_assignment;
pub use pattern::{PatternError, TopicPattern};
pub use settings::GroupConfig;

/// Commands that may wait for the task.
const COMMANDS_WAITING_MAX: usize = 16;
/// Changes that may wait for the reader.
const CHANGES_WAITING_MAX: usize = 4;

/// What comes next for a member of a group.
#[derive(Clone, Debug)]
pub enum Event {
    /// Records of one partition.
    Records(Chunk),
    /// These partitions are read from now on. A [seek](GroupConsumer::seek) before the next call takes effect before any
    /// record of them is given.
    Assigned(Vec<TopicPartition>),
    /// These partitions go to other members, who begin when the next event is asked for: until then what was read of them
    /// can be committed. With `commit_every` it is committed then anyway.
    Revoked(Vec<TopicPartition>),
    /// The group went on without this member, and others may read these partitions already. The member joins it again.
    Lost(Vec<TopicPartition>),
    /// The application asked for nothing for longer than [`poll_interval_max`](GroupConfig::poll_interval_max), so that its
    /// member left the group: others may read what it had. It joins again when the next event is asked for.
    Overdue {
        /// How long the application was away.
        away: Duration,
        /// What it read; there may be nothing.
        lost: Vec<TopicPartition>,
    },
}

/// The chunk that was given last: it counts as read when the next event is asked for.
struct Given {
    partition: TopicPartition,
    next_offset: i64,
}

/// Records of a chunk that are not given yet, for readers that take them one by one.
struct Rest {
    partition: TopicPartition,
    records: std::vec::IntoIter<ConsumedRecord>,
    next_offset: i64,
}

/// A commit on its way. Dropping it changes nothing for the commit.
#[derive(Debug)]
pub struct Commit(oneshot::Receiver<Result<(), ClientError>>);

impl Commit {
    /// Waits until the offsets are committed, or cannot be.
    pub async fn wait(self) -> Result<(), ClientError> {
        self.0.await.unwrap_or(Err(ClientError::Closed))
    }
}

/// Reads as a member of a group.
pub struct GroupConsumer {
    consumer: Consumer,
    link: Link,
    progress: Arc<Mutex<Progress>>,
    presence: Arc<Presence>,
    changes: mpsc::Receiver<Change>,
    commands: mpsc::Sender<Command>,
    given: Option<Given>,
    /// Sent when the reader has given up what was revoked.
    giving_up: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl GroupConsumer {
    /// Begins to join a group; must be called on a tokio runtime.
    pub fn new(cluster: Cluster, config: GroupConfig) -> GroupConsumer {
        let consumer = Consumer::new(cluster.clone(), config.consumer.clone());
        let link = Link::new(cluster, Arc::new(config));
        let progress = Arc::<Mutex<Progress>>::default();
        let (commands, orders) = mpsc::channel(COMMANDS_WAITING_MAX);
        let (changes_tx, changes) = mpsc::channel(CHANGES_WAITING_MAX);
        let presence = Arc::new(Presence::new());
        let coordinator =
            Coordinator::new(link.clone(), progress.clone(), presence.clone(), changes_tx, orders);
        let task = tokio::spawn(coordinator.run());
        GroupConsumer {
            consumer,
            link,
            progress,
            presence,
            changes,
            commands,
            given: None,
            giving_up: None,
            task: Some(task),
        }
    }

    /// Waits for the next records. What was given before counts as read from now on. A call that is dropped has taken
    /// nothing. Who wants to hear of rebalances takes [`event`](GroupConsumer::event) instead.
    pub async fn next(&mut self) -> Result<Chunk, ClientError> {
        loop {
            if let Event::Records(chunk) = self.event().await? {
                return Ok(chunk);
            }
        }
    }

    /// Waits for the next records, or for a change of what this member reads. What was given before counts as read from
    /// now on, and what was revoked before is given up. A call that is dropped has taken nothing. Fails as
    /// [`Consumer::next`] does, and for good when the group cannot be joined: a group of another kind, one that this client
    /// may not read with, a setting that [cannot be](GroupConfig::check).
    pub async fn event(&mut self) -> Result<Event, ClientError> {
        let presence = self.presence.clone();
        let _here = presence.here();
        self.note_given();
        self.given = None;
        if let Some(done) = self.giving_up.take() {
            // A caller that is gone has closed the group.
            let _ = done.send(());
        }
        loop {
            tokio::select! {
                biased;
                change = self.changes.recv() => match change {
                    Some(change) => {
                        if let Some(event) = self.take_in(change) {
                            return Ok(event);
                        }
                    }
                    None => return Err(self.progress.lock().failed.clone().unwrap_or(ClientError::Closed)),
                },
                chunk = self.consumer.next() => {
                    let chunk = chunk?;
                    let (partition, next_offset) = (chunk.partition.clone(), chunk.next_offset);
                    self.given = Some(Given { partition, next_offset });
                    return Ok(Event::Records(chunk));
                }
            }
        }
    }

    /// What a change is for the reader; nothing when nothing changes.
    fn take_in(&mut self, change: Change) -> Option<Event> {
        match change {
            Change::Assigned(starts) => {
                let partitions: Vec<_> = starts.iter().map(|(partition, _)| partition.clone()).collect();
                self.progress.lock().add(partitions.iter().cloned());
                self.consumer.add(starts);
                (!partitions.is_empty()).then_some(Event::Assigned(partitions))
            }
            Change::Revoked { partitions, late, done } => match late.get() {
                None => {
                    self.consumer.remove(&partitions);
                    self.giving_up = Some(done);
                    Some(Event::Revoked(partitions))
                }
                // `done` is dropped, which tells the task that all is done.
                Some(Late::ForTheOthers) => self.lose(self.assignment()),
                Some(Late::Overdue { since }) => Some(self.overdue(*since, self.assignment())),
            },
            Change::Lost(partitions) => self.lose(partitions),
            Change::Overdue { since, lost, back } => {
                // A task that waits no more has ended.
                let _ = back.send(());
                Some(self.overdue(since, lost))
            }
        }
    }

    fn overdue(&mut self, since: Instant, lost: Vec<TopicPartition>) -> Event {
        let away = clock::now().saturating_duration_since(since);
        Event::Overdue { away, lost: self.stop_reading(lost) }
    }

    fn lose(&mut self, partitions: Vec<TopicPartition>) -> Option<Event> {
        let lost = self.stop_reading(partitions);
        (!lost.is_empty()).then_some(Event::Lost(lost))
    }

    /// Stops reading what others may read; gives those of them that were read still.
    fn stop_reading(&mut self, mut partitions: Vec<TopicPartition>) -> Vec<TopicPartition> {
        let mut progress = self.progress.lock();
        partitions.retain(|partition| progress.assigned.contains(partition));
        progress.remove(&partitions);
        drop(progress);
        self.consumer.remove(&partitions);
        partitions
    }

    /// Says that only a part of the records that were given last counts as read: those below `offset`.
    pub fn read_up_to(&mut self, partition: &TopicPartition, offset: i64) {
        if let Some(given) = self.given.as_mut().filter(|given| given.partition == *partition) {
            given.next_offset = offset.min(given.next_offset);
        }
    }

    /// What this member reads now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.progress.lock().assigned.iter().cloned().collect()
    }

    /// Goes on from elsewhere in a partition, for this member and, after the next commit, for the group. False when it is
    /// not read by this member.
    pub fn seek(&mut self, partition: &TopicPartition, start: Start) -> bool {
        self.given = self.given.take().filter(|given| given.partition != *partition);
        let mut progress = self.progress.lock();
        match start {
            Start::Offset(offset) if progress.assigned.contains(partition) => {
                progress.read_up_to(partition.clone(), offset);
            }
            _ => drop(progress.read.remove(partition)),
        }
        drop(progress);
        self.consumer.seek(partition, start)
    }

    /// Gives no records of these partitions until they are [resumed](GroupConsumer::resume), or assigned anew.
    pub fn pause(&mut self, partitions: &[TopicPartition]) {
        self.consumer.pause(partitions);
    }

    /// Goes on with these partitions where they were paused.
    pub fn resume(&mut self, partitions: &[TopicPartition]) {
        self.consumer.resume(partitions);
    }

    /// The offset of the next record to be given; none while it is looked for, and for a partition that is not read.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.consumer.position(partition)
    }

    /// The offset behind the partition's last record, as of the last response.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.consumer.high_watermark(partition)
    }

    /// Bytes that count towards [`memory_bytes`](crate::consumer::ConsumerConfig::memory_bytes) now.
    pub fn buffered_bytes(&self) -> usize {
        self.consumer.buffered_bytes()
    }

    /// Commits with the broker what was read, the records that were given last included. While the group changes it waits for
    /// that, up to the [`request_timeout`](crate::ClientConfig::request_timeout); so do the other ways to commit. Fails with
    /// `UNKNOWN_MEMBER_ID` when the group went on without this member: it will read again what was not committed.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.note_given();
        self.order_commit(None).await?.wait().await
    }

    /// The same, without waiting for the broker; waits only while many commits are on their way.
    pub async fn commit_async(&mut self) -> Result<Commit, ClientError> {
        self.note_given();
        self.order_commit(None).await
    }

    /// Commits these offsets, each the one to go on with, whatever was read.
    pub async fn commit_offsets(
        &mut self,
        offsets: BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        self.order_commit(Some(offsets)).await?.wait().await
    }

    /// What the group has committed of these partitions.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>, ClientError> {
        self.link.committed(partitions).await
    }

    /// The records as a stream of chunks, which goes on after an error and ends when the member cannot be one any more.
    pub fn stream(&mut self) -> impl Stream<Item = Result<Chunk, ClientError>> {
        futures::stream::unfold((self, false), |(member, ended)| async move {
            if ended {
                return None;
            }
            let next = member.next().await;
            let ended = next.is_err() && member.changes.is_closed();
            Some((next, (member, ended)))
        })
    }

    /// The records one by one: each counts as read when the next one is asked for.
    pub fn records(&mut self) -> impl Stream<Item = Result<(TopicPartition, ConsumedRecord), ClientError>> {
        futures::stream::unfold((self, None, false), |(member, mut rest, ended)| async move {
            if ended {
                return None;
            }
            let next = member.next_record(&mut rest).await;
            let ended = next.is_err() && member.changes.is_closed();
            Some((next, (member, rest, ended)))
        })
    }

    async fn next_record(
        &mut self,
        rest: &mut Option<Rest>,
    ) -> Result<(TopicPartition, ConsumedRecord), ClientError> {
        loop {
            if let Some(rest) = rest {
                drop(self.presence.here());
                let record = rest.records.next();
                let up_to = record.as_ref().map_or(rest.next_offset, |record| record.offset);
                if let Some(given) = &mut self.given {
                    given.next_offset = up_to;
                    self.note_given();
                }
                if let Some(record) = record {
                    return Ok((rest.partition.clone(), record));
                }
            }
            let Chunk { partition, records, next_offset } = self.next().await?;
            *rest = Some(Rest { partition, records: records.into_iter(), next_offset });
        }
    }

    /// Commits what was read, unless that is done [only on request](GroupConfig::commit_every), and leaves the group, so that
    /// others need not wait for the session timeout. A member with a name keeps its place. While the group changes it waits for
    /// that, up to the [`request_timeout`](crate::ClientConfig::request_timeout). It leaves also where it fails, which says that
    /// not all is committed. Dropping a member without this neither commits nor leaves.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.note_given();
        let (reply_tx, reply_rx) = oneshot::channel();
        drop(self.giving_up.take());
        let sent = self.commands.send(Command::Leave(reply_tx)).await;
        let left = match sent {
            Ok(()) => reply_rx.await.unwrap_or_else(|_| Err(self.why_closed())),
            Err(_) => Err(self.why_closed()),
        };
        if let Some(task) = self.task.take() {
            // It ends by itself; were it to panic, that was said.
            let _ = task.await;
        }
        left
    }

    async fn order_commit(&self, offsets: Option<Offsets>) -> Result<Commit, ClientError> {
        let (reply_tx, reply_rx) = oneshot::channel();
        let sent = self.commands.send(Command::Commit { offsets, reply_tx }).await;
        sent.map(|()| Commit(reply_rx)).map_err(|_| self.why_closed())
    }

    fn why_closed(&self) -> ClientError {
        self.progress.lock().failed.clone().unwrap_or(ClientError::Closed)
    }

    /// What was given counts as read.
    fn note_given(&mut self) {
        let mut progress = self.progress.lock();
        if let Some(given) = self.given.as_ref().filter(|given| progress.assigned.contains(&given.partition))
        {
            progress.read_up_to(given.partition.clone(), given.next_offset);
        }
        progress.place(|partition| self.consumer.position(partition));
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

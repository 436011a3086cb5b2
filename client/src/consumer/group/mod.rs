//! Reading as a member of a group: the group's members share the partitions of its topics, and what was read is noted
//! with the broker.
//!
//! Who does what is decided in `membership` and `assignor` (both pure); `coordinator` is the task that asks, `link` how it
//! asks. Records are read at least once: what [`GroupConsumer::next`] gave counts as read when it is called again.

mod assignor;
mod coordinator;
mod link;
mod membership;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Acquire},
    time::Duration,
};

use futures::Stream;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{Chunk, ConsumedRecord, Consumer, ConsumerConfig, Start, TopicPartition};
use crate::{ClientError, Cluster};
use coordinator::{Change, Command, Coordinator};
use link::{Link, Offsets};

pub use assignor::Assignor;
pub(crate) use assignor::read_assignment;

/// Commands that may wait for the task.
const COMMANDS_WAITING_MAX: usize = 16;
/// Changes that may wait for the reader.
const CHANGES_WAITING_MAX: usize = 4;

/// How a member takes part in its group.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group.
    pub group: String,
    /// Topics to read.
    pub topics: BTreeSet<String>,
    /// How partitions may be given out, the preferred one first. Members whose assignors are all cooperative go on reading
    /// what they keep while the group changes.
    pub assignors: Vec<Assignor>,
    /// A name under which the member keeps its place while it is away for less than the session timeout: a restart then
    /// moves nothing. No two members of a group may have the same.
    pub instance: Option<String>,
    /// Where to begin in partitions of which the group has noted nothing.
    pub start: Start,
    /// How often what was read is noted; none notes it only when told to.
    pub commit_every: Option<Duration>,
    /// A member that is not heard of for so long is taken out.
    pub session_timeout: Duration,
    /// How often the member is heard of.
    pub heartbeat_interval: Duration,
    /// How long the others wait for this member when the group changes: for its next call of [`GroupConsumer::next`].
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
            assignors: vec![Assignor::Range, Assignor::CooperativeSticky],
            instance: None,
            start: Start::End,
            commit_every: Some(Duration::from_secs(5)),
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(300),
            consumer: ConsumerConfig::default(),
        }
    }
}

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
    /// The group went on without this member, and others may read these partitions already.
    Lost(Vec<TopicPartition>),
}

/// What reader and task share.
#[derive(Default)]
struct Progress {
    /// What this member reads, in this generation.
    assigned: BTreeSet<TopicPartition>,
    /// Assigned partitions whose place is not in `read` yet.
    unplaced: BTreeSet<TopicPartition>,
    /// Offsets to go on with, of what was read.
    read: Offsets,
    /// Offsets that the broker has noted.
    noted: Offsets,
    /// Why the task ended.
    failed: Option<ClientError>,
}

impl Progress {
    /// What is to be noted of some partitions.
    fn due(&self, of: impl Fn(&TopicPartition) -> bool) -> Offsets {
        let is_new = |(partition, offset): &(&TopicPartition, &i64)| {
            of(partition) && self.assigned.contains(*partition) && self.noted.get(*partition) != Some(*offset)
        };
        self.read.iter().filter(is_new).map(|(partition, offset)| (partition.clone(), *offset)).collect()
    }

    fn note(&mut self, offsets: Offsets) {
        self.noted.extend(offsets.into_iter().filter(|(partition, _)| self.assigned.contains(partition)));
    }

    fn add(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        for partition in partitions {
            self.unplaced.insert(partition.clone());
            self.assigned.insert(partition);
        }
    }

    fn read_up_to(&mut self, partition: TopicPartition, offset: i64) {
        self.unplaced.remove(&partition);
        self.read.insert(partition, offset);
    }

    /// Where reading began counts as a place too, once it is known: else a group that found nothing in a partition would
    /// begin anew there the next time, and miss what came meanwhile if it begins at the end.
    fn place(&mut self, begun: impl Fn(&TopicPartition) -> Option<i64>) {
        let (read, noted) = (&mut self.read, &self.noted);
        self.unplaced.retain(|partition| match begun(partition) {
            Some(offset) if noted.get(partition) != Some(&offset) => {
                read.insert(partition.clone(), offset);
                false
            }
            known => known.is_none(),
        });
    }

    fn remove(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.assigned.remove(partition);
            self.unplaced.remove(partition);
            self.read.remove(partition);
            self.noted.remove(partition);
        }
    }
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
    /// Waits until the offsets are noted, or cannot be.
    pub async fn wait(self) -> Result<(), ClientError> {
        self.0.await.unwrap_or(Err(ClientError::Closed))
    }
}

/// Reads as a member of a group.
pub struct GroupConsumer {
    consumer: Consumer,
    link: Link,
    progress: Arc<Mutex<Progress>>,
    changes: mpsc::Receiver<Change>,
    commands: mpsc::Sender<Command>,
    given: Option<Given>,
    /// What is told when the reader has given up what was revoked.
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
        let (tell, changes) = mpsc::channel(CHANGES_WAITING_MAX);
        let task = tokio::spawn(Coordinator::new(link.clone(), progress.clone(), tell, orders).run());
        GroupConsumer {
            consumer,
            link,
            progress,
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
    /// now on, and what was revoked before is given up. A call that is dropped has taken nothing.
    pub async fn event(&mut self) -> Result<Event, ClientError> {
        self.note_given();
        self.given = None;
        if let Some(done) = self.giving_up.take() {
            // Whoever waited for it and is gone has closed the group.
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
            // Its sender is dropped, which tells the task that all is done.
            Change::Revoked { late, .. } if late.load(Acquire) => self.lose(self.assignment()),
            Change::Revoked { partitions, done, .. } => {
                self.consumer.remove(&partitions);
                self.giving_up = Some(done);
                Some(Event::Revoked(partitions))
            }
            Change::Lost(partitions) => self.lose(partitions),
        }
    }

    /// Stops reading what others may read; nothing when that is done already.
    fn lose(&mut self, mut partitions: Vec<TopicPartition>) -> Option<Event> {
        let mut progress = self.progress.lock();
        partitions.retain(|partition| progress.assigned.contains(partition));
        progress.remove(&partitions);
        drop(progress);
        self.consumer.remove(&partitions);
        (!partitions.is_empty()).then_some(Event::Lost(partitions))
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

    /// The offset behind the partition's last record, as the last answer told it.
    pub fn high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.consumer.high_watermark(partition)
    }

    /// Notes with the broker what was read, the records that were given last included.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.note_given();
        self.order_commit(None).await?.wait().await
    }

    /// The same, without waiting for the broker; waits only while many commits are on their way.
    pub async fn commit_async(&mut self) -> Result<Commit, ClientError> {
        self.note_given();
        self.order_commit(None).await
    }

    /// Notes these offsets, each the one to go on with, whatever was read.
    pub async fn commit_offsets(
        &mut self,
        offsets: BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        self.order_commit(Some(offsets)).await?.wait().await
    }

    /// What the group has noted of these partitions.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>, ClientError> {
        self.link.noted(partitions).await
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

    /// Notes what was read and leaves the group, so that others need not wait for the session timeout. A member with a
    /// name keeps its place.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.note_given();
        let (tell, told) = oneshot::channel();
        drop(self.giving_up.take());
        let sent = self.commands.send(Command::Leave(tell)).await;
        let left = match sent {
            Ok(()) => told.await.unwrap_or_else(|_| Err(self.why_closed())),
            Err(_) => Err(self.why_closed()),
        };
        if let Some(task) = self.task.take() {
            // It ends by itself; were it to panic, that was said.
            let _ = task.await;
        }
        left
    }

    async fn order_commit(&self, offsets: Option<Offsets>) -> Result<Commit, ClientError> {
        let (tell, told) = oneshot::channel();
        let sent = self.commands.send(Command::Commit { offsets, tell }).await;
        sent.map(|()| Commit(told)).map_err(|_| self.why_closed())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_and_assigned_is_noted() {
        let place = |partition| TopicPartition { topic: "t".into(), partition };
        let mut progress = Progress::default();
        progress.add([place(0), place(1), place(3)]);
        progress.read = BTreeMap::from([(place(0), 5), (place(1), 7), (place(2), 9), (place(3), 2)]);
        progress.note(BTreeMap::from([(place(1), 7), (place(9), 1)]));
        assert_eq!(progress.due(|_| true), BTreeMap::from([(place(0), 5), (place(3), 2)]));
        assert_eq!(progress.due(|partition| partition.partition == 3), BTreeMap::from([(place(3), 2)]));
        progress.remove(&[place(0)]);
        progress.add([place(0)]);
        assert_eq!(progress.due(|partition| *partition == place(0)), BTreeMap::new(), "another reading");
    }

    #[test]
    fn where_reading_began_is_noted_although_nothing_was_read() {
        let place = |partition| TopicPartition { topic: "t".into(), partition };
        let mut progress = Progress::default();
        progress.add([place(0), place(1), place(2)]);
        progress.read_up_to(place(0), 5);
        progress.place(|partition| (partition.partition < 2).then_some(9));
        assert_eq!(progress.due(|_| true), BTreeMap::from([(place(0), 5), (place(1), 9)]));
        progress.remove(&[place(2)]);
        progress.place(|_| Some(1));
        assert_eq!(progress.read.len(), 2, "what is not assigned has no place");
    }
}

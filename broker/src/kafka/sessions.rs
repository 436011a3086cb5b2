//! Fetch sessions: the broker remembers what a consumer reads, and answers only what has changed (KIP-227).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_protocol::{
    Str,
    messages::fetch::{FetchPartition, FetchRequest},
};
use parking_lot::Mutex;

use super::error::ErrorCode;

/// Most sessions; further consumers send everything with each request, as before KIP-227.
const SESSIONS_MAX: usize = 1000;
/// Most partitions of all sessions.
const PARTITIONS_MAX: usize = 1_000_000;
/// A session that was not used for this long may make room for another.
const IDLE_MIN: Duration = Duration::from_secs(120);
/// The epoch of a request without a session.
const EPOCH_NONE: i32 = -1;
/// The epoch of a request that wants a new session.
const EPOCH_NEW: i32 = 0;

/// The sessions of all connections.
#[derive(Default)]
pub(super) struct FetchSessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: HashMap<i32, Slot>,
    partitions: usize,
}

struct Slot {
    session: Arc<Mutex<Session>>,
    used_at: Instant,
    partitions: usize,
}

/// What one consumer reads.
///
/// Invariant: `place` has exactly the places of `partitions`.
#[derive(Default)]
struct Session {
    epoch: i32,
    partitions: Vec<Reading>,
    place: HashMap<Str, HashMap<i32, usize>>,
    /// Where the next answer begins, so that a full answer does not starve the partitions behind it.
    first: usize,
}

/// What is read of one partition, and what the consumer was told last.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) topic: Str,
    pub(super) wanted: FetchPartition,
    told: Option<Told>,
}

/// What a consumer knows of a partition beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) high_watermark: i64,
    pub(super) log_start_offset: i64,
}

/// One fetch of a session, or without one.
pub(super) struct Plan {
    /// What to read, in this order.
    pub(super) readings: Vec<Reading>,
    /// The session's id for the answer; 0 for none.
    pub(super) session_id: i32,
    /// Whether partitions with nothing new are left out.
    incremental: bool,
    session: Option<Arc<Mutex<Session>>>,
}

impl FetchSessions {
    /// Finds, makes or ends the session that a request names, and tells what is to be read. `new_id` is a random
    /// number for a new session.
    pub(super) fn begin(&self, request: FetchRequest, new_id: i32, now: Instant) -> Result<Plan, ErrorCode> {
        match (request.session_id, request.session_epoch) {
            (id, EPOCH_NONE) => {
                self.end(id);
                Ok(Plan { readings: readings(request), session_id: 0, incremental: false, session: None })
            }
            (id, EPOCH_NEW) => {
                self.end(id);
                Ok(self.open(readings(request), new_id, now))
            }
            (id, epoch) => self.resume(id, epoch, request, now),
        }
    }

    fn end(&self, id: i32) {
        let mut inner = self.inner.lock();
        if let Some(slot) = inner.open.remove(&id) {
            inner.partitions -= slot.partitions;
        }
    }

    fn open(&self, readings: Vec<Reading>, new_id: i32, now: Instant) -> Plan {
        let mut plan = Plan { readings, session_id: 0, incremental: false, session: None };
        // Ids are positive; 0 stands for none.
        let id = (new_id & i32::MAX).max(1);
        let mut inner = self.inner.lock();
        let count = plan.readings.len();
        if !inner.make_room(count, now) || inner.open.contains_key(&id) {
            return plan;
        }
        let mut session = Session { epoch: EPOCH_NEW + 1, ..Session::default() };
        plan.readings.iter().for_each(|reading| session.set(reading.topic.clone(), reading.wanted.clone()));
        let session = Arc::new(Mutex::new(session));
        inner.partitions += count;
        inner.open.insert(id, Slot { session: session.clone(), used_at: now, partitions: count });
        (plan.session_id, plan.session) = (id, Some(session));
        plan
    }

    fn resume(&self, id: i32, epoch: i32, request: FetchRequest, now: Instant) -> Result<Plan, ErrorCode> {
        let mut inner = self.inner.lock();
        let partitions_elsewhere = inner.partitions;
        let slot = inner.open.get_mut(&id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        let shared = slot.session.clone();
        let mut session = shared.lock();
        if session.epoch != epoch {
            return Err(ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        }
        session.epoch = if epoch == i32::MAX { EPOCH_NEW + 1 } else { epoch + 1 };
        for topic in &request.forgotten_topics_data {
            topic.partitions.iter().for_each(|partition| session.forget(&topic.topic, *partition));
        }
        for reading in readings(request) {
            session.set(reading.topic, reading.wanted);
        }
        let count = session.partitions.len();
        slot.used_at = now;
        let before = std::mem::replace(&mut slot.partitions, count);
        inner.partitions = partitions_elsewhere - before + count;
        if inner.partitions > PARTITIONS_MAX {
            // The consumer starts over without a session.
            let Some(slot) = inner.open.remove(&id) else {
                return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
            };
            inner.partitions -= slot.partitions;
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        }
        drop(inner);
        let readings = session.in_turn();
        drop(session);
        Ok(Plan { readings, session_id: id, incremental: true, session: Some(shared) })
    }
}

impl Inner {
    fn make_room(&mut self, partitions: usize, now: Instant) -> bool {
        if self.open.len() >= SESSIONS_MAX {
            let oldest = self.open.iter().min_by_key(|(_, slot)| slot.used_at);
            let idle = oldest.filter(|(_, slot)| now.saturating_duration_since(slot.used_at) > IDLE_MIN);
            let Some(id) = idle.map(|(id, _)| *id) else { return false };
            if let Some(slot) = self.open.remove(&id) {
                self.partitions -= slot.partitions;
            }
        }
        self.partitions + partitions <= PARTITIONS_MAX
    }
}

fn readings(request: FetchRequest) -> Vec<Reading> {
    let topics = request.topics.into_iter();
    topics
        .flat_map(|topic| {
            let name = topic.topic;
            topic.partitions.into_iter().map(move |wanted| Reading {
                topic: name.clone(),
                wanted,
                told: None,
            })
        })
        .collect()
}

impl Session {
    fn set(&mut self, topic: Str, wanted: FetchPartition) {
        let of_topic = self.place.entry(topic.clone()).or_default();
        match of_topic.get(&wanted.partition) {
            // What the consumer was told stays true.
            Some(&at) => self.partitions[at].wanted = wanted,
            None => {
                of_topic.insert(wanted.partition, self.partitions.len());
                self.partitions.push(Reading { topic, wanted, told: None });
            }
        }
    }

    fn forget(&mut self, topic: &Str, partition: i32) {
        let Some(of_topic) = self.place.get_mut(topic) else { return };
        let Some(at) = of_topic.remove(&partition) else { return };
        if of_topic.is_empty() {
            self.place.remove(topic);
        }
        self.partitions.swap_remove(at);
        if let Some(moved) = self.partitions.get(at) {
            self.place.entry(moved.topic.clone()).or_default().insert(moved.wanted.partition, at);
        }
    }

    fn in_turn(&self) -> Vec<Reading> {
        let first = self.first.min(self.partitions.len());
        self.partitions[first..].iter().chain(&self.partitions[..first]).cloned().collect()
    }

    fn tell(&mut self, topic: &Str, partition: i32, told: Option<Told>) -> Option<usize> {
        let at = *self.place.get(topic)?.get(&partition)?;
        self.partitions[at].told = told;
        Some(at)
    }

    #[cfg(test)]
    fn validate(&self) {
        let places: usize = self.place.values().map(HashMap::len).sum();
        assert_eq!(places, self.partitions.len(), "each partition has one place");
        for (at, reading) in self.partitions.iter().enumerate() {
            assert_eq!(self.place[&reading.topic][&reading.wanted.partition], at, "places are true");
        }
    }
}

impl Plan {
    /// Whether the answer must name this partition, given what it tells (`None`: an error) and whether it has
    /// records; notes what was told.
    pub(super) fn must_tell(&self, reading: &Reading, told: Option<Told>, has_records: bool) -> bool {
        let changed = has_records || told.is_none() || told != reading.told;
        if !changed && self.incremental {
            return false;
        }
        if let Some(session) = &self.session {
            let mut session = session.lock();
            let at = session.tell(&reading.topic, reading.wanted.partition, told);
            if let (true, Some(at)) = (has_records, at) {
                session.first = (at + 1) % session.partitions.len();
            }
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test's starting point; nothing waits for real time.
mod tests {
    use millstream_protocol::messages::fetch::{FetchTopic, ForgottenTopic};

    use super::*;

    fn request(session_id: i32, session_epoch: i32, partitions: &[i32]) -> FetchRequest {
        let partition = |partition: &i32| FetchPartition { partition: *partition, ..Default::default() };
        let topic = FetchTopic {
            topic: "t".into(),
            partitions: partitions.iter().map(partition).collect(),
            ..Default::default()
        };
        FetchRequest { session_id, session_epoch, topics: vec![topic], ..Default::default() }
    }

    fn numbers(plan: &Plan) -> Vec<i32> {
        plan.readings.iter().map(|reading| reading.wanted.partition).collect()
    }

    const NOTHING_NEW: Option<Told> = Some(Told { high_watermark: 5, log_start_offset: 0 });

    #[test]
    fn a_session_remembers_its_partitions_and_tells_only_changes() {
        let (sessions, now) = (FetchSessions::default(), Instant::now());
        let plan = sessions.begin(request(0, 0, &[0, 1, 2]), 77, now).expect("a new session");
        assert_eq!((plan.session_id, numbers(&plan)), (77, vec![0, 1, 2]));
        assert!(
            plan.readings.iter().all(|reading| plan.must_tell(reading, NOTHING_NEW, false)),
            "all at first"
        );
        let plan = sessions.begin(request(77, 1, &[]), 0, now).expect("the session");
        assert_eq!(numbers(&plan), [0, 1, 2]);
        assert!(!plan.must_tell(&plan.readings[0], NOTHING_NEW, false), "nothing is new");
        assert!(plan.must_tell(&plan.readings[1], NOTHING_NEW, true), "records are");
        assert!(plan.must_tell(&plan.readings[2], None, false), "errors are");
        let plan = sessions.begin(request(77, 2, &[]), 0, now).expect("the session");
        assert_eq!(numbers(&plan), [2, 0, 1], "behind the one that had records");
        assert!(plan.must_tell(&plan.readings[0], NOTHING_NEW, false), "the error is over");
    }

    #[test]
    fn partitions_are_added_changed_and_forgotten() {
        let (sessions, now) = (FetchSessions::default(), Instant::now());
        sessions.begin(request(0, 0, &[0, 1, 2]), 7, now).expect("a new session");
        let mut change = request(7, 1, &[2, 3]);
        change.topics[0].partitions[0].fetch_offset = 9;
        change.forgotten_topics_data =
            vec![ForgottenTopic { topic: "t".into(), partitions: vec![0, 8], ..Default::default() }];
        let plan = sessions.begin(change, 0, now).expect("the session");
        assert_eq!(numbers(&plan), [2, 1, 3]);
        assert_eq!(plan.readings[0].wanted.fetch_offset, 9);
        sessions.inner.lock().open[&7].session.lock().validate();
        assert_eq!(sessions.inner.lock().partitions, 3);
    }

    #[test]
    fn a_wrong_epoch_or_id_is_refused_and_an_ended_session_is_gone() {
        let (sessions, now) = (FetchSessions::default(), Instant::now());
        sessions.begin(request(0, 0, &[0]), 7, now).expect("a new session");
        let refused =
            |id, epoch| sessions.begin(request(id, epoch, &[]), 0, now).map(|_| ()).expect_err("refused");
        assert_eq!(refused(7, 2), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
        assert_eq!(refused(8, 1), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        let plan = sessions.begin(request(7, -1, &[4]), 0, now).expect("without a session");
        assert_eq!((plan.session_id, numbers(&plan)), (0, vec![4]));
        assert_eq!(refused(7, 1), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        assert_eq!(sessions.inner.lock().partitions, 0);
    }

    #[test]
    fn when_there_are_too_many_only_an_idle_one_makes_room() {
        let (sessions, now) = (FetchSessions::default(), Instant::now());
        for id in 1..=SESSIONS_MAX as i32 {
            assert_eq!(sessions.begin(request(0, 0, &[0]), id, now).expect("made").session_id, id);
        }
        assert_eq!(sessions.begin(request(0, 0, &[0]), 5000, now).expect("served").session_id, 0);
        let later = now + IDLE_MIN + Duration::from_secs(1);
        assert_eq!(sessions.begin(request(0, 0, &[0]), 5000, later).expect("made").session_id, 5000);
        assert_eq!(sessions.inner.lock().open.len(), SESSIONS_MAX);
    }
}

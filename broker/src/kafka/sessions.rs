//! Fetch sessions (KIP-227): the broker keeps the partitions of a consumer, and its responses contain only changes.

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

/// Maximum sessions; further consumers send all partitions with each request, as before KIP-227.
const SESSIONS_MAX: usize = 1000;
/// Maximum partitions of all sessions.
const PARTITIONS_MAX: usize = 1_000_000;
/// A session that was idle for longer may be evicted.
const IDLE_MIN: Duration = Duration::from_secs(120);
/// The epoch of a request without a session.
const EPOCH_NONE: i32 = -1;
/// The epoch of a request that opens a session.
const EPOCH_NEW: i32 = 0;

/// The sessions of all connections.
#[derive(Default)]
pub(super) struct FetchSessions {
    table: Mutex<SessionTable>,
}

#[derive(Default)]
struct SessionTable {
    open: HashMap<i32, OpenSession>,
    partitions: usize,
}

struct OpenSession {
    session: Arc<Mutex<Session>>,
    used_at: Instant,
    partitions: usize,
}

/// The partitions of one consumer.
///
/// Invariant: `place` has exactly the positions in `partitions`.
#[derive(Default)]
struct Session {
    epoch: i32,
    partitions: Vec<Reading>,
    place: HashMap<Str, HashMap<i32, usize>>,
    /// The position at which the next response begins, so that a full response does not starve later partitions.
    first: usize,
}

/// One partition to read, with the state that the consumer knows.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) topic: Str,
    pub(super) wanted: FetchPartition,
    last_reported: Option<LastReported>,
}

/// The partition state in the last response, besides records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastReported {
    pub(super) high_watermark: i64,
    pub(super) log_start_offset: i64,
}

/// One fetch, with or without a session.
pub(super) struct FetchPlan {
    /// The partitions to read, in this order.
    pub(super) readings: Vec<Reading>,
    /// The session id for the response; 0 for none.
    pub(super) session_id: i32,
    /// Whether unchanged partitions are left out.
    incremental: bool,
    session: Option<Arc<Mutex<Session>>>,
}

impl FetchSessions {
    /// Opens, resumes or ends the session of a request, and returns the partitions to read. `new_id` is a random id for a
    /// new session.
    pub(super) fn begin(
        &self,
        request: FetchRequest,
        new_id: i32,
        now: Instant,
    ) -> Result<FetchPlan, ErrorCode> {
        match (request.session_id, request.session_epoch) {
            (id, EPOCH_NONE) => {
                self.end(id);
                Ok(FetchPlan {
                    readings: readings(request),
                    session_id: 0,
                    incremental: false,
                    session: None,
                })
            }
            (id, EPOCH_NEW) => {
                self.end(id);
                Ok(self.open(readings(request), new_id, now))
            }
            (id, epoch) => self.resume(id, epoch, request, now),
        }
    }

    fn end(&self, id: i32) {
        let mut table = self.table.lock();
        if let Some(open) = table.open.remove(&id) {
            table.partitions -= open.partitions;
        }
    }

    fn open(&self, readings: Vec<Reading>, new_id: i32, now: Instant) -> FetchPlan {
        let mut plan = FetchPlan { readings, session_id: 0, incremental: false, session: None };
        // Ids are positive; 0 means none.
        let id = (new_id & i32::MAX).max(1);
        let mut table = self.table.lock();
        let count = plan.readings.len();
        if !table.make_room(count, now) || table.open.contains_key(&id) {
            return plan;
        }
        let mut session = Session { epoch: EPOCH_NEW + 1, ..Session::default() };
        plan.readings.iter().for_each(|reading| session.set(reading.topic.clone(), reading.wanted.clone()));
        let session = Arc::new(Mutex::new(session));
        table.partitions += count;
        table.open.insert(id, OpenSession { session: session.clone(), used_at: now, partitions: count });
        (plan.session_id, plan.session) = (id, Some(session));
        plan
    }

    fn resume(
        &self,
        id: i32,
        epoch: i32,
        request: FetchRequest,
        now: Instant,
    ) -> Result<FetchPlan, ErrorCode> {
        let mut table = self.table.lock();
        let partitions_elsewhere = table.partitions;
        let open = table.open.get_mut(&id).ok_or(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)?;
        let shared = open.session.clone();
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
        open.used_at = now;
        let before = std::mem::replace(&mut open.partitions, count);
        table.partitions = partitions_elsewhere - before + count;
        if table.partitions > PARTITIONS_MAX {
            // The consumer starts over without a session.
            let Some(open) = table.open.remove(&id) else {
                return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
            };
            table.partitions -= open.partitions;
            return Err(ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
        }
        drop(table);
        let readings = session.in_fetch_order();
        drop(session);
        Ok(FetchPlan { readings, session_id: id, incremental: true, session: Some(shared) })
    }
}

impl SessionTable {
    fn make_room(&mut self, partitions: usize, now: Instant) -> bool {
        if self.open.len() >= SESSIONS_MAX {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.used_at);
            let idle = oldest.filter(|(_, open)| now.saturating_duration_since(open.used_at) > IDLE_MIN);
            let Some(id) = idle.map(|(id, _)| *id) else { return false };
            if let Some(open) = self.open.remove(&id) {
                self.partitions -= open.partitions;
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
                last_reported: None,
            })
        })
        .collect()
}

impl Session {
    fn set(&mut self, topic: Str, wanted: FetchPartition) {
        let of_topic = self.place.entry(topic.clone()).or_default();
        match of_topic.get(&wanted.partition) {
            // The state known to the consumer does not change.
            Some(&at) => self.partitions[at].wanted = wanted,
            None => {
                of_topic.insert(wanted.partition, self.partitions.len());
                self.partitions.push(Reading { topic, wanted, last_reported: None });
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

    fn in_fetch_order(&self) -> Vec<Reading> {
        let first = self.first.min(self.partitions.len());
        self.partitions[first..].iter().chain(&self.partitions[..first]).cloned().collect()
    }

    fn set_reported(&mut self, topic: &Str, partition: i32, state: Option<LastReported>) -> Option<usize> {
        let at = *self.place.get(topic)?.get(&partition)?;
        self.partitions[at].last_reported = state;
        Some(at)
    }

    #[cfg(test)]
    fn validate(&self) {
        let places: usize = self.place.values().map(HashMap::len).sum();
        assert_eq!(places, self.partitions.len(), "each partition has one position");
        for (at, reading) in self.partitions.iter().enumerate() {
            assert_eq!(self.place[&reading.topic][&reading.wanted.partition], at, "positions are correct");
        }
    }
}

impl FetchPlan {
    /// Whether the response must include this partition, given its state (`None`: an error) and whether it has records.
    /// If so, the state is stored as reported.
    pub(super) fn must_report(
        &self,
        reading: &Reading,
        state: Option<LastReported>,
        has_records: bool,
    ) -> bool {
        let changed = has_records || state.is_none() || state != reading.last_reported;
        if !changed && self.incremental {
            return false;
        }
        if let Some(session) = &self.session {
            let mut session = session.lock();
            let at = session.set_reported(&reading.topic, reading.wanted.partition, state);
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

    fn numbers(plan: &FetchPlan) -> Vec<i32> {
        plan.readings.iter().map(|reading| reading.wanted.partition).collect()
    }

    const UNCHANGED: Option<LastReported> = Some(LastReported { high_watermark: 5, log_start_offset: 0 });

    #[test]
    fn a_session_keeps_its_partitions_and_reports_only_changes() {
        let (sessions, now) = (FetchSessions::default(), Instant::now());
        let plan = sessions.begin(request(0, 0, &[0, 1, 2]), 77, now).expect("a new session");
        assert_eq!((plan.session_id, numbers(&plan)), (77, vec![0, 1, 2]));
        assert!(
            plan.readings.iter().all(|reading| plan.must_report(reading, UNCHANGED, false)),
            "all at first"
        );
        let plan = sessions.begin(request(77, 1, &[]), 0, now).expect("the session");
        assert_eq!(numbers(&plan), [0, 1, 2]);
        assert!(!plan.must_report(&plan.readings[0], UNCHANGED, false), "nothing has changed");
        assert!(plan.must_report(&plan.readings[1], UNCHANGED, true), "records are reported");
        assert!(plan.must_report(&plan.readings[2], None, false), "errors are reported");
        let plan = sessions.begin(request(77, 2, &[]), 0, now).expect("the session");
        assert_eq!(numbers(&plan), [2, 0, 1], "starting after the one that had records");
        assert!(plan.must_report(&plan.readings[0], UNCHANGED, false), "the error is over");
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
        sessions.table.lock().open[&7].session.lock().validate();
        assert_eq!(sessions.table.lock().partitions, 3);
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
        assert_eq!(sessions.table.lock().partitions, 0);
    }

    #[test]
    fn only_an_idle_session_is_evicted_for_a_new_one() {
        let (sessions, now) = (FetchSessions::default(), Instant::now());
        for id in 1..=SESSIONS_MAX as i32 {
            assert_eq!(sessions.begin(request(0, 0, &[0]), id, now).expect("opened").session_id, id);
        }
        assert_eq!(sessions.begin(request(0, 0, &[0]), 5000, now).expect("served").session_id, 0);
        let later = now + IDLE_MIN + Duration::from_secs(1);
        assert_eq!(sessions.begin(request(0, 0, &[0]), 5000, later).expect("opened").session_id, 5000);
        assert_eq!(sessions.table.lock().open.len(), SESSIONS_MAX);
    }
}

//! The open connections: counts for the limits, a sweep that closes idle ones, and, when memory is short,
//! closing those that hold it without progress.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

use super::{
    input::{Partial, RequestSize},
    memory_wait::MemoryWait,
};

/// A connection that sends nothing for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// A connection that stops in the middle of a request is closed after this time.
const PARTIAL_MAX: Duration = Duration::from_secs(30);
/// A connection that was used within this time is never closed for a new one.
const EVICTABLE_AFTER: Duration = Duration::from_secs(5);
/// While memory is short, connections slower than this with a request, or with reading replies, are closed.
const SLOW_BYTES_PER_SECOND: u64 = 64 << 10;
/// Connections are not judged before this time.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The open connections.
pub(super) struct Registry {
    limits: Limits,
    started: Instant,
    connections: Mutex<OpenConnections>,
    /// Notified when a connection has closed.
    left: Notify,
}

/// The limit of open connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connections_max: usize,
    pub(super) per_address_max: usize,
    /// Whether the limit on open files makes it lower than connections.max.
    pub(super) by_open_files: bool,
}

#[derive(Default)]
struct OpenConnections {
    next: u64,
    open: HashMap<u64, Arc<Activity>>,
    per_address: HashMap<IpAddr, usize>,
}

/// The sweep's view of one connection.
#[derive(Default)]
pub(super) struct Activity {
    /// Milliseconds from the registry's start to the last activity.
    at_ms: AtomicU64,
    /// Whether part of a request has arrived.
    partial: AtomicBool,
    /// Whether the client waits for a reply.
    busy: AtomicBool,
    /// Whether the incoming request takes its memory as a large one.
    is_large: AtomicBool,
    /// The incoming request, and the outgoing replies.
    incoming: Flow,
    outgoing: Flow,
    /// Set while the incoming request waits for memory.
    pub(super) memory_wait: MemoryWait,
    why: AtomicUsize,
    pub(super) close: Notify,
}

/// Bytes in transit in one direction.
#[derive(Default)]
struct Flow {
    nth: AtomicU64,
    /// Bytes received, or sent, since it began.
    moved: AtomicU64,
    /// Bytes of memory held.
    held: AtomicUsize,
    /// When progress was last seen, as [`Activity::at_ms`], and the bytes moved by then.
    checked_ms: AtomicU64,
    checked_moved: AtomicU64,
}

/// The current traffic of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// The partial request.
    pub(super) partial: Option<Partial>,
    /// Whether the client waits for a reply.
    pub(super) busy: bool,
    /// Bytes of replies that are not written yet.
    pub(super) unwritten: usize,
    /// Total bytes written.
    pub(super) written: u64,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Expelled {
    #[error("nothing was received for too long")]
    Idle,
    #[error("memory for requests is short, and this one came too slowly")]
    SlowRequest,
    #[error("memory for requests is short, and those who have some wait for each other")]
    Stuck,
    #[error("memory for replies is short, and these were read too slowly")]
    SlowReader,
    #[error("it was idle, and a new connection needed its place")]
    Evicted,
}

impl Expelled {
    const ALL: [Expelled; 5] =
        [Expelled::Idle, Expelled::SlowRequest, Expelled::Stuck, Expelled::SlowReader, Expelled::Evicted];
}

impl Flow {
    fn begin(&self, nth: u64, now_ms: u64) {
        self.nth.store(nth, Relaxed);
        self.checked_ms.store(now_ms, Relaxed);
        self.checked_moved.store(0, Relaxed);
    }

    /// Whether it holds memory and has been slow since progress was last seen.
    fn is_slow(&self, now_ms: u64) -> bool {
        let elapsed_ms = now_ms.saturating_sub(self.checked_ms.load(Relaxed));
        if self.held.load(Relaxed) == 0 || elapsed_ms < SLOW_AFTER.as_millis() as u64 {
            return false;
        }
        let moved = self.moved.load(Relaxed);
        let due = elapsed_ms.saturating_mul(SLOW_BYTES_PER_SECOND) / 1000;
        let is_slow = moved.saturating_sub(self.checked_moved.load(Relaxed)) < due;
        if !is_slow {
            self.checked_ms.store(now_ms, Relaxed);
            self.checked_moved.store(moved, Relaxed);
        }
        is_slow
    }
}

impl Activity {
    fn touch(&self, now_ms: u64, progress: Progress) {
        self.at_ms.store(now_ms, Relaxed);
        self.partial.store(progress.partial.is_some(), Relaxed);
        self.busy.store(progress.busy, Relaxed);
        let partial =
            progress.partial.unwrap_or(Partial { nth: u64::MAX, bytes: 0, size: RequestSize::Small });
        if self.incoming.nth.load(Relaxed) != partial.nth {
            self.memory_wait.reset();
            self.incoming.begin(partial.nth, now_ms);
        }
        self.is_large.store(partial.size == RequestSize::Large, Relaxed);
        self.incoming.moved.store(partial.bytes as u64, Relaxed);
        self.incoming.held.store(partial.bytes, Relaxed);
        if self.outgoing.held.swap(progress.unwritten, Relaxed) == 0 {
            // The backlog begins now; it is identified by the bytes written before it.
            self.outgoing.begin(progress.written, now_ms);
        }
        self.outgoing.moved.store(progress.written - self.outgoing.nth.load(Relaxed), Relaxed);
    }

    /// Whether the client waits, for a reply or with a request.
    fn waits_for_broker(&self) -> bool {
        self.busy.load(Relaxed) || self.memory_wait.is_waiting()
    }

    fn is_of(&self, size: RequestSize) -> bool {
        self.is_large.load(Relaxed) == (size == RequestSize::Large)
    }

    fn sends_slowly(&self, now_ms: u64) -> bool {
        // Time spent waiting for the broker does not count against the client.
        !self.memory_wait.is_waiting()
            && self.incoming.is_slow(now_ms.saturating_sub(self.memory_wait.waited_ms()))
    }

    fn expel(&self, why: Expelled) {
        self.why.store(why as usize, Relaxed);
        self.close.notify_one();
    }

    /// Why it was asked to close.
    pub(super) fn why(&self) -> Expelled {
        Expelled::ALL[self.why.load(Relaxed)]
    }
}

/// A permit for one open connection; dropping it returns it.
pub(super) struct ConnectionPermit {
    registry: Arc<Registry>,
    id: u64,
    address: IpAddr,
    pub(super) activity: Arc<Activity>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{0} connections are open, which is connections.max (none of them is idle)")]
    InAll(usize),
    #[error(
        "{0} connections are open, which is all that the limit on open files allows (none of them is idle)"
    )]
    OfOpenFiles(usize),
    #[error("{0} connections of this address are open, which is connections.max.per.ip")]
    OfAddress(usize),
}

impl Registry {
    pub(super) fn new(limits: Limits, now: Instant) -> Arc<Registry> {
        Arc::new(Registry { limits, started: now, connections: Mutex::default(), left: Notify::new() })
    }

    /// Number of open connections.
    pub(super) fn count(&self) -> usize {
        self.connections.lock().open.len()
    }

    pub(super) fn take(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<ConnectionPermit, Full> {
        let Limits { connections_max, per_address_max, by_open_files } = self.limits;
        let mut connections = self.connections.lock();
        let of_address = connections.per_address.get(&address).copied().unwrap_or(0);
        if of_address >= per_address_max {
            return Err(Full::OfAddress(of_address));
        }
        let open = connections.open.len();
        if open >= connections_max {
            return Err(if by_open_files { Full::OfOpenFiles(open) } else { Full::InAll(open) });
        }
        *connections.per_address.entry(address).or_default() += 1;
        let id = connections.next;
        connections.next += 1;
        let activity = Arc::new(Activity::default());
        connections.open.insert(id, activity.clone());
        drop(connections);
        let permit = ConnectionPermit { registry: self.clone(), id, address, activity };
        permit.touch(now, Progress::default());
        Ok(permit)
    }

    /// Closes the connection that has been idle longest, unless it was used recently; returns whether there
    /// was one.
    pub(super) fn evict_idlest(&self, now: Instant) -> bool {
        let (now_ms, evictable_ms) = (self.millis(now), EVICTABLE_AFTER.as_millis() as u64);
        let connections = self.connections.lock();
        let idle = connections.open.values().filter(|activity| !activity.waits_for_broker());
        let idlest = idle.min_by_key(|activity| activity.at_ms.load(Relaxed));
        let evicted =
            idlest.filter(|activity| now_ms.saturating_sub(activity.at_ms.load(Relaxed)) >= evictable_ms);
        evicted.inspect(|activity| activity.expel(Expelled::Evicted)).is_some()
    }

    /// Resolves when a connection has closed.
    pub(super) fn leaves(&self) -> Notified<'_> {
        self.left.notified()
    }

    /// Closes connections that were idle for too long; returns how many.
    pub(super) fn sweep(&self, now: Instant) -> usize {
        let now_ms = self.millis(now);
        let open = self.connections.lock();
        let expired = open.open.values().filter(|activity| {
            let since = Duration::from_millis(now_ms.saturating_sub(activity.at_ms.load(Relaxed)));
            let limit = if activity.partial.load(Relaxed) { PARTIAL_MAX } else { IDLE_MAX };
            since > limit && !activity.waits_for_broker()
        });
        expired.map(|activity| activity.expel(Expelled::Idle)).count()
    }

    /// Closes connections whose requests of this size arrive too slowly for the memory that they hold;
    /// returns how many.
    pub(super) fn expel_slow_requests(&self, size: RequestSize, now: Instant) -> usize {
        let now_ms = self.millis(now);
        let open = self.connections.lock();
        let of_size = open.open.values().filter(|activity| activity.is_of(size));
        let slow = of_size.filter(|activity| activity.sends_slowly(now_ms));
        slow.map(|activity| activity.expel(Expelled::SlowRequest)).count()
    }

    /// Of the connections that hold memory for a request of this size and wait for more, closes the half that
    /// holds most.
    pub(super) fn expel_starved(&self, size: RequestSize) -> usize {
        let open = self.connections.lock();
        let of_size = open.open.values().filter(|activity| activity.is_of(size));
        let starved = of_size.filter(|activity| activity.memory_wait.is_waiting());
        let mut held: Vec<_> = starved.map(|a| (a.incoming.held.load(Relaxed), a)).collect();
        held.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        held.truncate(held.len().div_ceil(2));
        held.iter().for_each(|(_, activity)| activity.expel(Expelled::Stuck));
        held.len()
    }

    /// Closes connections that read their replies too slowly; returns how many.
    pub(super) fn expel_slow_readers(&self, now: Instant) -> usize {
        let now_ms = self.millis(now);
        let open = self.connections.lock();
        let slow = open.open.values().filter(|activity| activity.outgoing.is_slow(now_ms));
        slow.map(|activity| activity.expel(Expelled::SlowReader)).count()
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64
    }
}

impl ConnectionPermit {
    /// Records activity on the connection.
    pub(super) fn touch(&self, now: Instant, progress: Progress) {
        self.activity.touch(self.registry.millis(now), progress);
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connections = self.registry.connections.lock();
        connections.open.remove(&self.id);
        if let Some(count) = connections.per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.per_address.remove(&self.address);
            }
        }
        drop(connections);
        self.registry.left.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test's starting point; nothing waits for real time.
mod tests {
    use std::net::Ipv4Addr;

    use futures::FutureExt;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn coming(nth: u64, bytes: usize) -> Progress {
        Progress { partial: Some(Partial { nth, bytes, size: RequestSize::Large }), ..Progress::default() }
    }

    fn limits(connections_max: usize, per_address_max: usize) -> Limits {
        Limits { connections_max, per_address_max, by_open_files: false }
    }

    fn close_reason(permit: &ConnectionPermit) -> Option<Expelled> {
        permit.activity.close.notified().now_or_never().map(|()| permit.activity.why())
    }

    #[test]
    fn while_memory_is_short_slow_requests_go() {
        let now = Instant::now();
        let registry = Registry::new(limits(9, 9), now);
        let permits: Vec<ConnectionPermit> =
            (0..5).map(|_| registry.take(HERE, now).expect("room")).collect();
        let [slow, fast, starved, small, later] = &permits[..] else { unreachable!("five permits") };
        [slow, fast, starved].iter().for_each(|permit| permit.touch(now, coming(0, 10_000)));
        small.touch(now, coming(0, 0));
        assert_eq!(registry.expel_slow_requests(RequestSize::Large, now), 0, "no request is judged at once");
        let then = now + SLOW_AFTER;
        fast.touch(then, coming(0, 100_000));
        let _waiting = starved.activity.memory_wait.begin(now);
        later.touch(then, coming(1, 100));
        assert_eq!(registry.expel_slow_requests(RequestSize::Small, then), 0, "they take other memory");
        assert_eq!(registry.expel_slow_requests(RequestSize::Large, then), 1);
        assert_eq!(close_reason(slow), Some(Expelled::SlowRequest));
        assert_eq!(registry.expel_starved(RequestSize::Large), 1);
        assert_eq!(close_reason(starved), Some(Expelled::Stuck));
        assert_eq!([fast, small, later].map(close_reason), [None; 3]);
    }

    #[test]
    fn a_request_is_slow_when_it_stops_however_fast_it_began() {
        let now = Instant::now();
        let registry = Registry::new(limits(9, 9), now);
        let [stops, goes_on] = [(); 2].map(|()| registry.take(HERE, now).expect("room"));
        [&stops, &goes_on].iter().for_each(|permit| permit.touch(now, coming(0, 3_000_000)));
        let then = now + SLOW_AFTER;
        assert_eq!(registry.expel_slow_requests(RequestSize::Large, then), 0);
        let later = then + SLOW_AFTER;
        goes_on.touch(later, coming(0, 3_100_000));
        assert_eq!(registry.expel_slow_requests(RequestSize::Large, later), 1);
        assert_eq!([&stops, &goes_on].map(close_reason), [Some(Expelled::SlowRequest), None]);
    }

    #[test]
    fn the_time_that_a_request_waits_for_memory_is_not_the_clients() {
        let now = Instant::now();
        let registry = Registry::new(limits(9, 9), now);
        let permit = registry.take(HERE, now).expect("room");
        let wait = &permit.activity.memory_wait;
        permit.touch(now, coming(0, 10_000));
        let then = now + SLOW_AFTER * 20;
        let waiting = wait.begin(now);
        assert_eq!(registry.expel_slow_requests(RequestSize::Large, then), 0, "it waits for the broker");
        assert_eq!(registry.sweep(now + IDLE_MAX * 2), 0, "for however long");
        waiting.end(then);
        assert!(!wait.is_waiting());
        let soon = then + SLOW_AFTER / 2;
        assert_eq!(registry.expel_slow_requests(RequestSize::Large, soon), 0, "it has had half a second");
        assert_eq!(
            registry.expel_slow_requests(RequestSize::Large, then + SLOW_AFTER),
            1,
            "and did nothing with a second"
        );
        std::mem::forget(waiting);
        permit.touch(then, coming(1, 10_000));
        assert_eq!(
            registry.expel_slow_requests(RequestSize::Large, then + SLOW_AFTER / 2),
            0,
            "the next request begins anew"
        );
    }

    #[test]
    fn an_idle_connection_makes_room_and_one_that_is_used_does_not() {
        let now = Instant::now();
        let registry = Registry::new(limits(9, 9), now);
        let [idle, used, busy] = [(); 3].map(|()| registry.take(HERE, now).expect("room"));
        busy.touch(now, Progress { busy: true, ..Progress::default() });
        assert!(!registry.evict_idlest(now), "all were used just now");
        used.touch(now + Duration::from_secs(1), Progress::default());
        let later = now + EVICTABLE_AFTER;
        assert!(registry.evict_idlest(later));
        assert_eq!([&idle, &used, &busy].map(close_reason), [Some(Expelled::Evicted), None, None]);
        drop(idle);
        assert!(!registry.evict_idlest(later), "the others are busy, or were used just now");
    }

    #[test]
    fn while_memory_is_short_slow_readers_go() {
        let now = Instant::now();
        let registry = Registry::new(limits(9, 9), now);
        let permits: Vec<ConnectionPermit> =
            (0..3).map(|_| registry.take(HERE, now).expect("room")).collect();
        let [slow, fast, done] = &permits[..] else { unreachable!("three permits") };
        let going = |unwritten, written| Progress { unwritten, written, ..Progress::default() };
        permits.iter().for_each(|permit| permit.touch(now, going(1 << 20, 5000)));
        let then = now + SLOW_AFTER;
        fast.touch(then, going(1 << 19, 5000 + (1 << 19)));
        done.touch(then, going(0, 5000 + (1 << 20)));
        assert_eq!(registry.expel_slow_readers(then), 1);
        assert_eq!(close_reason(slow), Some(Expelled::SlowReader));
        done.touch(then, going(100, 5000 + (1 << 20)));
        assert_eq!(registry.expel_slow_readers(then), 1, "only the first again");
    }

    #[test]
    fn seats_are_limited_and_come_back() {
        let now = Instant::now();
        let registry = Registry::new(limits(2, 1), now);
        let first = registry.take(HERE, now).expect("room");
        assert_eq!(registry.take(HERE, now).map(|_| ()), Err(Full::OfAddress(1)));
        let other = registry.take(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), now).expect("room");
        assert_eq!(
            registry.take(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), now).map(|_| ()),
            Err(Full::InAll(2))
        );
        drop(first);
        registry.take(HERE, now).expect("the permit is free again");
        drop(other);
        assert_eq!(registry.count(), 0);
    }

    #[test]
    fn only_who_does_nothing_for_too_long_is_told_to_close() {
        let now = Instant::now();
        let registry = Registry::new(limits(9, 9), now);
        let idle = registry.take(HERE, now).expect("room");
        let partial = registry.take(HERE, now).expect("room");
        let waits = registry.take(HERE, now).expect("room");
        partial.touch(now, coming(0, 3));
        waits.touch(now, Progress { busy: true, ..Progress::default() });
        assert_eq!(registry.sweep(now + PARTIAL_MAX + Duration::from_secs(1)), 1);
        assert!(partial.activity.close.notified().now_or_never().is_some());
        assert!(idle.activity.close.notified().now_or_never().is_none());
        assert_eq!(registry.sweep(now + IDLE_MAX + Duration::from_secs(1)), 2);
        assert!(waits.activity.close.notified().now_or_never().is_none());
    }
}

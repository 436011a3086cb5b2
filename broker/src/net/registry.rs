//! Who is connected: counts for the limits, a sweep that closes those who do nothing, and, when memory is short, the end
//! of those who hold it without need.

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
use tokio::sync::Notify;

use super::input::Partial;

/// A connection that sends nothing for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// A connection that stops in the middle of a request is closed after this time.
const PARTIAL_MAX: Duration = Duration::from_secs(30);
/// While memory is short, whoever is slower than this with a request, or with reading replies, has to go.
const SLOW_BYTES_PER_SECOND: u64 = 64 << 10;
/// Not judged before that.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The open connections.
pub(super) struct Registry {
    connections_max: usize,
    per_address_max: usize,
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    open: HashMap<u64, Arc<Activity>>,
    per_address: HashMap<IpAddr, usize>,
}

/// What the sweep sees of one connection.
#[derive(Default)]
pub(super) struct Activity {
    /// Milliseconds from the registry's start to the last thing that happened.
    at_ms: AtomicU64,
    /// Whether part of a request has arrived.
    partial: AtomicBool,
    /// Whether the client waits for a reply.
    busy: AtomicBool,
    /// The request that is coming in, and the replies that are going out.
    incoming: Flow,
    outgoing: Flow,
    /// Whether the request stopped because there is no memory for it here.
    pub(super) starved: AtomicBool,
    why: AtomicUsize,
    pub(super) close: Notify,
}

/// Bytes on their way.
#[derive(Default)]
struct Flow {
    nth: AtomicU64,
    /// When it began, as [`Activity::at_ms`].
    began_ms: AtomicU64,
    /// Bytes that have come, or gone, since.
    moved: AtomicU64,
    /// Bytes of memory that it takes.
    held: AtomicUsize,
}

/// What a connection has under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// The request of which a part has arrived.
    pub(super) partial: Option<Partial>,
    /// Whether the client waits for a reply.
    pub(super) busy: bool,
    /// Bytes of replies that are not written yet.
    pub(super) unwritten: usize,
    /// Bytes that were written in the connection's life.
    pub(super) written: u64,
}

/// Why a connection is told to close.
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
}

impl Expelled {
    const ALL: [Expelled; 4] = [Expelled::Idle, Expelled::SlowRequest, Expelled::Stuck, Expelled::SlowReader];
}

impl Flow {
    fn begin(&self, nth: u64, now_ms: u64) {
        self.nth.store(nth, Relaxed);
        self.began_ms.store(now_ms, Relaxed);
    }

    fn is_slow(&self, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.began_ms.load(Relaxed));
        let due = age_ms.saturating_mul(SLOW_BYTES_PER_SECOND) / 1000;
        self.held.load(Relaxed) > 0
            && age_ms >= SLOW_AFTER.as_millis() as u64
            && self.moved.load(Relaxed) < due
    }
}

impl Activity {
    fn touch(&self, now_ms: u64, progress: Progress) {
        self.at_ms.store(now_ms, Relaxed);
        self.partial.store(progress.partial.is_some(), Relaxed);
        self.busy.store(progress.busy, Relaxed);
        let partial = progress.partial.unwrap_or(Partial { nth: u64::MAX, bytes: 0 });
        if self.incoming.nth.load(Relaxed) != partial.nth {
            self.incoming.begin(partial.nth, now_ms);
        }
        self.incoming.moved.store(partial.bytes as u64, Relaxed);
        self.incoming.held.store(partial.bytes, Relaxed);
        if self.outgoing.held.swap(progress.unwritten, Relaxed) == 0 {
            // The backlog begins now; its number is what was written before it.
            self.outgoing.begin(progress.written, now_ms);
        }
        self.outgoing.moved.store(progress.written - self.outgoing.nth.load(Relaxed), Relaxed);
    }

    fn expel(&self, why: Expelled) {
        self.why.store(why as usize, Relaxed);
        self.close.notify_one();
    }

    /// Why it was told to close.
    pub(super) fn why(&self) -> Expelled {
        Expelled::ALL[self.why.load(Relaxed)]
    }
}

/// A place among the open connections; dropping it leaves.
pub(super) struct Seat {
    registry: Arc<Registry>,
    id: u64,
    address: IpAddr,
    pub(super) activity: Arc<Activity>,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{0} connections are open, which is connections.max")]
    InAll(usize),
    #[error("{0} connections of this address are open, which is connections.max.per.ip")]
    OfAddress(usize),
}

impl Registry {
    pub(super) fn new(connections_max: usize, per_address_max: usize, now: Instant) -> Arc<Registry> {
        Arc::new(Registry { connections_max, per_address_max, started: now, inner: Mutex::default() })
    }

    /// Connections that are open.
    pub(super) fn count(&self) -> usize {
        self.inner.lock().open.len()
    }

    pub(super) fn take(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Seat, Full> {
        let mut inner = self.inner.lock();
        if inner.open.len() >= self.connections_max {
            return Err(Full::InAll(inner.open.len()));
        }
        let of_address = inner.per_address.entry(address).or_default();
        if *of_address >= self.per_address_max {
            return Err(Full::OfAddress(*of_address));
        }
        *of_address += 1;
        let id = inner.next;
        inner.next += 1;
        let activity = Arc::new(Activity::default());
        inner.open.insert(id, activity.clone());
        drop(inner);
        let seat = Seat { registry: self.clone(), id, address, activity };
        seat.touch(now, Progress::default());
        Ok(seat)
    }

    /// Tells those who have done nothing for too long to close; returns how many.
    pub(super) fn sweep(&self, now: Instant) -> usize {
        let now_ms = self.millis(now);
        let open = self.inner.lock();
        let expired = open.open.values().filter(|activity| {
            let since = Duration::from_millis(now_ms.saturating_sub(activity.at_ms.load(Relaxed)));
            let limit = if activity.partial.load(Relaxed) { PARTIAL_MAX } else { IDLE_MAX };
            since > limit && !activity.busy.load(Relaxed)
        });
        expired.map(|activity| activity.expel(Expelled::Idle)).count()
    }

    /// Tells those to close whose requests come too slowly for the memory that they hold; returns how many.
    pub(super) fn expel_slow_requests(&self, now: Instant) -> usize {
        let now_ms = self.millis(now);
        let open = self.inner.lock();
        let slow = open.open.values().filter(|a| a.incoming.is_slow(now_ms) && !a.starved.load(Relaxed));
        slow.map(|activity| activity.expel(Expelled::SlowRequest)).count()
    }

    /// Of those who hold memory for a request and wait for more of it, tells the half to close that holds most.
    pub(super) fn expel_starved(&self) -> usize {
        let open = self.inner.lock();
        let starved = open.open.values().filter(|a| a.starved.load(Relaxed));
        let mut held: Vec<_> = starved.map(|a| (a.incoming.held.load(Relaxed), a)).collect();
        held.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        held.truncate(held.len().div_ceil(2));
        held.iter().for_each(|(_, activity)| activity.expel(Expelled::Stuck));
        held.len()
    }

    /// Tells those to close who read their replies too slowly; returns how many.
    pub(super) fn expel_slow_readers(&self, now: Instant) -> usize {
        let now_ms = self.millis(now);
        let open = self.inner.lock();
        let slow = open.open.values().filter(|a| a.outgoing.is_slow(now_ms));
        slow.map(|activity| activity.expel(Expelled::SlowReader)).count()
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64
    }
}

impl Seat {
    /// Something happened on the connection.
    pub(super) fn touch(&self, now: Instant, progress: Progress) {
        self.activity.touch(self.registry.millis(now), progress);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.registry.inner.lock();
        inner.open.remove(&self.id);
        if let Some(count) = inner.per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inner.per_address.remove(&self.address);
            }
        }
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
        Progress { partial: Some(Partial { nth, bytes }), ..Progress::default() }
    }

    fn is_told(seat: &Seat) -> Option<Expelled> {
        seat.activity.close.notified().now_or_never().map(|()| seat.activity.why())
    }

    #[test]
    fn while_memory_is_short_slow_requests_go() {
        let now = Instant::now();
        let registry = Registry::new(9, 9, now);
        let seats: Vec<Seat> = (0..5).map(|_| registry.take(HERE, now).expect("room")).collect();
        let [slow, fast, starved, small, later] = &seats[..] else { unreachable!("five seats") };
        [slow, fast, starved].iter().for_each(|seat| seat.touch(now, coming(0, 10_000)));
        small.touch(now, coming(0, 0));
        assert_eq!(registry.expel_slow_requests(now), 0, "nobody is judged at once");
        let then = now + SLOW_AFTER;
        fast.touch(then, coming(0, 100_000));
        starved.activity.starved.store(true, Relaxed);
        later.touch(then, coming(1, 100));
        assert_eq!(registry.expel_slow_requests(then), 1);
        assert_eq!(is_told(slow), Some(Expelled::SlowRequest));
        assert_eq!(registry.expel_starved(), 1);
        assert_eq!(is_told(starved), Some(Expelled::Stuck));
        assert_eq!([fast, small, later].map(is_told), [None; 3]);
    }

    #[test]
    fn while_memory_is_short_slow_readers_go() {
        let now = Instant::now();
        let registry = Registry::new(9, 9, now);
        let seats: Vec<Seat> = (0..3).map(|_| registry.take(HERE, now).expect("room")).collect();
        let [slow, fast, done] = &seats[..] else { unreachable!("three seats") };
        let going = |unwritten, written| Progress { unwritten, written, ..Progress::default() };
        seats.iter().for_each(|seat| seat.touch(now, going(1 << 20, 5000)));
        let then = now + SLOW_AFTER;
        fast.touch(then, going(1 << 19, 5000 + (1 << 19)));
        done.touch(then, going(0, 5000 + (1 << 20)));
        assert_eq!(registry.expel_slow_readers(then), 1);
        assert_eq!(is_told(slow), Some(Expelled::SlowReader));
        done.touch(then, going(100, 5000 + (1 << 20)));
        assert_eq!(registry.expel_slow_readers(then), 1, "only the first again");
    }

    #[test]
    fn seats_are_limited_and_come_back() {
        let now = Instant::now();
        let registry = Registry::new(2, 1, now);
        let first = registry.take(HERE, now).expect("room");
        assert_eq!(registry.take(HERE, now).map(|_| ()), Err(Full::OfAddress(1)));
        let other = registry.take(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), now).expect("room");
        assert_eq!(
            registry.take(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), now).map(|_| ()),
            Err(Full::InAll(2))
        );
        drop(first);
        registry.take(HERE, now).expect("the seat is free again");
        drop(other);
        assert_eq!(registry.count(), 0);
    }

    #[test]
    fn only_who_does_nothing_for_too_long_is_told_to_close() {
        let now = Instant::now();
        let registry = Registry::new(9, 9, now);
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

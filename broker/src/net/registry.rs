//! Who is connected: counts for the limits, and a sweep that closes those who do nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A connection that sends nothing for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// A connection that stops in the middle of a request is closed after this time.
const PARTIAL_MAX: Duration = Duration::from_secs(30);

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
    pub(super) close: Notify,
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
        seat.touch(now, false, false);
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
        expired.map(|activity| activity.close.notify_one()).count()
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64
    }
}

impl Seat {
    /// Something happened on the connection.
    pub(super) fn touch(&self, now: Instant, partial: bool, busy: bool) {
        self.activity.at_ms.store(self.registry.millis(now), Relaxed);
        self.activity.partial.store(partial, Relaxed);
        self.activity.busy.store(busy, Relaxed);
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
        partial.touch(now, true, false);
        waits.touch(now, false, true);
        assert_eq!(registry.sweep(now + PARTIAL_MAX + Duration::from_secs(1)), 1);
        assert!(partial.activity.close.notified().now_or_never().is_some());
        assert!(idle.activity.close.notified().now_or_never().is_none());
        assert_eq!(registry.sweep(now + IDLE_MAX + Duration::from_secs(1)), 2);
        assert!(waits.activity.close.notified().now_or_never().is_none());
    }
}

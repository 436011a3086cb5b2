//! The application that stops asking for events: after a while its place goes to others, until it asks again.

use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Change, Coordinator, Ended, Late};
use crate::{clock, consumer::group::membership::MembershipEvent};

/// Whether the application waits for an event, and since when it does not.
#[derive(Debug)]
pub(in crate::consumer::group) struct Presence {
    away_since: Mutex<Option<Instant>>,
}

impl Presence {
    pub(in crate::consumer::group) fn new() -> Presence {
        Presence { away_since: Mutex::new(Some(clock::now())) }
    }

    /// The application waits until what is returned is dropped.
    pub(in crate::consumer::group) fn here(&self) -> Here<'_> {
        *self.away_since.lock() = None;
        Here(self)
    }

    /// Since when the application is away; none while it is here.
    fn away_since(&self) -> Option<Instant> {
        *self.away_since.lock()
    }
}

/// An application that waits for an event.
pub(in crate::consumer::group) struct Here<'a>(&'a Presence);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        *self.0.away_since.lock() = Some(clock::now());
    }
}

impl Coordinator {
    /// When the application has been away for too long, unless it comes back before.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.presence.away_since()?.checked_add(self.link.config.poll_interval_max)
    }

    /// Whether it has been away for too long by now.
    pub(super) fn overdue(&self) -> Option<Late> {
        let since = self.presence.away_since()?;
        self.overdue_at().filter(|at| *at <= clock::now()).map(|_| Late::Overdue { since })
    }

    /// Gives the application's place to others, and waits until it is back. A member with a name keeps its place for the
    /// session timeout, since it sends no heartbeats from now on.
    pub(super) async fn part_with_overdue(&mut self) -> Result<Option<MembershipEvent>, Ended> {
        let Some(Late::Overdue { since }) = self.overdue() else { return Ok(None) };
        let (group, away_max) = (&self.link.config.group, self.link.config.poll_interval_max);
        tracing::warn!(group, ?away_max, "the application asks for nothing: its member leaves the group");
        self.leave_group().await;
        let lost = match self.membership.begin_anew(clock::now()) {
            Some(MembershipEvent::Lost(lost)) => lost,
            _ => Vec::new(),
        };
        let (back, mut is_back) = oneshot::channel();
        self.report(Change::Overdue { since, lost, back }).await?;
        loop {
            tokio::select! {
                biased;
                // Where the application is gone for good, the orders end too.
                _ = &mut is_back => return Ok(None),
                order = self.order() => self.serve(order).await?,
            }
        }
    }
}

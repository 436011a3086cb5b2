//! Tells on standard error when records do not get through, and when they do again: a producer that tries on is silent.

use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_client::producer::Producer;
use tokio::{sync::oneshot, task::JoinHandle};

use super::clock;

/// It is looked so often whether records get through.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A stall that ends sooner is not reported.
const SILENT_MAX: Duration = Duration::from_secs(2);

/// Looks after a producer.
pub struct StallWatch {
    ended: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl StallWatch {
    /// Must be called on a tokio runtime. `tried` is how long a record is tried.
    pub fn new(producer: Arc<Producer>, tried: Duration) -> StallWatch {
        let (ended, mut end) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut stall, mut goes_on) = (Stall::default(), true);
            while goes_on {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    // Ended, or dropped: once more, for what has changed since the last check.
                    _ = &mut end => goes_on = false,
                }
                if let Some(event) = stall.check(producer.trouble(), clock::monotonic()) {
                    // Where a line of progress stands, it takes its place.
                    let clear = if io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
                    // Nothing depends on it.
                    let _ = io::stderr().write_all(format!("{clear}{}\n", words(&event, tried)).as_bytes());
                }
            }
        });
        StallWatch { ended, task }
    }

    /// Ends; nothing more is printed, and the producer is released.
    pub async fn end(self) {
        drop(self.ended);
        // It has nothing to give; were it to panic, that was said.
        let _ = self.task.await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum StallEvent {
    Stuck(String),
    Through,
}

fn words(event: &StallEvent, tried: Duration) -> String {
    match event {
        StallEvent::Stuck(reason) => format!(
            "millstream: records do not get through, each is tried for {} s; the last try: {reason}",
            tried.as_secs()
        ),
        StallEvent::Through => "millstream: records get through again".to_string(),
    }
}

/// Since when records have not got through, and whether that was reported.
#[derive(Default)]
struct Stall {
    since: Option<Instant>,
    reported: bool,
}

impl Stall {
    fn check(&mut self, problem: Option<String>, now: Instant) -> Option<StallEvent> {
        let Some(reason) = problem else {
            self.since = None;
            return std::mem::take(&mut self.reported).then_some(StallEvent::Through);
        };
        let since = *self.since.get_or_insert(now);
        if self.reported || now.saturating_duration_since(since) < SILENT_MAX {
            return None;
        }
        self.reported = true;
        Some(StallEvent::Stuck(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_reported_once_when_it_lasts_and_so_is_its_end() {
        let (mut stall, zero) = (Stall::default(), clock::monotonic());
        let mut check = |ms, problem: Option<&str>| {
            stall.check(problem.map(String::from), zero + Duration::from_millis(ms))
        };
        assert_eq!(check(0, Some("short")), None);
        assert_eq!(check(1_999, None), None, "it was over before it was reported");
        assert_eq!(check(2_000, Some("long")), None);
        assert_eq!(check(4_000, Some("long")), Some(StallEvent::Stuck("long".to_string())));
        assert_eq!(check(9_000, Some("long")), None, "once");
        assert_eq!(check(9_250, None), Some(StallEvent::Through));
        assert_eq!(check(9_500, None), None);
    }
}

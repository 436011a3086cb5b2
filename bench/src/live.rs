//! What is known of a measurement while it runs: how far it has come, what it has made, and whether it stood still itself.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;

use super::clock;

/// The line of progress is written anew so often.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// It is looked so often whether time goes on.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Standing still for longer says that times are not the broker's alone.
const STILL_MAX: Duration = Duration::from_millis(100);

/// How far a measurement has come, and what is to be removed when it is interrupted.
pub struct Live {
    shown: bool,
    what: Mutex<&'static str>,
    all: AtomicU64,
    done: AtomicU64,
    made: Mutex<Vec<String>>,
}

impl Live {
    /// Nothing is done yet; `shown` says whether standard error shows the progress.
    pub fn new(shown: bool) -> Live {
        let (all, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Live { shown, what: Mutex::new("preparing"), all, done, made: Mutex::default() }
    }

    /// From now on `all` records are written or read.
    pub(super) fn begin(&self, what: &'static str, all: u64) {
        *self.what.lock() = what;
        self.done.store(0, Relaxed);
        self.all.store(all, Relaxed);
    }

    pub(super) fn add(&self, records: u64) {
        self.done.fetch_add(records, Relaxed);
    }

    /// A topic is there now, or soon.
    pub(super) fn made(&self, topic: &str) {
        self.made.lock().push(topic.to_string());
    }

    pub(super) fn removed(&self, topic: &str) {
        self.made.lock().retain(|made| made != topic);
    }

    /// Topics that are to be removed.
    pub(super) fn left(&self) -> Vec<String> {
        self.made.lock().clone()
    }

    /// Shows how far it has come, for ever.
    pub async fn show(&self) {
        loop {
            tokio::time::sleep(SHOW_EVERY).await;
            self.write(&format!("\r{}\x1b[K", self.line()));
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.write("\r\x1b[K");
    }

    fn write(&self, text: &str) {
        let mut error = io::stderr();
        if self.shown {
            // Progress may be lost.
            let _ = error.write_all(text.as_bytes()).and_then(|()| error.flush());
        }
    }

    fn line(&self) -> String {
        let (what, done, all) = (*self.what.lock(), self.done.load(Relaxed), self.all.load(Relaxed));
        match all {
            0 => what.to_string(),
            all => {
                let s = if all == 1 { "" } else { "s" };
                format!("{what}: {done} of {all} record{s}, {} %", done.min(all) * 100 / all)
            }
        }
    }
}

/// Notices when this process does not run, or its machine sleeps.
pub(super) struct StillWatch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl StillWatch {
    pub(super) fn begin() -> StillWatch {
        let ended = Arc::new(AtomicBool::new(false));
        let stop = ended.clone();
        let thread = std::thread::spawn(move || {
            let (mut longest, mut before) = (Duration::ZERO, clock::since_boot());
            while !stop.load(Relaxed) {
                std::thread::sleep(LOOK_EVERY);
                let now = clock::since_boot();
                longest = longest.max(now.saturating_sub(before).saturating_sub(LOOK_EVERY));
                before = now;
            }
            longest
        });
        StillWatch { ended, thread }
    }

    /// How long it stood still at most, if that was long.
    pub(super) fn end(self) -> Option<Duration> {
        self.ended.store(true, Relaxed);
        self.thread.join().ok().filter(|longest| *longest > STILL_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_done_and_how_much_of_it() {
        let live = Live::new(false);
        assert_eq!(live.line(), "preparing");
        live.begin("writing", 400);
        live.add(100);
        live.add(50);
        assert_eq!(live.line(), "writing: 150 of 400 records, 37 %");
        live.begin("reading", 10);
        assert_eq!(live.line(), "reading: 0 of 10 records, 0 %");
    }

    #[test]
    fn what_was_made_is_known_until_it_is_removed() {
        let live = Live::new(false);
        live.made("a");
        live.made("b");
        live.removed("a");
        assert_eq!(live.left(), ["b"]);
    }
}

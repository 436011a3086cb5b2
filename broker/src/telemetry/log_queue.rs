//! Writes log lines to their output on a separate thread, so that an output that blocks or fails loses log
//! lines and has no other effect.
//!
//! Invariants: 1. A thread that logs never waits for the output. 2. The queue holds at most
//! [`QUEUED_BYTES_MAX`] bytes, and as many again are being written. 3. Every line is written or counted as
//! dropped.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of log lines waiting to be written; later lines are dropped.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// The queue of this process's log.
static PROCESS_LOG: OnceLock<LogQueue> = OnceLock::new();

/// A queue of log lines. Clones are the same queue.
#[derive(Clone)]
pub(super) struct LogQueue(Arc<QueueState>);

struct QueueState {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Lines dropped since the start.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    /// The thread holds lines that are not written yet.
    writing: bool,
}

/// Dropped lines of this process's log since the start.
pub fn dropped_log_lines() -> u64 {
    PROCESS_LOG.get().map_or(0, |queue| queue.0.dropped.load(Relaxed))
}

/// Waits until this process's log lines are written, at most for the given time.
pub fn flush_log(wait_max: Duration) {
    if let Some(queue) = PROCESS_LOG.get() {
        queue.flush(wait_max);
    }
}

impl LogQueue {
    /// The queue to standard error, with its thread; the first call starts both.
    pub(super) fn of_process() -> LogQueue {
        PROCESS_LOG.get_or_init(|| LogQueue::start(Stderr)).clone()
    }

    /// A queue that writes to `out`. If the thread cannot be started, all lines are dropped.
    fn start(out: impl Write + Send + 'static) -> LogQueue {
        let waiting = Mutex::new(Waiting::default());
        let queue =
            LogQueue(Arc::new(QueueState { waiting, changed: Condvar::new(), dropped: AtomicU64::new(0) }));
        let (state, name) = (queue.0.clone(), "log".to_string());
        // Without the thread the queue fills up, and drops.
        let _ = std::thread::Builder::new().name(name).spawn(move || state.write_all(out));
        queue
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.0.waiting.lock();
        if waiting.bytes.len() + line.len() > QUEUED_BYTES_MAX {
            self.0.dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        if waiting.lines == 1 {
            self.0.changed.notify_all();
        }
    }

    fn flush(&self, wait_max: Duration) {
        let mut waiting = self.0.waiting.lock();
        let unwritten = |waiting: &mut Waiting| waiting.writing || waiting.lines > 0;
        self.0.changed.wait_while_for(&mut waiting, unwritten, wait_max);
    }
}

impl QueueState {
    /// Writes lines as they arrive, for as long as the process lives.
    fn write_all(&self, mut out: impl Write) {
        let (mut bytes, mut reported) = (Vec::new(), 0);
        loop {
            let lines = self.take(&mut bytes);
            let written = out.write_all(&bytes).and_then(|()| {
                let dropped = self.dropped.load(Relaxed);
                if dropped > reported {
                    let count = dropped - reported;
                    // One line is one write.
                    let line = format!("{count} log lines dropped: the log's output did not take them\n");
                    out.write_all(line.as_bytes())?;
                    reported = dropped;
                }
                out.flush()
            });
            if written.is_err() {
                // Some of them may have been written: when the output fails, the count may be slightly too
                // high.
                self.dropped.fetch_add(lines, Relaxed);
            }
        }
    }

    /// Waits for lines and swaps them all with the written ones; returns their number.
    fn take(&self, bytes: &mut Vec<u8>) -> u64 {
        bytes.clear();
        // Releases the memory of a burst.
        bytes.shrink_to(QUEUED_BYTES_MAX / 16);
        let mut waiting = self.waiting.lock();
        waiting.writing = false;
        self.changed.notify_all();
        self.changed.wait_while(&mut waiting, |waiting| waiting.lines == 0);
        waiting.writing = true;
        std::mem::swap(&mut waiting.bytes, bytes);
        std::mem::take(&mut waiting.lines)
    }
}

impl MakeWriter<'_> for LogQueue {
    type Writer = LogQueue;

    fn make_writer(&self) -> LogQueue {
        self.clone()
    }
}

/// Each call has a whole line, as the formatter writes it.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error. If another process made it non-blocking, it is polled.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match io::stderr().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let stderr = io::stderr();
                    poll(&mut [PollFd::new(&stderr.as_fd(), PollFlags::OUT)], None)?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// An output that blocks each write until the test sends its result.
    struct Gate {
        writes: Sender<String>,
        results: Receiver<io::Result<()>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writes.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
            self.results.recv().map_err(io::Error::other)??;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (LogQueue, Receiver<String>, SyncSender<io::Result<()>>) {
        let (writes, written) = channel();
        let (results_tx, results) = sync_channel(100);
        (LogQueue::start(Gate { writes, results }), written, results_tx)
    }

    fn next(written: &Receiver<String>) -> String {
        written.recv_timeout(LONG).expect("it is written")
    }

    #[test]
    fn a_blocked_output_loses_lines_and_gets_their_number_when_it_continues() {
        let (queue, written, results) = gated();
        queue.push(b"first\n");
        assert_eq!(next(&written), "first\n");
        // The thread is blocked: one full queue is kept, and the rest is dropped at once.
        let line = vec![b'x'; 1024];
        let sent = (QUEUED_BYTES_MAX / line.len()) as u64 + 7;
        (0..sent).for_each(|_| queue.push(&line));
        assert_eq!(queue.0.dropped.load(Relaxed), 7);
        queue.flush(Duration::from_millis(1));
        results.send(Ok(())).expect("it waits");
        assert_eq!(next(&written).len(), "7 log lines dropped: the log's output did not take them\n".len());
        results.send(Ok(())).expect("it waits");
        assert_eq!(next(&written).len(), QUEUED_BYTES_MAX);
        results.send(Ok(())).expect("it waits");
        queue.flush(LONG);
        assert!(!queue.0.waiting.lock().writing);
    }

    #[test]
    fn a_failed_output_is_retried_with_the_next_lines() {
        let (queue, written, results) = gated();
        for line in ["one\n", "two\n"] {
            queue.push(line.as_bytes());
            assert_eq!(next(&written), line);
            results.send(Err(io::ErrorKind::StorageFull.into())).expect("it waits");
            queue.flush(LONG);
        }
        assert_eq!(queue.0.dropped.load(Relaxed), 2);
        queue.push(b"three\n");
        assert_eq!(next(&written), "three\n");
        results.send(Ok(())).expect("it waits");
        assert!(next(&written).starts_with("2 log lines dropped"));
        results.send(Ok(())).expect("it waits");
        queue.flush(LONG);
        queue.push(b"four\n");
        assert_eq!(next(&written), "four\n");
        results.send(Ok(())).expect("it waits");
        assert!(written.recv_timeout(Duration::from_millis(10)).is_err(), "they are reported once");
    }
}

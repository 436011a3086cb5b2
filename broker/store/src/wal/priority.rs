//! The real-time priority of the log's writer.

use std::io;

/// After this many short writes in a row the load is taken to be single records, each of which waits for its
/// write.
const SHORT_WRITES: u32 = 16;

/// The real-time priority of the writer's thread, held while writes are short.
///
/// A synced write blocks twice: for the data and for the device's flush. After each, a thread of ordinary
/// priority may find the processor busy until the scheduler's next tick, and every record of the write waits
/// with it. Writes of a busy log are long and gather many calls anyway: priority there costs more processor
/// time than it saves.
pub(super) struct Priority<S> {
    /// 1 to 99; 0 leaves the thread's priority unchanged.
    raised: u8,
    set: S,
    is_raised: bool,
    short_writes: u32,
}

impl Priority<fn(u8) -> io::Result<()>> {
    /// Configures the calling thread. If the system refuses `raised`, a log line says so and the priority
    /// stays unchanged.
    pub(super) fn of_this_thread(raised: u8) -> Self {
        Priority::new(raised, set_realtime)
    }
}

impl<S: FnMut(u8) -> io::Result<()>> Priority<S> {
    fn new(raised: u8, set: S) -> Self {
        let mut priority = Priority { raised, set, is_raised: false, short_writes: 0 };
        // Tried at once, so that the operator learns of a refusal at the start.
        priority.raise(true);
        priority.raise(false);
        priority
    }

    /// Records the duration of a write.
    pub(super) fn wrote(&mut self, is_long: bool) {
        self.short_writes = if is_long { 0 } else { self.short_writes.saturating_add(1) };
        self.raise(self.short_writes >= SHORT_WRITES);
    }

    fn raise(&mut self, raise: bool) {
        if self.raised == 0 || self.is_raised == raise {
            return;
        }
        match (self.set)(if raise { self.raised } else { 0 }) {
            Ok(()) => self.is_raised = raise,
            Err(error) => {
                let priority = self.raised;
                tracing::info!(priority, %error, "cannot raise the log writer's priority; latencies may be higher (wal.writer.priority)");
                self.raised = 0;
            }
        }
    }
}

/// Sets the calling thread's real-time priority (`SCHED_FIFO`); 0 selects the ordinary scheduler.
fn set_realtime(priority: u8) -> io::Result<()> {
    let policy = if priority == 0 { libc::SCHED_OTHER } else { libc::SCHED_FIFO };
    let param = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: the system reads `param` during the call and does not retain it; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &param) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The priorities that a sequence of `writes` sets; `true` is a long one.
    fn set_by(raised: u8, writes: &[bool]) -> Vec<u8> {
        let mut set = Vec::new();
        let mut priority = Priority::new(raised, |to| {
            set.push(to);
            Ok(())
        });
        writes.iter().for_each(|is_long| priority.wrote(*is_long));
        set
    }

    #[test]
    fn short_writes_raise_it_and_a_long_one_ends_that() {
        let tried = [10, 0];
        assert_eq!(set_by(10, &[false; 15]), tried);
        assert_eq!(set_by(10, &[false; 40]), [&tried[..], &[10]].concat());
        let writes = [[false; 16].as_slice(), &[true], &[false; 15], &[true], &[false; 16]].concat();
        assert_eq!(set_by(10, &writes), [&tried[..], &[10, 0, 10]].concat());
        assert_eq!(set_by(0, &writes), [], "it stays as it is");
    }

    #[test]
    fn a_system_that_refuses_is_asked_once() {
        let mut asked = 0;
        let mut priority = Priority::new(10, |_| {
            asked += 1;
            Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        (0..40).for_each(|_| priority.wrote(false));
        assert_eq!(asked, 1);
    }

    #[test]
    fn an_ordinary_priority_can_always_be_had() {
        set_realtime(0).expect("anybody may");
        assert!(set_realtime(100).is_err(), "99 is the highest");
    }
}

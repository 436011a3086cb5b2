//! Whether the log's writer goes before other threads.

use std::io;

/// So many short writes in a row, and records come one by one: then each waits for its write.
const SHORT_WRITES: u32 = 16;

/// The real-time priority of the writer's thread, which it has while writes are short.
///
/// A synced write sleeps twice, for the data and for the device's flush. Each time a thread of ordinary priority may find the
/// processor taken by one that runs on until the scheduler's next tick, and every record of the write waits with it. Writes
/// of a busy log are long and wait for company anyway: to go first there costs more processor time than it saves.
pub(super) struct Priority<S> {
    /// 1 to 99; 0 where the thread stays as it is.
    raised: u8,
    set: S,
    is_raised: bool,
    short_writes: u32,
}

impl Priority<fn(u8) -> io::Result<()>> {
    /// Of the calling thread. Where the system does not let it have `raised`, the log of the broker says so, and it stays as it is.
    pub(super) fn of_this_thread(raised: u8) -> Self {
        Priority::new(raised, set_realtime)
    }
}

impl<S: FnMut(u8) -> io::Result<()>> Priority<S> {
    fn new(raised: u8, set: S) -> Self {
        let mut priority = Priority { raised, set, is_raised: false, short_writes: 0 };
        // Tried at once, so that whoever starts the broker learns it then.
        priority.raise(true);
        priority.raise(false);
        priority
    }

    /// Notes how long a write was.
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
                tracing::info!(priority, %error, "the log's writer may not go before other threads; a record may wait longer for its answer (wal.writer.priority)");
                self.raised = 0;
            }
        }
    }
}

/// Gives the calling thread this real-time priority (first in, first out), or with 0 an ordinary one.
fn set_realtime(priority: u8) -> io::Result<()> {
    let policy = if priority == 0 { libc::SCHED_OTHER } else { libc::SCHED_FIFO };
    let param = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: the system reads `param` during the call and keeps nothing of it; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &param) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was set, by a priority that was told of `writes`, `true` for long ones.
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

//! The one place that prints. A line that cannot be printed is no reason to end: `println!` and `eprintln!` would, so no
//! other place may use them.

use std::{
    fmt::Arguments,
    io::{self, Write},
    os::fd::AsFd,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long the last words of a broker wait for an output that takes nothing.
const LAST_WORDS_WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Prints a line on standard error; one that cannot be written is dropped.
pub fn note(line: Arguments<'_>) {
    // In one write, so that lines of several threads do not mix.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints why a broker ends. Its reader may be stuck: after a moment the line is dropped.
pub fn last_words(line: Arguments<'_>) {
    let stderr = io::stderr();
    let fd = stderr.as_fd();
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&LAST_WORDS_WAIT));
    if ready.is_ok_and(|ready| ready > 0) {
        note(line);
    }
}

/// Prints a line on standard output, from a thread of its own: a broker does not wait for its reader.
pub fn announce(line: String) {
    let print = move || {
        let mut out = io::stdout();
        if let Err(error) =
            out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush())
        {
            tracing::warn!(%error, "standard output takes nothing");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("stdout".into()).spawn(print) {
        tracing::warn!(%error, "standard output cannot be written");
    }
}

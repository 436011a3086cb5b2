//! All output to the console. A line that cannot be printed is not fatal: `println!` and `eprintln!` would
//! panic, so they are not used elsewhere.

use std::{
    fmt::Arguments,
    io::{self, Write},
    os::fd::AsFd,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long the last line of a broker waits for a blocked output.
const LAST_WORDS_WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Prints a line to standard error; one that cannot be written is dropped.
pub fn note(line: Arguments<'_>) {
    // In one write, so that lines of several threads do not interleave.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints why a broker ends. If the reader is stuck, the line is dropped after a moment.
pub fn last_words(line: Arguments<'_>) {
    let stderr = io::stderr();
    let fd = stderr.as_fd();
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&LAST_WORDS_WAIT));
    if ready.is_ok_and(|ready| ready > 0) {
        note(line);
    }
}

/// Prints a line to standard output, from a separate thread: a broker does not wait for its reader.
pub fn announce(line: String) {
    let print = move || {
        let mut out = io::stdout();
        if let Err(error) =
            out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush())
        {
            tracing::warn!(%error, "standard output is blocked");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("stdout".into()).spawn(print) {
        tracing::warn!(%error, "standard output cannot be written");
    }
}

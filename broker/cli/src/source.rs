//! The sources of lines: files, and standard input, which may block forever.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::{Buf, Bytes};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::error::CliError;
use millstream::console;
use millstream::signals::ShutdownSignal;

/// Bytes of one read from a source that may block.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that are read ahead.
const PIECES_AHEAD_MAX: usize = 4;

/// The lines, in order.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) input: Box<dyn BufRead>,
    /// Its size, if known.
    pub(super) bytes: Option<u64>,
    /// A person types; each line is sent and answered at once.
    pub(super) typed: bool,
}

/// Ends reading. Set once, by a signal; a reader that waits for lines then gets the end.
#[derive(Clone, Default)]
pub(super) struct Stop {
    signal: Arc<OnceLock<ShutdownSignal>>,
    waiting: Arc<Mutex<Vec<Sender<Piece>>>>,
}

impl Stop {
    pub(super) fn set(&self, by: ShutdownSignal) {
        self.signal.get_or_init(|| by);
        for sender in &*self.waiting.lock() {
            // While pieces are queued, the reader does not block.
            let _ = sender.try_send(Piece::Stop);
        }
    }

    /// The signal that ended reading, if any.
    pub(super) fn signal(&self) -> Option<ShutdownSignal> {
        self.signal.get().copied()
    }
}

/// These files, or standard input without any.
pub(super) fn sources(files: &[PathBuf], stop: &Stop) -> Result<Vec<Source>, CliError> {
    if files.is_empty() {
        return Ok(vec![standard_input(stop)]);
    }
    files.iter().map(|path| open(path, stop)).collect()
}

fn open(path: &Path, stop: &Stop) -> Result<Source, CliError> {
    if path.as_os_str() == "-" {
        return Ok(standard_input(stop));
    }
    let file = File::open(path).map_err(CliError::io(format!("cannot read {}", path.display())))?;
    let bytes = file.metadata().ok().filter(|meta| meta.is_file()).map(|meta| meta.len());
    let input: Box<dyn BufRead> = match bytes {
        Some(_) => Box::new(BufReader::new(file)),
        None => Box::new(BufReader::new(Silent::new(file, stop))),
    };
    Ok(Source { name: path.display().to_string(), input, bytes, typed: false })
}

fn standard_input(stop: &Stop) -> Source {
    let typed = io::stdin().is_terminal();
    if typed {
        console::note(format_args!("one record for each line; Ctrl-D ends"));
    }
    let input = Box::new(BufReader::new(Silent::new(io::stdin(), stop)));
    Source { name: "standard input".to_string(), input, bytes: None, typed }
}

enum Piece {
    Bytes(Bytes),
    Failed(io::Error),
    Stop,
}

/// Input that may block is read on a separate thread, so that waiting for it can be ended.
struct Silent {
    pieces: Receiver<Piece>,
    rest: Bytes,
    /// After the end nothing follows, not even another end.
    ended: bool,
}

impl Silent {
    fn new(mut input: impl Read + Send + 'static, stop: &Stop) -> Silent {
        let (sender, pieces) = bounded(PIECES_AHEAD_MAX);
        stop.waiting.lock().push(sender.clone());
        // It ends with its input, or with the process.
        std::thread::spawn(move || {
            let mut buffer = vec![0; PIECE_BYTES];
            loop {
                let piece = match input.read(&mut buffer) {
                    // The end, which a waiting reader must receive.
                    Ok(0) => Piece::Stop,
                    Ok(n) => Piece::Bytes(Bytes::copy_from_slice(&buffer[..n])),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Piece::Failed(error),
                };
                let is_last = !matches!(piece, Piece::Bytes(_));
                if sender.send(piece).is_err() || is_last {
                    return;
                }
            }
        });
        Silent { pieces, rest: Bytes::new(), ended: false }
    }
}

impl Read for Silent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() && !self.ended {
            match self.pieces.recv() {
                Ok(Piece::Bytes(bytes)) => self.rest = bytes,
                Ok(Piece::Failed(error)) => return Err(error),
                Ok(Piece::Stop) | Err(_) => self.ended = true,
            }
        }
        let n = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_silent_is_read_to_its_end_whatever_the_pieces() {
        let bytes: Vec<u8> = (0..PIECE_BYTES * 6 + 7).map(|n| n as u8).collect();
        let mut silent = Silent::new(io::Cursor::new(bytes.clone()), &Stop::default());
        let mut read = Vec::new();
        silent.read_to_end(&mut read).expect("no error");
        assert!(read == bytes, "{} of {} bytes", read.len(), bytes.len());
        assert_eq!(silent.read(&mut [0]).expect("no error"), 0, "the end stays");
    }

    #[test]
    fn whoever_waits_for_a_line_that_never_comes_is_woken() {
        let stop = Stop::default();
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("two ends");
        io::Write::write_all(&mut ours, b"one\ntw").expect("written");
        let mut lines = BufReader::new(Silent::new(theirs, &stop));
        let mut line = String::new();
        assert_eq!(lines.read_line(&mut line).expect("a line"), 4);
        let waits = std::thread::spawn(move || lines.read_line(&mut line).map(|_| line));
        stop.set(ShutdownSignal::Terminate);
        assert_eq!(waits.join().expect("no panic").expect("an end"), "one\ntw");
        assert_eq!(stop.signal(), Some(ShutdownSignal::Terminate));
    }
}

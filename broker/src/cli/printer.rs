//! Records on standard output, for commands that must go on hearing of signals and of their group while its reader is
//! slow, and that end when the reader does.
//!
//! 1. A page counts as printed when standard output has taken all of it, not before.
//! 2. Nothing here waits for the reader on the thread that asks: what may wait is written by a thread of its own.
//! 3. A page is cut off only where its reader takes nothing for [`PATIENCE`] after the command was told to end.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{SyncSender, sync_channel},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, fstat},
};
use tokio::sync::{mpsc, watch};

use super::error::{CliError, SoFar};
use crate::signals::{Ending, Endings};

/// After being told to end, so long it is waited for the reader to take what is on its way: half a line is no use to it.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a pipe that takes anything at all takes without waiting for its reader.
const PIPE_AT_ONCE_BYTES_MAX: usize = 4096;

/// Standard output, its reader, and whoever tells the command to end.
pub(super) struct Printer {
    out: File,
    /// It takes so much without waiting for a reader, if it takes anything.
    at_once_bytes_max: usize,
    pages: SyncSender<Vec<u8>>,
    written: mpsc::Receiver<io::Result<()>>,
    gone: watch::Receiver<bool>,
    endings: Endings,
    told: Option<Ending>,
    as_member: bool,
    records: u64,
}

impl Printer {
    /// Prints on standard output. From now on signals end the command only where [`cut`](Printer::cut) is waited for. Must be
    /// called on a tokio runtime.
    pub(super) fn new(as_member: bool) -> Result<Printer, CliError> {
        let out = io::stdout().as_fd().try_clone_to_owned();
        Printer::to(out.map_err(cannot_write)?, as_member)
    }

    fn to(out: OwnedFd, as_member: bool) -> Result<Printer, CliError> {
        let kind = fstat(&out).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let at_once_bytes_max = match kind {
            Ok(FileType::Fifo) => PIPE_AT_ONCE_BYTES_MAX,
            // What has no reader does not wait for one.
            Ok(FileType::RegularFile | FileType::CharacterDevice) if !out.is_terminal() => usize::MAX,
            // A terminal may stand still though it says that it has room, and a socket takes how much it likes.
            _ => 0,
        };
        let out = File::from(out);
        let (pages, written) = write_behind(out.try_clone().map_err(cannot_write)?);
        let gone = watch_reader(out.try_clone().map_err(cannot_write)?);
        let endings = Endings::new();
        Ok(Printer {
            out,
            at_once_bytes_max,
            pages,
            written,
            gone,
            endings,
            told: None,
            as_member,
            records: 0,
        })
    }

    /// Prints a page with so many records. Fails with what [`cut`](Printer::cut) gives when it was not taken as a whole.
    pub(super) async fn print(&mut self, page: Vec<u8>, records: u64) -> Result<(), CliError> {
        if !page.is_empty() {
            match self.takes_at_once(page.len()) {
                true => self.out.write_all(&page).map_err(cannot_write)?,
                false => self.write_behind(page).await?,
            }
        }
        self.records += records;
        Ok(())
    }

    fn takes_at_once(&self, bytes: usize) -> bool {
        bytes <= self.at_once_bytes_max && has(&self.out, PollFlags::OUT, Some(Duration::ZERO))
    }

    async fn write_behind(&mut self, page: Vec<u8>) -> Result<(), CliError> {
        // The last page was written: there is room for one.
        self.pages.send(page).map_err(|_| cannot_write(io::ErrorKind::BrokenPipe.into()))?;
        tokio::select! {
            biased;
            written = self.written.recv() => return taken(written),
            ending = self.endings.next() => self.told = Some(ending),
        }
        match tokio::time::timeout(PATIENCE, self.written.recv()).await {
            Ok(written) => taken(written),
            Err(_) => Err(self.cut().await),
        }
    }

    /// Waits until nothing more is to be printed, and says why: told to end, or the reader has gone.
    pub(super) async fn cut(&mut self) -> CliError {
        let by = match self.told {
            Some(by) => by,
            None => tokio::select! {
                ending = self.endings.next() => *self.told.insert(ending),
                () = reader_goes(&mut self.gone) => return cannot_write(io::ErrorKind::BrokenPipe.into()),
            },
        };
        let so_far = SoFar::Printed { records: self.records, as_member: self.as_member };
        CliError::Interrupted { by, so_far }
    }

    /// Does what is left to do; told once more to end, the process does so at once.
    pub(super) async fn finish<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.endings.end_at_once() => never,
        }
    }
}

fn cannot_write(source: io::Error) -> CliError {
    CliError::io("cannot write the result")(source)
}

fn taken(written: Option<io::Result<()>>) -> Result<(), CliError> {
    // The thread ends only with the process, or by a panic, which was told.
    written.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into())).map_err(cannot_write)
}

/// A thread that writes one page after the other, and says of each when it is written. It ends with whoever has its pages.
fn write_behind(mut out: File) -> (SyncSender<Vec<u8>>, mpsc::Receiver<io::Result<()>>) {
    let (pages, to_write) = sync_channel::<Vec<u8>>(1);
    let (tell, written) = mpsc::channel(1);
    std::thread::spawn(move || {
        for page in to_write {
            if tell.blocking_send(out.write_all(&page)).is_err() {
                return;
            }
        }
    });
    (pages, written)
}

/// A thread that looks whether there is a reader, since nothing is written while nothing comes. It ends with its reader, or
/// with the process.
fn watch_reader(out: File) -> watch::Receiver<bool> {
    let (tell, gone) = watch::channel(false);
    std::thread::spawn(move || {
        if has(&out, PollFlags::empty(), None) {
            tell.send_replace(true);
        }
    });
    gone
}

async fn reader_goes(gone: &mut watch::Receiver<bool>) {
    if gone.wait_for(|gone| *gone).await.is_err() {
        // It cannot be told: the next page that is written tells.
        std::future::pending().await
    }
}

/// Waits so long, or for ever, for one of these, or for the reader's end when none is asked for. False also when it cannot
/// be told.
fn has(out: &File, wanted: PollFlags, wait_max: Option<Duration>) -> bool {
    let wait_max = wait_max.and_then(|wait| Timespec::try_from(wait).ok());
    let wanted_or_end = if wanted.is_empty() { PollFlags::ERR | PollFlags::HUP } else { wanted };
    loop {
        let mut watched = [PollFd::new(out, wanted)];
        match poll(&mut watched, wait_max.as_ref()) {
            Ok(_) => return watched[0].revents().intersects(wanted_or_end),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// More than any pipe takes by itself.
    const LARGE_BYTES: usize = 4 << 20;
    const LATE: Duration = Duration::from_secs(20);

    fn pipe() -> (io::PipeReader, Printer) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (reader, Printer::to(writer.into(), true).expect("a printer"))
    }

    #[tokio::test]
    async fn a_page_is_printed_when_its_reader_has_taken_what_the_pipe_cannot_hold() {
        let (mut reader, mut printer) = pipe();
        printer.print(b"one\n".to_vec(), 1).await.expect("there is room");
        let mut large = Box::pin(printer.print(vec![b'x'; LARGE_BYTES], 1));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut large).await;
        assert!(early.is_err(), "nobody has read it: {early:?}");
        let reads = std::thread::spawn(move || {
            let mut text = vec![0; LARGE_BYTES + 4];
            reader.read_exact(&mut text).map(|()| (text, reader))
        });
        large.await.expect("it is taken");
        assert_eq!(printer.records, 2);
        let (text, _reader) = reads.join().expect("no panic").expect("all is there");
        assert!(text.starts_with(b"one\nxx") && text.ends_with(b"x"));
    }

    #[tokio::test]
    async fn a_reader_that_goes_is_noticed_while_nothing_is_printed_and_while_a_page_waits() {
        let (reader, mut printer) = pipe();
        printer.print(b"one\n".to_vec(), 1).await.expect("there is room");
        drop(reader);
        let cut = tokio::time::timeout(LATE, printer.cut()).await.expect("noticed");
        assert!(cut.is_closed_pipe(), "{cut:?}");
        let again = tokio::time::timeout(LATE, printer.cut()).await.expect("it stays so");
        assert!(again.is_closed_pipe(), "{again:?}");
        let (reader, mut printer) = pipe();
        let mut large = Box::pin(printer.print(vec![b'x'; LARGE_BYTES], 1));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut large).await.is_err());
        drop(reader);
        let cut = large.await.expect_err("nobody takes it");
        assert!(cut.is_closed_pipe(), "{cut:?}");
        assert_eq!(printer.records, 0, "it counts not");
    }

    #[tokio::test]
    async fn a_file_has_no_reader_that_could_go() {
        let file = tempfile::tempfile().expect("a file");
        let mut printer = Printer::to(file.try_clone().expect("the same").into(), false).expect("a printer");
        printer.print(vec![b'x'; LARGE_BYTES], 1).await.expect("it is taken");
        printer.print(b"y".to_vec(), 1).await.expect("it is taken");
        assert!(tokio::time::timeout(Duration::from_millis(50), printer.cut()).await.is_err());
        assert_eq!(file.metadata().expect("its size").len(), LARGE_BYTES as u64 + 1);
    }
}

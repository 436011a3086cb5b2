//! Prints records to standard output, for commands that must keep handling signals and their group while the
//! reader is slow, and that end when the reader does.
//!
//! 1. A record counts as printed once standard output has accepted all of it; if the reader of a pipe has
//!    gone, only if it had read all of it from the pipe.
//! 2. Nothing here blocks the calling thread on the reader: blocking writes have a thread of their own.
//! 3. A page is cut off only if its reader reads nothing for [`PATIENCE`] after the command was interrupted.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crossbeam_channel::{Sender, bounded};
use millstream_client::consumer::TopicPartition;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, fstat},
    io::ioctl_fionread,
};
use tokio::sync::{mpsc, watch};

use super::{
    error::{CliError, SoFar},
    unread_records::{RecordEnd, UnreadRecords},
};
use millstream::signals::{ShutdownSignal, ShutdownSignals};

/// After an interrupt the reader has this long to read pending output: half a line is of no use.
const PATIENCE: Duration = Duration::from_secs(1);
/// Interval of checks whether the reader has emptied the pipe.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes that a writable pipe accepts without blocking.
const PIPE_AT_ONCE_BYTES_MAX: usize = 4096;

/// Standard output, its reader, and the signals that end the command.
pub(super) struct Printer {
    out: Counted,
    /// Bytes that it accepts without blocking if it is writable.
    at_once_bytes_max: usize,
    pages: Sender<Vec<u8>>,
    written: mpsc::Receiver<io::Result<()>>,
    gone: watch::Receiver<bool>,
    endings: ShutdownSignals,
    signal: Option<ShutdownSignal>,
    as_member: bool,
    unread: UnreadRecords,
}

/// The output, and the bytes written.
#[derive(Clone)]
struct Counted {
    out: Arc<File>,
    bytes: Arc<AtomicU64>,
}

impl Counted {
    fn write_all(&self, mut page: &[u8]) -> io::Result<()> {
        while !page.is_empty() {
            match (&*self.out).write(page) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.bytes.fetch_add(n as u64, Relaxed);
                    page = &page[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Printer {
    /// Prints to standard output. From now on signals end the command only while [`cut`](Printer::cut) is
    /// awaited. Must be called on a tokio runtime.
    pub(super) fn new(as_member: bool) -> Result<Printer, CliError> {
        let out = io::stdout().as_fd().try_clone_to_owned();
        Printer::to(out.map_err(cannot_write)?, as_member)
    }

    fn to(out: OwnedFd, as_member: bool) -> Result<Printer, CliError> {
        let kind = fstat(&out).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let at_once_bytes_max = match kind {
            Ok(FileType::Fifo) => PIPE_AT_ONCE_BYTES_MAX,
            // Output without a reader never blocks.
            Ok(FileType::RegularFile | FileType::CharacterDevice) if !out.is_terminal() => usize::MAX,
            // A terminal may block although it reports space, and a socket accepts any amount.
            _ => 0,
        };
        let out = Counted { out: Arc::new(File::from(out)), bytes: Arc::default() };
        let (pages, written) = write_behind(out.clone());
        let gone = watch_reader(out.out.clone());
        let endings = ShutdownSignals::new();
        Ok(Printer {
            out,
            at_once_bytes_max,
            pages,
            written,
            gone,
            endings,
            signal: None,
            as_member,
            unread: UnreadRecords::default(),
        })
    }

    /// Prints a page of a partition's records. Fails with the result of [`cut`](Printer::cut) if it was not
    /// accepted as a whole.
    pub(super) async fn print(
        &mut self,
        partition: &TopicPartition,
        page: Vec<u8>,
        ends: Vec<RecordEnd>,
    ) -> Result<(), CliError> {
        if page.is_empty() {
            return Ok(());
        }
        self.unread.forget(self.taken_bytes());
        self.unread.add(partition, page.len(), ends);
        match self.takes_at_once(page.len()) {
            true => self.out.write_all(&page).map_err(cannot_write),
            false => self.write_behind(page).await,
        }
    }

    /// The next offsets of partitions with records that do not count as printed. Waits a moment for the
    /// content of a pipe: the signal may have ended its reader too.
    pub(super) async fn not_printed(&self) -> BTreeMap<TopicPartition, i64> {
        let taken = async {
            while self.in_pipe() > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let mut gone = self.gone.clone();
        let has_gone = tokio::select! {
            biased;
            () = reader_goes(&mut gone) => true,
            // A live reader may be slow.
            _ = tokio::time::timeout(PATIENCE, taken) => false,
        };
        self.unread.behind(if has_gone { self.taken_bytes() } else { self.written_bytes() })
    }

    fn written_bytes(&self) -> u64 {
        self.out.bytes.load(Relaxed)
    }

    /// Bytes that the reader has read.
    fn taken_bytes(&self) -> u64 {
        let in_pipe = self.in_pipe();
        self.written_bytes().saturating_sub(in_pipe)
    }

    /// Bytes that are written and not read yet. Only pipes buffer.
    fn in_pipe(&self) -> u64 {
        if self.at_once_bytes_max == PIPE_AT_ONCE_BYTES_MAX {
            ioctl_fionread(&*self.out.out).unwrap_or(0)
        } else {
            0
        }
    }

    fn takes_at_once(&self, bytes: usize) -> bool {
        bytes <= self.at_once_bytes_max && has(&self.out.out, PollFlags::OUT, Some(Duration::ZERO))
    }

    async fn write_behind(&mut self, page: Vec<u8>) -> Result<(), CliError> {
        // The last page was written: there is space for one.
        self.pages.send(page).map_err(|_| cannot_write(io::ErrorKind::BrokenPipe.into()))?;
        tokio::select! {
            biased;
            written = self.written.recv() => return taken(written),
            ending = self.endings.next() => self.signal = Some(ending),
        }
        match tokio::time::timeout(PATIENCE, self.written.recv()).await {
            Ok(written) => taken(written),
            Err(_) => Err(self.cut().await),
        }
    }

    /// Waits until printing must end, and returns why: a signal, or the reader has gone.
    pub(super) async fn cut(&mut self) -> CliError {
        let by = match self.signal {
            Some(by) => by,
            None => tokio::select! {
                ending = self.endings.next() => *self.signal.insert(ending),
                () = reader_goes(&mut self.gone) => return cannot_write(io::ErrorKind::BrokenPipe.into()),
            },
        };
        let so_far =
            SoFar::Printed { records: self.unread.records(self.written_bytes()), as_member: self.as_member };
        CliError::Interrupted { by, so_far }
    }

    /// Does the remaining work; a second signal ends the process at once. If its reader has gone, it is
    /// ending already.
    pub(super) async fn finish<T>(&mut self, work: impl Future<Output = T>) -> T {
        let (endings, signalled) = (&mut self.endings, self.signal.is_some());
        let signalled_again = async move {
            if !signalled {
                endings.next().await;
            }
            endings.end_at_once().await
        };
        tokio::select! {
            done = work => done,
            never = signalled_again => never,
        }
    }
}

fn cannot_write(source: io::Error) -> CliError {
    CliError::io("cannot write the result")(source)
}

fn taken(written: Option<io::Result<()>>) -> Result<(), CliError> {
    // The thread ends only with the process, or by a panic, which was printed.
    written.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into())).map_err(cannot_write)
}

/// A thread that writes one page after the other, and reports each. It ends when the sender of pages is
/// dropped.
fn write_behind(out: Counted) -> (Sender<Vec<u8>>, mpsc::Receiver<io::Result<()>>) {
    let (pages, to_write) = bounded::<Vec<u8>>(1);
    let (results_tx, results_rx) = mpsc::channel(1);
    std::thread::spawn(move || {
        for page in to_write {
            if results_tx.blocking_send(out.write_all(&page)).is_err() {
                return;
            }
        }
    });
    (pages, results_rx)
}

/// A thread that watches for a reader, since nothing is written while no record arrives. It ends with its
/// reader, or with the process.
fn watch_reader(out: Arc<File>) -> watch::Receiver<bool> {
    let (gone_tx, gone_rx) = watch::channel(false);
    std::thread::spawn(move || {
        if has(&out, PollFlags::empty(), None) {
            gone_tx.send_replace(true);
        }
    });
    gone_rx
}

async fn reader_goes(gone: &mut watch::Receiver<bool>) {
    if gone.wait_for(|gone| *gone).await.is_err() {
        // Unknown: the next write will show it.
        std::future::pending().await
    }
}

/// Waits for one of these events, or for the end of the reader if none is given, up to the timeout. False also if the
/// state is unknown.
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

    fn place() -> TopicPartition {
        TopicPartition { topic: "a".into(), partition: 0 }
    }

    /// A page with one record, which has this offset.
    fn page(text: &[u8], offset: i64) -> (Vec<u8>, Vec<RecordEnd>) {
        (text.to_vec(), vec![RecordEnd { at: text.len(), offset }])
    }

    async fn print(printer: &mut Printer, text: &[u8], offset: i64) -> Result<(), CliError> {
        let (text, ends) = page(text, offset);
        printer.print(&place(), text, ends).await
    }

    fn pipe() -> (io::PipeReader, Printer) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (reader, Printer::to(writer.into(), true).expect("a printer"))
    }

    #[tokio::test]
    async fn a_page_is_printed_when_its_reader_has_taken_what_the_pipe_cannot_hold() {
        let (mut reader, mut printer) = pipe();
        print(&mut printer, b"one\n", 1).await.expect("there is room");
        let large = vec![b'x'; LARGE_BYTES];
        let mut large = Box::pin(print(&mut printer, &large, 2));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut large).await;
        assert!(early.is_err(), "it was not read: {early:?}");
        let reads = std::thread::spawn(move || {
            let mut text = vec![0; LARGE_BYTES + 4];
            reader.read_exact(&mut text).map(|()| (text, reader))
        });
        large.await.expect("it is taken");
        assert_eq!(printer.unread.records(printer.written_bytes()), 2);
        let (text, _reader) = reads.join().expect("no panic").expect("all is there");
        assert!(text.starts_with(b"one\nxx") && text.ends_with(b"x"));
    }

    #[tokio::test]
    async fn a_reader_that_goes_is_noticed_while_nothing_is_printed_and_while_a_page_waits() {
        let (reader, mut printer) = pipe();
        print(&mut printer, b"one\n", 1).await.expect("there is room");
        drop(reader);
        let cut = tokio::time::timeout(LATE, printer.cut()).await.expect("noticed");
        assert!(cut.is_closed_pipe(), "{cut:?}");
        let again = tokio::time::timeout(LATE, printer.cut()).await.expect("it stays so");
        assert!(again.is_closed_pipe(), "{again:?}");
        let (reader, mut printer) = pipe();
        let large = vec![b'x'; LARGE_BYTES];
        let mut large = Box::pin(print(&mut printer, &large, 2));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut large).await.is_err());
        drop(reader);
        let cut = large.await.expect_err("there is no reader");
        assert!(cut.is_closed_pipe(), "{cut:?}");
        assert_eq!(printer.not_printed().await, BTreeMap::from([(place(), 2)]), "it counts not");
    }

    #[tokio::test]
    async fn what_a_reader_leaves_in_the_pipe_counts_only_while_it_may_still_take_it() {
        let (mut reader, mut printer) = pipe();
        for offset in 1..=4 {
            print(&mut printer, b"four", offset).await.expect("there is room");
        }
        reader.read_exact(&mut [0; 7]).expect("it is there");
        assert_eq!(printer.not_printed().await, BTreeMap::new(), "the reader is only slow");
        drop(reader);
        assert_eq!(printer.not_printed().await, BTreeMap::from([(place(), 2)]), "one, and half of another");
    }

    #[tokio::test]
    async fn a_file_has_no_reader_that_could_go() {
        let file = tempfile::tempfile().expect("a file");
        let mut printer = Printer::to(file.try_clone().expect("the same").into(), false).expect("a printer");
        print(&mut printer, &vec![b'x'; LARGE_BYTES], 1).await.expect("it is taken");
        print(&mut printer, b"y", 2).await.expect("it is taken");
        assert_eq!(printer.not_printed().await, BTreeMap::new());
        assert!(tokio::time::timeout(Duration::from_millis(50), printer.cut()).await.is_err());
        assert_eq!(file.metadata().expect("its size").len(), LARGE_BYTES as u64 + 1);
    }
}

//! A simulated disk in memory, with the faults of real disks, for tests.

mod chance;
mod content;
mod file;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use super::{Disk, DiskFile, OpenMode};
use chance::Chance;
use content::Content;
use file::SimFile;
use names::{Names, Node};

/// A disk operation, for fault injection and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Opening a file, which creates it in some modes.
    Open,
    /// Creating a directory.
    CreateDir,
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Truncating or extending a file.
    SetLen,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Syncing a directory.
    SyncDir,
    /// Listing a directory.
    List,
}

impl Op {
    /// Whether the operation can change what is on the disk.
    pub fn changes(self) -> bool {
        !matches!(self, Op::Read | Op::List)
    }
}

type Hook = Arc<dyn Fn(Op, &Path) + Send + Sync>;

/// A disk in memory. Clones are the same disk.
///
/// Its behaviour follows from the seed and the order of the calls alone;
/// [`fingerprint`](SimDisk::fingerprint) shows whether two runs differ.
///
/// Fault budget: what the disk may do and what it never does:
/// * **Power cut** ([`crash`](SimDisk::crash)): of what was written through the cache and not synced, each 4
///   KiB page or each 512-byte sector survives in any version that it had since the last sync, regardless of
///   the order of the writes; the same holds for the length. Names that were created, renamed or removed
///   since the directory's last `sync_dir` survive individually, in any combination; a rename is atomic. What
///   was synced, or written to a direct file by a call that returned, always survives.
/// * **Power cut during an operation** ([`cut_power_after`](SimDisk::cut_power_after)): that operation has
///   none, some or all of its effect: any subset of a write's sectors, a name changed or not. It and all
///   later ones fail. A sector is never torn.
/// * **End of the process** ([`kill`](SimDisk::kill)): nothing is lost, and what was not durable stays so.
/// * **Errors** ([`fail`](SimDisk::fail)): the operation has none, some or all of its effect. After a failed
///   sync the cache considers the lost pages written, so that a second sync succeeds and the bytes are gone
///   after the next power cut, or when the file is opened for reading from the medium.
/// * **Full disk** ([`set_capacity`](SimDisk::set_capacity)): a write that extends a file keeps what fits and
///   fails with `StorageFull`; existing bytes of a file can always be overwritten.
/// * **Bit rot** ([`flip`](SimDisk::flip), [`overwrite`](SimDisk::overwrite), [`spoil`](SimDisk::spoil)):
///   only where and when a test asks for it. Reads return exactly the bytes on the disk.
/// * **Short reads** ([`set_short_reads`](SimDisk::set_short_reads)): a read may return fewer bytes than
///   there are, but at least one, and whole blocks from a direct file.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
}

struct Fault {
    op: Op,
    name_part: String,
    countdown: u64,
    error: io::ErrorKind,
}

struct State {
    chance: Chance,
    names: Names,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    faults: Vec<Fault>,
    cut_after: Option<u64>,
    off: bool,
    changes: u64,
    counts: BTreeMap<Op, u64>,
    capacity_bytes: Option<u64>,
    short_reads: bool,
    refuses_direct: bool,
    fingerprint: u64,
}

/// The outcome of an operation.
enum Outcome {
    Done,
    /// It fails after some of its effect.
    Torn(io::Error),
}

fn digest(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::with_state(State::new(seed))
    }

    fn with_state(state: State) -> SimDisk {
        SimDisk { inner: Arc::new(Inner { state: Mutex::new(state), hook: Mutex::new(None) }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }

    /// Cuts the power: this disk stops working, and the returned one has what survived.
    pub fn crash(&self) -> SimDisk {
        self.end(|state| {
            let names = state.names.after_power_cut(&mut state.chance);
            let files = std::mem::take(&mut state.files);
            let survive = |(id, content): (u64, Content)| {
                (id, Content::from_bytes(content.after_power_cut(&mut state.chance)))
            };
            (names, files.into_iter().map(survive).collect())
        })
    }

    /// Ends the process that uses the disk: its handles stop working, and the returned disk has everything;
    /// what was not durable stays so.
    pub fn kill(&self) -> SimDisk {
        if self.state().off {
            return self.crash();
        }
        self.end(|state| (state.names.clone(), std::mem::take(&mut state.files)))
    }

    /// A copy of the disk with the same durable and pending content; this one keeps working.
    pub fn fork(&self) -> SimDisk {
        let mut state = self.state();
        let (names, files) = (state.names.clone(), state.files.clone());
        state.successor(names, files)
    }

    fn end(&self, survive: impl FnOnce(&mut State) -> (Names, BTreeMap<u64, Content>)) -> SimDisk {
        let mut state = self.state();
        state.off = true;
        let (names, files) = survive(&mut state);
        state.names = Names::default();
        state.successor(names, files)
    }

    /// Cuts the power during the operation that follows the next `count` operations that can change the disk.
    /// `count` = 0, 1, 2 … covers every moment of a run.
    pub fn cut_power_after(&self, count: u64) {
        let mut state = self.state();
        state.cut_after = Some(state.changes + count);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Number of operations so far that could change the disk.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Number of operations of one kind so far.
    pub fn count(&self, op: Op) -> u64 {
        self.state().counts.get(&op).copied().unwrap_or(0)
    }

    /// Makes the `nth` operation of a kind from now on fail once; 1 is the next one. Counts only operations
    /// on a path that contains `name_part`.
    pub fn fail(&self, op: Op, name_part: &str, nth: u64, error: io::ErrorKind) {
        let fault = Fault { op, name_part: name_part.to_string(), countdown: nth, error };
        self.state().faults.push(fault);
    }

    /// Limits the total bytes of all files; `None` removes the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Sets whether reads may return fewer bytes than there are.
    pub fn set_short_reads(&self, short: bool) {
        self.state().short_reads = short;
    }

    /// Sets whether direct files are opened through the page cache, as some file systems do.
    pub fn set_refuses_direct(&self, refuses: bool) {
        self.state().refuses_direct = refuses;
    }

    /// Calls `hook` before each operation with no lock held: it may block, or change the disk's faults.
    pub fn set_hook(&self, hook: impl Fn(Op, &Path) + Send + Sync + 'static) {
        *self.inner.hook.lock() = Some(Arc::new(hook));
    }

    /// Flips the bits of `mask` at `offset`, on the medium.
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64, mask: u8) -> io::Result<()> {
        self.rot(path.as_ref(), offset, 1, |bytes| bytes[0] ^= mask)
    }

    /// Replaces bytes on the medium.
    pub fn overwrite(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.rot(path.as_ref(), offset, bytes.len(), |old| old.copy_from_slice(&bytes[..old.len()]))
    }

    fn rot(&self, path: &Path, offset: u64, len: usize, change: impl Fn(&mut [u8])) -> io::Result<()> {
        let mut state = self.state();
        let start = offset as usize;
        let content = state.content(path)?;
        if start + len > content.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.rot(|bytes| {
            let end = bytes.len().min(start + len);
            if start < end {
                change(&mut bytes[start..end]);
            }
        });
        Ok(())
    }

    /// Makes reads that touch `range` fail from now on.
    pub fn spoil(&self, path: impl AsRef<Path>, range: Range<u64>) -> io::Result<()> {
        self.state().content(path.as_ref())?.spoil(range.start as usize..range.end as usize);
        Ok(())
    }

    /// All bytes of a file, as a reader sees them.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        Ok(self.state().content(path.as_ref())?.bytes().to_vec())
    }

    /// Creates a file with this content, durably.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        let path = path.as_ref();
        let mut state = self.state();
        let id = match state.names.file(path) {
            Ok(id) => id,
            Err(_) => state.add_file(path)?,
        };
        state.files.insert(id, Content::from_bytes(bytes.to_vec()));
        state.names.sync_dir(path.parent().unwrap_or(Path::new("")))
    }

    /// Path and bytes of every file, as a reader sees them.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let named = state.names.files().into_iter();
        named.map(|(path, id)| (path.into(), state.files[&id].bytes().to_vec())).collect()
    }

    /// A fingerprint that is equal for two disks with the same history, down to the bytes.
    pub fn fingerprint(&self) -> u64 {
        self.state().fingerprint
    }

    /// Records an operation and decides its outcome. An open file is matched by its current name.
    fn begin(&self, op: Op, target: Target<'_>, detail: u64) -> io::Result<(MutexGuard<'_, State>, Outcome)> {
        let hook = self.inner.hook.lock().clone();
        if let Some(hook) = hook {
            let path = self.state().path(&target);
            hook(op, &path);
        }
        let mut state = self.state();
        if state.off {
            return Err(power_is_off());
        }
        let outcome = state.outcome(op, &target, detail);
        Ok((state, outcome))
    }
}

/// The target of an operation.
enum Target<'a> {
    Path(&'a Path),
    File(&'a SimFile),
}

impl State {
    /// A disk with this content and the same limits, without the faults.
    fn successor(&mut self, names: Names, mut files: BTreeMap<u64, Content>) -> SimDisk {
        let named: Vec<u64> = names.files().into_iter().map(|(_, file)| file).collect();
        files.retain(|id, _| named.contains(id));
        SimDisk::with_state(State {
            names,
            files,
            next_file: self.next_file,
            capacity_bytes: self.capacity_bytes,
            short_reads: self.short_reads,
            refuses_direct: self.refuses_direct,
            fingerprint: self.fingerprint,
            ..State::new(self.chance.next())
        })
    }

    fn new(seed: u64) -> State {
        State {
            chance: Chance::new(seed),
            names: Names::default(),
            files: BTreeMap::new(),
            next_file: 0,
            faults: Vec::new(),
            cut_after: None,
            off: false,
            changes: 0,
            counts: BTreeMap::new(),
            capacity_bytes: None,
            short_reads: false,
            refuses_direct: false,
            fingerprint: seed,
        }
    }

    fn path(&self, target: &Target<'_>) -> PathBuf {
        match target {
            Target::Path(path) => path.to_path_buf(),
            Target::File(file) => {
                self.names.path_of(file.id).map_or_else(|| file.path.clone(), PathBuf::from)
            }
        }
    }

    fn outcome(&mut self, op: Op, target: &Target<'_>, detail: u64) -> Outcome {
        *self.counts.entry(op).or_default() += 1;
        self.note(op as u64);
        self.note(match target {
            Target::Path(path) => digest(path.as_os_str().as_encoded_bytes()),
            Target::File(file) => file.id,
        });
        self.note(detail);
        if op.changes() {
            self.changes += 1;
            if self.cut_after.is_some_and(|count| self.changes > count) {
                self.off = true;
                return Outcome::Torn(power_is_off());
            }
        }
        if self.faults.iter().all(|fault| fault.op != op) {
            return Outcome::Done;
        }
        let path = self.path(target);
        let path = path.to_string_lossy();
        let hits =
            |fault: &&mut Fault| fault.op == op && fault.countdown > 0 && path.contains(&fault.name_part);
        // An operation that one fault hits does not count for the later ones.
        for fault in self.faults.iter_mut().filter(hits) {
            fault.countdown -= 1;
            if fault.countdown == 0 {
                return Outcome::Torn(fault.error.into());
            }
        }
        Outcome::Done
    }

    fn note(&mut self, value: u64) {
        self.fingerprint = Chance::new(self.fingerprint.rotate_left(5) ^ value).next();
    }

    fn content(&mut self, path: &Path) -> io::Result<&mut Content> {
        let id = self.names.file(path)?;
        Ok(self.files.get_mut(&id).expect("every name leads to a file"))
    }

    fn add_file(&mut self, path: &Path) -> io::Result<u64> {
        let id = self.next_file;
        self.names.add_file(path, id)?;
        self.next_file += 1;
        self.files.insert(id, Content::default());
        Ok(id)
    }

    fn used_bytes(&self) -> u64 {
        self.names.files().iter().map(|(_, id)| self.files[id].len() as u64).sum()
    }

    /// How long the file may become.
    fn len_max(&self, id: u64) -> u64 {
        let len = self.files[&id].len() as u64;
        self.capacity_bytes.map_or(u64::MAX, |all| len + all.saturating_sub(self.used_bytes()))
    }

    fn write(&mut self, id: u64, at: usize, data: &[u8], durable: bool) {
        let content = self.files.get_mut(&id).expect("an open file has its content");
        if durable { content.write_durably(at, data) } else { content.write(at, data) }
    }
}

/// Runs `change` if the operation succeeds; if it is torn, perhaps.
fn whole_or_torn<T>(
    state: &mut State,
    outcome: Outcome,
    change: impl FnOnce(&mut State) -> io::Result<T>,
) -> io::Result<T> {
    match outcome {
        Outcome::Done => change(state),
        Outcome::Torn(error) => {
            if state.chance.coin() {
                // The caller got the error and never sees the result.
                let _ = change(state);
            }
            Err(error)
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let (mut state, outcome) = self.begin(Op::Open, Target::Path(path), mode as u64)?;
        let writes = !matches!(mode, OpenMode::Read | OpenMode::DirectRead);
        let id = whole_or_torn(&mut state, outcome, |state| {
            let id = match state.names.file(path) {
                Err(e) if writes && e.kind() == io::ErrorKind::NotFound => state.add_file(path)?,
                found => found?,
            };
            let content = state.files.get_mut(&id).expect("every name leads to a file");
            if matches!(mode, OpenMode::Create | OpenMode::DirectCreate) && content.len() > 0 {
                content.set_len(0);
            }
            if mode == OpenMode::DirectRead {
                content.drop_clean();
            }
            Ok(id)
        })?;
        let direct = !matches!(mode, OpenMode::Read | OpenMode::Create) && !state.refuses_direct;
        let durable = direct && mode == OpenMode::Direct;
        Ok(Arc::new(SimFile { disk: self.clone(), id, path: path.to_path_buf(), direct, durable, writes }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, outcome) = self.begin(Op::CreateDir, Target::Path(path), 0)?;
        whole_or_torn(&mut state, outcome, |state| state.names.add_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, outcome) =
            self.begin(Op::Rename, Target::Path(from), digest(to.as_os_str().as_encoded_bytes()))?;
        whole_or_torn(&mut state, outcome, |state| state.names.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, outcome) = self.begin(Op::Remove, Target::Path(path), 0)?;
        whole_or_torn(&mut state, outcome, |state| state.names.remove(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let (state, outcome) = self.begin(Op::List, Target::Path(dir), 0)?;
        if let Outcome::Torn(error) = outcome {
            return Err(error);
        }
        let inside = state.names.list(dir)?.into_iter();
        let files = inside.filter_map(|(name, node)| match node {
            Node::File(id) => Some((name, state.files[&id].len() as u64)),
            Node::Dir(_) => None,
        });
        Ok(files.collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, outcome) = self.begin(Op::SyncDir, Target::Path(dir), 0)?;
        whole_or_torn(&mut state, outcome, |state| state.names.sync_dir(dir))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        if state.off {
            return Err(power_is_off());
        }
        Ok(state.capacity_bytes.map_or(u64::MAX, |all| all.saturating_sub(state.used_bytes())))
    }
}

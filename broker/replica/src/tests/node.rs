//! One group on one disk, and a machine that records its commands.

use std::{
    io::{self, Read},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use millstream_model::{LogId, NodeId, RaftGroupId};
use millstream_store::{
    disk::{Disk, sim::SimDisk},
    tables::{Tables, TablesConfig},
    wal::{RecoveryBase, Wal, WalConfig},
};

use tokio::sync::watch;

use crate::{
    Command, Group, LogStore, Machine, NoPeers, Outcome, Reply, RestoreError, Snapshot, Timing, Transport,
    group::Led,
};

pub(super) const GROUP: RaftGroupId = RaftGroupId(3);
const NODE: NodeId = NodeId(1);

/// Records every command in the order of application.
#[derive(Default)]
pub(super) struct Recorder {
    applied: watch::Sender<Vec<Bytes>>,
    led: OnceLock<Arc<Led>>,
}

impl Recorder {
    pub(super) fn applied(&self) -> Vec<Bytes> {
        self.applied.borrow().clone()
    }

    /// Waits until the applied commands satisfy a condition.
    pub(super) async fn wait_for(&self, applied: impl FnMut(&Vec<Bytes>) -> bool) {
        self.applied.subscribe().wait_for(applied).await.expect("the sender is alive");
    }
}

impl Machine for Recorder {
    fn apply(&self, id: LogId, command: Bytes) -> Reply {
        if let Some(led) = self.led.get() {
            // A node that leads has applied everything of earlier terms.
            let led_term = led.term();
            assert!(
                led_term <= id.term,
                "an entry of term {} is applied while term {led_term} is led",
                id.term
            );
        }
        self.applied.send_modify(|applied| applied.push(command));
        Reply::None
    }

    fn applied(&self, _: LogId) {}

    fn snapshot(&self) -> Snapshot {
        let applied = self.applied();
        Box::new(move |out| {
            applied.iter().try_for_each(|command| {
                out.write_all(&(command.len() as u32).to_le_bytes())?;
                out.write_all(command)
            })
        })
    }

    fn restore(&self, state: &mut dyn Read) -> Result<(), RestoreError> {
        let (mut data, mut restored) = (Vec::new(), Vec::new());
        state.read_to_end(&mut data).map_err(|e| RestoreError(Box::new(e)))?;
        let mut data = &data[..];
        while let Some((length, rest)) = data.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let cut = rest
                .split_at_checked(length)
                .ok_or_else(|| RestoreError(Box::new(io::Error::other("short"))))?;
            restored.push(Bytes::copy_from_slice(cut.0));
            data = cut.1;
        }
        self.applied.send_replace(restored);
        Ok(())
    }
}

/// A store with one group.
pub(super) struct Node {
    pub(super) disk: SimDisk,
    pub(super) wal: Wal,
    pub(super) tables: Arc<Tables>,
    pub(super) machine: Arc<Recorder>,
    pub(super) group: Arc<Group>,
}

pub(super) fn wal_config() -> WalConfig {
    WalConfig {
        file_bytes: 1 << 20,
        first_file_bytes: 256 << 10,
        chunk_bytes: 64 << 10,
        seal_after: Duration::from_millis(1),
        ..WalConfig::default()
    }
}

impl Node {
    /// Opens the store on the disk and leads its group alone.
    pub(super) async fn start(disk: &SimDisk) -> Result<Node, String> {
        let node = Node::open(disk, NODE, Timing::default(), NoPeers::shared()).await?;
        node.group.lead_alone().await.map_err(|e| e.to_string())?;
        Ok(node)
    }

    /// Opens the store on the disk and starts its group's replica.
    pub(super) async fn open(
        disk: &SimDisk,
        id: NodeId,
        timing: Timing,
        transport: Arc<dyn Transport>,
    ) -> Result<Node, String> {
        let as_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let (tables, manifest) =
            Tables::open(as_disk.clone(), TablesConfig::default()).map_err(|e| e.to_string())?;
        let flushed = manifest.flushed.iter().map(|(group, id)| (*group, id.index)).collect();
        let (wal, _) =
            Wal::open(as_disk, wal_config(), &RecoveryBase { flushed }).map_err(|e| e.to_string())?;
        let (tables, machine) = (Arc::new(tables), Arc::new(Recorder::default()));
        let log = LogStore::new(wal.group(GROUP));
        let group = Group::start(GROUP, id, timing, transport, log, machine.clone(), tables.clone());
        let group = Arc::new(group.await.map_err(|e| e.to_string())?);
        assert!(machine.led.set(group.led()).is_ok(), "set once");
        Ok(Node { disk: disk.clone(), wal, tables, machine, group })
    }

    pub(super) fn term(&self) -> u64 {
        self.group.led_term().expect("the node leads")
    }

    /// Writes a command in the led term.
    pub(super) async fn write(&self, command: impl Into<Bytes>) -> Outcome {
        self.group.write(self.group.led_term().unwrap_or(u64::MAX), Command::encoded(command.into())).await
    }

    /// Cuts the power: what was not durable is lost.
    pub(super) async fn lose_power(self) -> SimDisk {
        let survived = self.disk.crash();
        self.end().await;
        survived
    }

    /// Kills the process; the power stays on.
    pub(super) async fn kill(self) -> SimDisk {
        let survived = self.disk.kill();
        self.end().await;
        survived
    }

    /// The disk stops working: anything still running changes nothing.
    async fn end(self) {
        self.group.shutdown().await;
    }
}

/// Runs a test on a runtime with two threads.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test);
}

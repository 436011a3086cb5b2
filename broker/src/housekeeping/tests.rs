//! Checkpoints of many groups at once, on a simulated disk.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use millstream_model::{
    NodeId, PartitionId, RaftGroupId,
    batch::{BatchBuilder, BatchHeader, Codec, NewRecord},
};
use millstream_replica::{Group, LogStore, NoPeers, Timing};
use millstream_state::partition as commands;
use millstream_store::{
    disk::{Disk, sim::SimDisk},
    tables::{Tables, TablesConfig},
    wal::{RecoveryBase, Wal, WalConfig},
};

use super::flusher::checkpoint_all;
use crate::partition::{CheckedBatch, Shard, ShardHost, Submission};

const GROUPS: u32 = 12;

fn partition_of(group: RaftGroupId) -> PartitionId {
    PartitionId(u64::from(group.0))
}

async fn shard(id: RaftGroupId, wal: &Wal, tables: &Arc<Tables>) -> Arc<Shard> {
    let host = Arc::new(ShardHost::new(id, tables.clone()));
    let log = LogStore::new(wal.group(id));
    let group =
        Group::start(id, NodeId(1), Timing::default(), NoPeers::shared(), log, host.clone(), tables.clone());
    let group = group.await.expect("a group");
    group.lead_alone().await.expect("it leads");
    let shard = Shard::new(group, host);
    shard.write(commands::encode_create_partitions(&[partition_of(id).into()])).await.expect("created");
    shard
}

async fn append(shard: &Shard) {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(NewRecord { timestamp_ms: 1, value: Some(b"value"), ..NewRecord::default() });
    let bytes = builder.build().expect("a batch");
    let header = BatchHeader::parse(&bytes).expect("a header");
    let batch = CheckedBatch { bytes, header, log_append_ms: None, max_timestamp: None };
    let reply = shard.submit(Submission { partition: partition_of(shard.id()), epoch_base: 0, batch });
    shard.push();
    reply.await.expect("a reply").expect("appended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_of_busy_groups_share_their_flushes_and_let_the_log_forget() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let (tables, _) = Tables::open(disk.clone(), TablesConfig::default()).expect("tables");
    let (wal, _) = Wal::open(disk, WalConfig::default(), &RecoveryBase::default()).expect("a log");
    let tables = Arc::new(tables);
    let mut shards = Vec::new();
    for id in (1..=GROUPS).map(RaftGroupId) {
        shards.push(shard(id, &wal, &tables).await);
    }
    let done = Arc::new(AtomicBool::new(false));
    let load = shards.iter().cloned().map(|shard| {
        let done = done.clone();
        tokio::spawn(async move {
            while !done.load(Relaxed) {
                append(&shard).await;
            }
        })
    });
    let load: Vec<_> = load.collect();
    for shard in &shards {
        append(shard).await;
    }
    let flushed: HashMap<_, _> = tables.flush().expect("flushed").groups.into_iter().collect();
    let before = tables.stats().flushes;
    let groups: Vec<&Group> = shards.iter().map(|shard| shard.group()).collect();
    checkpoint_all(&groups, &flushed).await.expect("all are written");
    let flushes = tables.stats().flushes - before;
    done.store(true, Relaxed);
    for task in load {
        task.await.expect("nothing was refused");
    }
    assert!(flushes <= u64::from(GROUPS) / 2, "{flushes} flushes for the checkpoints of {GROUPS} groups");
    for id in (1..=GROUPS).map(RaftGroupId) {
        let purged = wal.group(id).state().purged.map(|purged| purged.index);
        assert_eq!(purged, flushed.get(&id).map(|id| id.index), "the log of {id}");
    }
}

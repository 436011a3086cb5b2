//! Offset lookup by position and by timestamp.

use std::sync::Arc;

use bytes::Bytes;
use millstream_model::{
    PartitionId,
    batch::{
        BatchError, BatchHeader, HEADER_BYTES, Payload, StreamLimits, TimestampType, decode_records, split,
    },
    limits,
};
use millstream_store::tables::{MemoryRead, Tables};

use super::{
    ShardHost,
    reader::{FetchError, damaged},
};

/// The offset to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The log start offset.
    Earliest,
    /// The offset after the last record.
    Latest,
    /// That of the record with the largest timestamp.
    MaxTimestamp,
    /// The first offset on this node.
    EarliestLocal,
    /// That of the first record with a timestamp at or after this, in milliseconds.
    At(i64),
}

impl OffsetQuery {
    /// Whether the lookup reads records, which may be compressed.
    pub fn reads_records(self) -> bool {
        matches!(self, OffsetQuery::MaxTimestamp | OffsetQuery::At(_))
    }
}

/// The result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    pub offset: i64,
    /// Timestamp of the record in milliseconds, or -1.
    pub timestamp_ms: i64,
    /// Leader epoch of the record, or -1.
    pub leader_epoch: i32,
}

/// Looks up an offset; `None` when no record matches.
pub async fn find_offset(
    host: Arc<ShardHost>,
    partition: PartitionId,
    query: OffsetQuery,
    epoch: i32,
) -> Result<Option<FoundOffset>, FetchError> {
    let bounds = host.partition(partition, |p| (p.log_start(), p.next_offset()));
    let (log_start, end) = bounds.ok_or(FetchError::UnknownPartition)?;
    let named = |offset| Ok(Some(FoundOffset { offset, timestamp_ms: -1, leader_epoch: epoch }));
    let tables = host.tables.clone();
    match query {
        OffsetQuery::Earliest | OffsetQuery::EarliestLocal => named(log_start),
        OffsetQuery::Latest => named(end),
        OffsetQuery::MaxTimestamp => blocking(move || newest(&tables, partition, log_start)).await,
        OffsetQuery::At(time) => blocking(move || first_at(&tables, partition, time, log_start)).await,
    }
}

/// The first record at or above `offset`; `None` when there is none. May block on disk reads.
pub fn first_record(
    host: &ShardHost,
    partition: PartitionId,
    offset: i64,
) -> Result<Option<FoundOffset>, FetchError> {
    let mut from = offset;
    while let Some(batch) = batch_at(&host.tables, partition, from)? {
        // Control batches have no records for consumers.
        if !batch.header.attributes.is_control()
            && let Some(found) = batch.find(|record| record.offset >= offset)?
        {
            return Ok(Some(found));
        }
        from = batch.header.next_offset();
    }
    Ok(None)
}

/// The batch that contains `offset`, or else the first one after it.
fn batch_at(tables: &Tables, partition: PartitionId, offset: i64) -> Result<Option<Batch>, FetchError> {
    // The first batch is returned whole, whatever its size.
    let found = match tables.read_memory(partition, offset, 1) {
        MemoryRead::Hit(batches) => batches,
        MemoryRead::Empty => Vec::new(),
        MemoryRead::Older => tables.read_runs(partition, offset, 1).map_err(|error| damaged(&error))?,
    };
    found.into_iter().next().map(|bytes| Batch::parse(bytes, tables)).transpose()
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, FetchError> + Send + 'static,
) -> Result<R, FetchError> {
    // The panic of a lookup is logged already.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(FetchError::Unavailable))
}

/// The first record at or above the log start whose timestamp is at least `time`.
fn first_at(
    tables: &Tables,
    partition: PartitionId,
    time: i64,
    log_start: i64,
) -> Result<Option<FoundOffset>, FetchError> {
    let mut from = log_start;
    while let Some(batch) = read(tables, tables.first_batch_at_or_after_time(partition, time, from))? {
        if let Some(found) = batch.find(|record| record.offset >= log_start && record.timestamp_ms >= time)? {
            return Ok(Some(found));
        }
        // The record with the header's largest timestamp is below the log start: a later batch has the next one.
        from = batch.header.next_offset();
    }
    Ok(None)
}

/// The first of the records at or above the log start that have the largest timestamp.
fn newest(
    tables: &Tables,
    partition: PartitionId,
    log_start: i64,
) -> Result<Option<FoundOffset>, FetchError> {
    let Some(batch) = read(tables, tables.max_timestamp_batch(partition, log_start))? else {
        return Ok(None);
    };
    let best = batch.newest(log_start)?;
    if batch.header.base_offset >= log_start {
        return Ok(best);
    }
    // Part of this batch is below the log start, perhaps the part with its largest timestamp.
    let later = tables.max_timestamp_batch(partition, batch.header.next_offset());
    let Some(later) = read(tables, later)? else { return Ok(best) };
    let later = later.newest(log_start)?;
    Ok(if later.map(|found| found.timestamp_ms) > best.map(|found| found.timestamp_ms) {
        later
    } else {
        best
    })
}

/// One batch whose records can be read.
struct Batch {
    header: BatchHeader,
    bytes: Bytes,
    decompressed_bytes_max: usize,
}

fn read(
    tables: &Tables,
    found: Result<Option<Bytes>, millstream_store::tables::ReadError>,
) -> Result<Option<Batch>, FetchError> {
    found.map_err(|error| damaged(&error))?.map(|bytes| Batch::parse(bytes, tables)).transpose()
}

fn not_a_batch(error: &dyn std::fmt::Display) -> FetchError {
    FetchError::Damaged(error.to_string())
}

impl Batch {
    fn parse(bytes: Bytes, tables: &Tables) -> Result<Batch, FetchError> {
        let bytes = split(&bytes).next().ok_or(FetchError::Unavailable)?.map_err(|e| not_a_batch(&e))?;
        let header = BatchHeader::parse(&bytes).map_err(|e| not_a_batch(&e))?;
        Ok(Batch { header, bytes, decompressed_bytes_max: tables.decompressed_bytes_max() })
    }

    /// The first record that matches.
    fn find(&self, matches: impl Fn(&FoundOffset) -> bool) -> Result<Option<FoundOffset>, FetchError> {
        let mut found = None;
        self.each(|record| {
            found = Some(record).filter(&matches);
            found.is_none()
        })?;
        Ok(found)
    }

    /// The first of the records at or above `from` that have the largest timestamp.
    fn newest(&self, from: i64) -> Result<Option<FoundOffset>, FetchError> {
        let mut best: Option<FoundOffset> = None;
        self.each(|record| {
            if record.offset >= from && best.is_none_or(|best| record.timestamp_ms > best.timestamp_ms) {
                best = Some(record);
            }
            true
        })?;
        Ok(best)
    }

    /// The records, to be decompressed piece by piece, as they were when they were checked.
    fn pieces(&self) -> Result<Payload<'_>, BatchError> {
        let limits = StreamLimits {
            memory_bytes_max: self.decompressed_bytes_max,
            payload_bytes_max: limits::DECOMPRESSED_BYTES_MAX,
        };
        Ok(Payload::new(self.header.attributes.codec()?, &self.bytes[HEADER_BYTES..], limits))
    }

    /// Visits the records in offset order until `visit` returns false.
    fn each(&self, mut visit: impl FnMut(FoundOffset) -> bool) -> Result<(), FetchError> {
        let header = &self.header;
        let decoded = decode_records(&self.bytes, self.decompressed_bytes_max);
        let payload = match &decoded {
            Ok(records) => Payload::uncompressed(records.payload()),
            Err(BatchError::TooLarge { .. }) => self.pieces().map_err(|e| not_a_batch(&e))?,
            Err(error) => return Err(not_a_batch(error)),
        };
        let by_broker = header.attributes.timestamp_type() == TimestampType::LogAppend;
        for record in payload.heads(header.record_count) {
            let record = record.map_err(|e| not_a_batch(&e))?;
            let by_producer = header.base_timestamp.wrapping_add(record.timestamp_delta);
            let found = FoundOffset {
                offset: header.base_offset + i64::from(record.offset_delta),
                timestamp_ms: if by_broker { header.max_timestamp } else { by_producer },
                leader_epoch: header.leader_epoch,
            };
            if !visit(found) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millstream_model::{
        LogId, RaftGroupId,
        batch::{BatchBuilder, Codec, NewRecord},
    };
    use millstream_replica::{Command, Machine};
    use millstream_state::partition as commands;
    use millstream_store::{disk::sim::SimDisk, tables::TablesConfig};

    use super::*;
    use crate::partition::staged::{StagedAppend, StagedBatch};

    const PARTITION: PartitionId = PartitionId(7);
    const GROUP: RaftGroupId = RaftGroupId(1);
    /// Command kind of appends by earlier versions.
    const KIND_APPEND_UNCHECKED: u8 = 1;
    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// A partition, and a model of it: every appended record.
    struct PartitionModel {
        host: Arc<ShardHost>,
        tables: Arc<Tables>,
        index: u64,
        records: Vec<FoundOffset>,
        log_start: i64,
    }

    impl PartitionModel {
        fn new(seed: u64) -> PartitionModel {
            let (tables, _) =
                Tables::open(Arc::new(SimDisk::new(seed)), TablesConfig::default()).expect("tables");
            let tables = Arc::new(tables);
            let host = Arc::new(ShardHost::new(GROUP, tables.clone()));
            let mut model = PartitionModel { host, tables, index: 0, records: Vec::new(), log_start: 0 };
            model.apply(commands::encode_create_partitions(&[PARTITION.into()]));
            model
        }

        fn apply(&mut self, command: Bytes) {
            self.index += 1;
            let id = LogId::new(1, self.index);
            self.host.apply(id, command);
            self.host.applied(id);
        }

        /// `header_ms`: appended by an earlier version with this largest timestamp in the header.
        fn append(
            &mut self,
            codec: Codec,
            log_append_ms: Option<i64>,
            header_ms: Option<i64>,
            times: &[i64],
        ) {
            let mut builder = BatchBuilder::new(codec);
            for &timestamp_ms in times {
                builder.push(NewRecord { timestamp_ms, value: Some(b"value"), ..NewRecord::default() });
            }
            let (bytes, base_offset) = (builder.build().expect("built"), self.records.len() as i64);
            let records = times.iter().zip(base_offset..);
            self.records.extend(records.map(|(&time, offset)| FoundOffset {
                offset,
                timestamp_ms: log_append_ms.unwrap_or(time),
                leader_epoch: 3,
            }));
            let staged = StagedBatch {
                partition: PARTITION,
                bytes,
                base_offset,
                leader_epoch: 3,
                log_append_ms,
                max_timestamp: header_ms,
            };
            let mut command = Command::staged(StagedAppend::new(0, vec![staged])).into_bytes().to_vec();
            if header_ms.is_some() {
                command[1] = KIND_APPEND_UNCHECKED;
            }
            self.apply(command.into());
        }

        fn set_log_start(&mut self, offset: i64) {
            self.log_start = offset;
            self.apply(commands::encode_set_log_start(&[(PARTITION, offset)]));
        }

        async fn find(&self, query: OffsetQuery) -> Option<FoundOffset> {
            find_offset(self.host.clone(), PARTITION, query, 3).await.expect("it can be read")
        }

        /// Compares all lookups with a scan of the model's records.
        async fn check(&self, context: &str) {
            let live = || self.records.iter().filter(|record| record.offset >= self.log_start);
            for time in -1..70 {
                let first = live().find(|record| record.timestamp_ms >= time).copied();
                assert_eq!(self.find(OffsetQuery::At(time)).await, first, "{context}: at {time}");
            }
            for offset in self.log_start..=self.records.len() as i64 {
                let found = first_record(&self.host, PARTITION, offset).expect("it can be read");
                assert_eq!(
                    found,
                    live().find(|record| record.offset >= offset).copied(),
                    "{context}: {offset}"
                );
            }
            let newest = live().max_by_key(|record| (record.timestamp_ms, -record.offset)).copied();
            assert_eq!(self.find(OffsetQuery::MaxTimestamp).await, newest, "{context}: newest");
        }
    }

    #[tokio::test]
    async fn a_record_below_the_log_start_does_not_hide_those_in_later_batches() {
        let mut model = PartitionModel::new(1);
        model.append(Codec::Zstd, None, None, &[50, 10]);
        model.append(Codec::None, None, Some(-1), &[20, 40]);
        model.set_log_start(1);
        model.check("in memory").await;
        model.tables.flush().expect("flushed");
        model.check("in a run").await;
        let found = model.find(OffsetQuery::At(30)).await.map(|found| (found.offset, found.timestamp_ms));
        assert_eq!(found, Some((3, 40)));
        let newest =
            model.find(OffsetQuery::MaxTimestamp).await.map(|found| (found.offset, found.timestamp_ms));
        assert_eq!(newest, Some((3, 40)));
    }

    #[tokio::test]
    async fn lookups_by_time_equal_a_scan_of_all_records() {
        for seed in 1..9 {
            let mut model = PartitionModel::new(seed);
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = move |end: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                (rng >> 11) % end
            };
            for step in 0..30 {
                let times: Vec<i64> = (0..=random(5)).map(|_| random(60) as i64).collect();
                let log_append_ms = (random(4) == 0).then_some(random(60) as i64);
                // Too small, whether or not it is below the timestamp of the first record.
                let header_ms = (random(3) == 0).then_some(random(30) as i64 - 1);
                model.append(CODECS[random(5) as usize], log_append_ms, header_ms, &times);
                if random(4) == 0 {
                    model.tables.flush().expect("flushed");
                }
                if random(3) == 0 {
                    let ahead = model.records.len() as i64 - model.log_start;
                    model.set_log_start(model.log_start + random(ahead as u64 + 1) as i64 / 2);
                    model.check(&format!("seed {seed}, step {step}")).await;
                }
            }
        }
    }
}

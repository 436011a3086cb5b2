//! Log compaction: the newest value of each key stays, at its offset.
//!
//! A compaction reads a partition twice: first to learn which keys have a newer value and which batch is each
//! producer's newest, then to write what stays. Guarantees: offsets do not change; the newest value of every
//! key stays, and so do tombstones until their delete horizon; a record of a transaction hides older values
//! only once the transaction is known to be committed; markers stay; each producer's newest batch stays, if
//! necessary without its records, so that its sequence number is kept; bytes that cannot be decoded stay
//! unchanged.

use std::{
    cell::Cell,
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;
use millstream_model::{
    PartitionId,
    batch::{BatchHeader, Record, decode_records, rebuild_with_horizon},
};

use super::{
    CompactPolicy, Tables,
    job::{Ended, Output, Sources, Task},
    memory::{IdHasher, IdMap},
    run::Part,
    writer::NewPart,
};

/// An empty batch is kept for its producer's sequence for this long after the producer's last record.
const PRODUCER_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// A compaction that an open transaction blocks waits until its work has grown by this factor.
const RETRY_GROWTH: u64 = 2;
/// Below this amount of work it waits until there is any more.
const RETRY_CHEAP_BYTES: u64 = 1 << 20;

/// What a partition has to compact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirtyStats {
    clean_bytes: u64,
    dirty_bytes: u64,
    /// The earliest delete horizon of its tombstones.
    horizon: i64,
    /// Offset from which records are too young.
    end: i64,
    /// Age of the dirty part, as the time of its oldest region: the indexes have the newest record of each.
    since: i64,
    /// The same, including what is too young to be compacted.
    oldest: i64,
}

impl DirtyStats {
    /// The next time after the policy's current time at which age makes a compaction due; `i64::MAX` if there
    /// is none.
    pub(super) fn due_after(&self, policy: &CompactPolicy) -> i64 {
        let too_old = self.oldest.saturating_add(policy.max_lag_ms).saturating_add(1);
        let times = [too_old, self.horizon].into_iter().filter(|&at| at > policy.now_ms);
        times.min().unwrap_or(i64::MAX)
    }
}

/// Determines from the indexes what is to be compacted.
pub(super) fn dirty_stats(parts: &[Part], policy: &CompactPolicy) -> DirtyStats {
    let clean_end = clean_end(parts);
    let mut stats = DirtyStats {
        clean_bytes: 0,
        dirty_bytes: 0,
        horizon: i64::MAX,
        end: young_from(parts, policy),
        since: i64::MAX,
        oldest: i64::MAX,
    };
    for part in parts {
        stats.horizon = stats.horizon.min(part.delete_horizon);
        for (number, region) in part.regions().iter().enumerate() {
            let bytes = part.span(number..number + 1).len() as u64;
            if region.base_offset < clean_end {
                stats.clean_bytes += bytes;
                continue;
            }
            stats.oldest = stats.oldest.min(region.age_from_ms);
            if region.base_offset < stats.end {
                stats.dirty_bytes += bytes;
                stats.since = stats.oldest;
            }
        }
    }
    stats
}

fn clean_end(parts: &[Part]) -> i64 {
    parts.iter().map(|part| part.clean_end).max().unwrap_or(i64::MIN)
}

/// Offset of the first region with a record younger than the lag; without a lag nothing is too young.
fn young_from(parts: &[Part], policy: &CompactPolicy) -> i64 {
    let newest = policy.now_ms.saturating_sub(policy.min_lag_ms);
    let mut regions = parts.iter().flat_map(|part| part.regions());
    let young = regions.find(|region| policy.min_lag_ms > 0 && region.age_from_ms > newest);
    young.map_or(parts.last().map_or(i64::MIN, |part| part.end), |region| region.base_offset)
}

/// What the last compaction of each partition could not do, so that it is not retried at once.
#[derive(Debug, Default)]
pub(super) struct Attempts(IdMap<Attempt>);

#[derive(Clone, Copy, Debug)]
struct Attempt {
    stuck: Option<DirtyStats>,
    /// The horizon that had passed; if it is still present, its batch cannot be decoded.
    passed_horizon: Option<i64>,
}

impl Attempts {
    /// Whether a partition should be compacted now.
    pub(super) fn is_due(&self, partition: PartitionId, stats: &DirtyStats, policy: &CompactPolicy) -> bool {
        let last = self.0.get(&partition);
        let all = (stats.clean_bytes + stats.dirty_bytes) as f64;
        let more = |stuck: DirtyStats| {
            stats.end > stuck.end
                && (stuck.dirty_bytes <= RETRY_CHEAP_BYTES
                    || stats.dirty_bytes >= stuck.dirty_bytes.saturating_mul(RETRY_GROWTH))
        };
        let overdue = policy.now_ms.saturating_sub(stats.since) > policy.max_lag_ms;
        let dirty = stats.dirty_bytes > 0
            && (overdue || stats.dirty_bytes as f64 >= policy.min_dirty_ratio * all)
            && last.and_then(|last| last.stuck).is_none_or(more);
        let expired = stats.horizon <= policy.now_ms
            && last.is_none_or(|last| last.passed_horizon != Some(stats.horizon));
        dirty || expired
    }

    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.0.remove(&partition);
    }
}

/// A 16-byte hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyHash(u64, u64);

impl KeyHash {
    fn of(key: &[u8]) -> KeyHash {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(key);
            hasher.finish()
        };
        KeyHash(half(0), half(1))
    }
}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// The result of the first pass.
#[derive(Default)]
struct Scan {
    decompressed_bytes_max: usize,
    /// Offset of each key's newest value.
    newest: HashMap<KeyHash, i64, BuildHasherDefault<IdHasher>>,
    /// Values of transactions without a marker yet, by producer.
    pending: HashMap<i64, Vec<(KeyHash, i64)>>,
    pending_count: usize,
    /// Base offset of each producer's newest batch.
    last_batch: HashMap<i64, i64>,
}

/// A producer may have written any delta: an offset outside of the batch must not hide records of other
/// batches.
fn offset_of(header: &BatchHeader, record: &Record<'_>) -> i64 {
    let delta = record.offset_delta.clamp(0, header.last_offset_delta.max(0));
    header.base_offset.saturating_add(i64::from(delta))
}

impl Scan {
    fn keys(&self) -> usize {
        self.newest.len() + self.pending_count
    }

    fn set(&mut self, key: KeyHash, offset: i64) {
        let newest = self.newest.entry(key).or_insert(offset);
        *newest = (*newest).max(offset);
    }

    fn batch(&mut self, batch: &[u8], header: &BatchHeader, dirty: bool) {
        if header.is_idempotent() && !header.attributes.is_control() {
            self.last_batch.insert(header.producer_id, header.base_offset);
        }
        if !dirty || header.record_count == 0 {
            return;
        }
        // Bytes that cannot be decoded hide nothing.
        let Ok(decoded) = decode_records(batch, self.decompressed_bytes_max) else { return };
        for record in decoded.iter().map_while(Result::ok) {
            if header.attributes.is_control() {
                self.marker(header.producer_id, &record);
            } else if let Some(key) = record.key {
                self.value(header, KeyHash::of(key), offset_of(header, &record));
            }
        }
    }

    fn value(&mut self, header: &BatchHeader, key: KeyHash, offset: i64) {
        if header.attributes.is_transactional() {
            self.pending.entry(header.producer_id).or_default().push((key, offset));
            self.pending_count += 1;
        } else {
            self.set(key, offset);
        }
    }

    /// Ends a producer's transaction. A marker's key: version i16, type i16, where 0 is abort and 1 commit.
    fn marker(&mut self, producer: i64, record: &Record<'_>) {
        let kind = record.key.and_then(|key| Some([*key.get(2)?, *key.get(3)?]));
        let values = self.pending.remove(&producer).unwrap_or_default();
        self.pending_count -= values.len();
        if kind == Some([0, 1]) {
            values.into_iter().for_each(|(key, offset)| self.set(key, offset));
        }
    }

    /// Offset of the first value of an undecided transaction.
    fn first_pending(&self) -> Option<i64> {
        self.pending.values().filter_map(|values| values.first()).map(|(_, offset)| *offset).min()
    }
}

/// What the second pass does with a batch.
enum Verdict {
    Keep,
    Drop,
    Replace(Bytes, BatchHeader),
}

/// The input of the second pass.
struct SecondPass<'a> {
    policy: &'a CompactPolicy,
    scan: Scan,
    /// Offset from which everything stays unchanged.
    end: i64,
    /// A batch before the present one could not be decoded: it may have values of any key.
    passed_undecoded: Cell<bool>,
}

impl SecondPass<'_> {
    fn verdict(&self, batch: &[u8], header: &BatchHeader, age_from_ms: i64) -> Verdict {
        if header.base_offset >= self.end || header.attributes.is_control() {
            return Verdict::Keep;
        }
        if header.record_count == 0 {
            return if self.keeps_producer(header, age_from_ms) { Verdict::Keep } else { Verdict::Drop };
        }
        self.judge(batch, header, age_from_ms).unwrap_or_else(|| {
            self.passed_undecoded.set(true);
            Verdict::Keep
        })
    }

    /// Whether the batch must stay for its producer's sequence, even if empty.
    fn keeps_producer(&self, header: &BatchHeader, age_from_ms: i64) -> bool {
        let kept_until = age_from_ms.saturating_add(PRODUCER_KEPT_MS);
        self.scan.last_batch.get(&header.producer_id) == Some(&header.base_offset)
            && kept_until > self.policy.now_ms
    }

    /// `None` if the batch cannot be decoded or encoded.
    fn judge(&self, batch: &[u8], header: &BatchHeader, age_from_ms: i64) -> Option<Verdict> {
        let has_horizon = header.attributes.has_delete_horizon();
        // A tombstone stays while it may hide an older value.
        let expired =
            has_horizon && self.policy.now_ms >= header.base_timestamp && !self.passed_undecoded.get();
        let decoded = decode_records(batch, self.scan.decompressed_bytes_max).ok()?;
        let mut kept = Vec::with_capacity(header.record_count.clamp(0, 1 << 16) as usize);
        let mut count = 0;
        for record in decoded.iter() {
            let record = record.ok()?;
            count += 1;
            let stays = self.is_newest(&record, header) && !(expired && record.value.is_none());
            kept.extend(stays.then_some(record));
        }
        let horizon = match kept.iter().any(|record| record.value.is_none()) {
            false => None,
            true if has_horizon => Some(header.base_timestamp),
            true => Some(self.policy.now_ms.saturating_add(self.policy.delete_retention_ms)),
        };
        if kept.len() == count && horizon.is_some() == has_horizon {
            return Some(Verdict::Keep);
        }
        if kept.is_empty() && !self.keeps_producer(header, age_from_ms) {
            return Some(Verdict::Drop);
        }
        let rebuilt = rebuild_with_horizon(header, kept, horizon).ok()?;
        let header = BatchHeader::parse(&rebuilt).ok()?;
        Some(Verdict::Replace(rebuilt, header))
    }

    /// Whether no newer value of the record's key is known. A record without a key is removed: it was written
    /// before the topic became compacted.
    fn is_newest(&self, record: &Record<'_>, header: &BatchHeader) -> bool {
        let offset = offset_of(header, record);
        record
            .key
            .is_some_and(|key| self.scan.newest.get(&KeyHash::of(key)).is_none_or(|&newest| newest <= offset))
    }
}

impl Tables {
    /// Compacts a partition as far as the key map reaches; returns the offsets that the new part covers, or
    /// `None` if nothing could be done yet.
    pub(super) fn compact(
        &self,
        task: &Task,
        policy: &CompactPolicy,
        sources: &mut Sources<'_>,
        output: &mut Output<'_>,
        attempts: &mut Attempts,
    ) -> Result<Option<(i64, i64)>, Ended> {
        let stats = dirty_stats(&task.parts, policy);
        let clean_end = clean_end(&task.parts);
        let second_pass = self.first_pass(task, policy, clean_end, stats.end, sources)?;
        let advances = second_pass.end > clean_end;
        let passed_horizon = Some(stats.horizon).filter(|&horizon| horizon <= policy.now_ms);
        let attempt = Attempt { stuck: (!advances).then_some(stats), passed_horizon };
        attempts.0.insert(task.partition, attempt);
        let count = task.parts.partition_point(|part| part.start < second_pass.end);
        let parts = &task.parts[..count];
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(None) };
        if !advances && passed_horizon.is_none() {
            return Ok(None);
        }
        output.start_part(NewPart {
            partition: task.partition,
            start: first.start,
            clean_end: clean_end.max(second_pass.end),
            bytes_expected: parts.iter().map(|part| part.bytes_above(task.log_start)).sum(),
        })?;
        sources.each_batch(task, parts, |batch, header, age_from_ms| {
            match second_pass.verdict(batch, header, age_from_ms) {
                Verdict::Keep => Ok(output.push(batch, header, age_from_ms)?),
                Verdict::Drop => Ok(()),
                Verdict::Replace(batch, header) => Ok(output.push(&batch, &header, age_from_ms)?),
            }
        })?;
        output.end_part(last.end)?;
        Ok(Some((first.start, last.end)))
    }

    /// The first pass: collects keys until the map is full or records are too young.
    fn first_pass<'a>(
        &self,
        task: &Task,
        policy: &'a CompactPolicy,
        clean_end: i64,
        mut end: i64,
        sources: &mut Sources<'_>,
    ) -> Result<SecondPass<'a>, Ended> {
        let mut scan = Scan { decompressed_bytes_max: self.config.decompressed_bytes_max, ..Scan::default() };
        'all: for part in &task.parts {
            for (number, region) in part.regions().iter().enumerate() {
                if region.base_offset >= end {
                    break 'all;
                }
                if part.region_end(number) <= task.log_start {
                    continue;
                }
                if scan.keys() >= self.config.compact_keys_max {
                    end = region.base_offset;
                    break 'all;
                }
                sources.each_in_region(task, part, number, |batch, header, _| {
                    scan.batch(batch, header, header.base_offset >= clean_end);
                    Ok(())
                })?;
            }
        }
        if let Some(pending) = scan.first_pending() {
            // Back to the start of the region with the first undecided value.
            let part = task.parts.iter().find(|part| pending < part.end && part.regions > 0);
            let start = part.map(|part| part.regions()[part.region_of(pending)].base_offset);
            end = start.map_or(end, |start| end.min(start));
        }
        Ok(SecondPass { policy, scan, end, passed_undecoded: Cell::new(false) })
    }
}

//! Log compaction: of each key the newest value stays, at its offset.
//!
//! A compaction reads a partition twice: first to learn which keys have a newer value and which batch is each
//! producer's newest, then to write what stays. Promises: nothing changes its place; the newest value of every
//! key stays, and of tombstones too until their time; what a transaction wrote hides older values only once it is
//! known to be committed; markers stay; each producer's newest batch stays, if need be without its records, so that
//! its sequence can be told; bytes that cannot be decoded stay as they are.

use std::{
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

/// An empty batch is kept for its producer's sake for this time after the producer's last record.
const PRODUCER_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// A compaction that could not begin, because a transaction is open, waits until there is so many times more to do.
const RETRY_GROWTH: u64 = 2;
/// If there is only so much to do it waits until there is anything more.
const RETRY_CHEAP_BYTES: u64 = 1 << 20;

/// What a partition has to be compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dirt {
    clean_bytes: u64,
    dirty_bytes: u64,
    /// The earliest time from which a tombstone may go.
    horizon: i64,
    /// Offset from which records are too young.
    end: i64,
    /// Age of what is dirty, as the time of its oldest region: the indexes know the newest record of each.
    since: i64,
    /// The same, with what is too young to be compacted.
    oldest: i64,
}

impl Dirt {
    /// The next time, after that of the policy, from which age makes a compaction due; `i64::MAX` if there is none.
    pub(super) fn due_after(&self, policy: &CompactPolicy) -> i64 {
        let too_old = self.oldest.saturating_add(policy.max_lag_ms).saturating_add(1);
        let times = [too_old, self.horizon].into_iter().filter(|&at| at > policy.now_ms);
        times.min().unwrap_or(i64::MAX)
    }
}

/// Looks at the indexes for what is to be compacted.
pub(super) fn dirt(parts: &[Part], policy: &CompactPolicy) -> Dirt {
    let clean_end = clean_end(parts);
    let mut dirt = Dirt {
        clean_bytes: 0,
        dirty_bytes: 0,
        horizon: i64::MAX,
        end: young_from(parts, policy),
        since: i64::MAX,
        oldest: i64::MAX,
    };
    for part in parts {
        dirt.horizon = dirt.horizon.min(part.delete_horizon);
        for (number, region) in part.regions().iter().enumerate() {
            let bytes = part.span(number..number + 1).len() as u64;
            if region.base_offset < clean_end {
                dirt.clean_bytes += bytes;
                continue;
            }
            dirt.oldest = dirt.oldest.min(region.age_from_ms);
            if region.base_offset < dirt.end {
                dirt.dirty_bytes += bytes;
                dirt.since = dirt.oldest;
            }
        }
    }
    dirt
}

fn clean_end(parts: &[Part]) -> i64 {
    parts.iter().map(|part| part.clean_end).max().unwrap_or(i64::MIN)
}

/// Offset of the first region with a record that is younger than the lag; without a lag nothing is too young.
fn young_from(parts: &[Part], policy: &CompactPolicy) -> i64 {
    let newest = policy.now_ms.saturating_sub(policy.min_lag_ms);
    let mut regions = parts.iter().flat_map(|part| part.regions());
    let young = regions.find(|region| policy.min_lag_ms > 0 && region.age_from_ms > newest);
    young.map_or(parts.last().map_or(i64::MIN, |part| part.end), |region| region.base_offset)
}

/// What the last compaction of each partition could not do, so that it is not tried again at once.
#[derive(Debug, Default)]
pub(super) struct Attempts(IdMap<Attempt>);

#[derive(Clone, Copy, Debug)]
struct Attempt {
    stuck: Option<Dirt>,
    /// The horizon that had passed; if it is still there, what bears it cannot be decoded.
    passed_horizon: Option<i64>,
}

impl Attempts {
    /// Whether a partition is to be compacted now.
    pub(super) fn is_due(&self, partition: PartitionId, dirt: &Dirt, policy: &CompactPolicy) -> bool {
        let last = self.0.get(&partition);
        let all = (dirt.clean_bytes + dirt.dirty_bytes) as f64;
        let more = |stuck: Dirt| {
            dirt.end > stuck.end
                && (stuck.dirty_bytes <= RETRY_CHEAP_BYTES
                    || dirt.dirty_bytes >= stuck.dirty_bytes.saturating_mul(RETRY_GROWTH))
        };
        let overdue = policy.now_ms.saturating_sub(dirt.since) > policy.max_lag_ms;
        let dirty = dirt.dirty_bytes > 0
            && (overdue || dirt.dirty_bytes as f64 >= policy.min_dirty_ratio * all)
            && last.and_then(|last| last.stuck).is_none_or(more);
        let expired = dirt.horizon <= policy.now_ms
            && last.is_none_or(|last| last.passed_horizon != Some(dirt.horizon));
        dirty || expired
    }

    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.0.remove(&partition);
    }
}

/// 16 bytes that stand for a key.
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

/// What the first pass learns.
#[derive(Default)]
struct Scan {
    opened_bytes_max: usize,
    /// Offset of each key's newest value.
    newest: HashMap<KeyHash, i64, BuildHasherDefault<IdHasher>>,
    /// Values of transactions whose marker has not come yet, by producer.
    pending: HashMap<i64, Vec<(KeyHash, i64)>>,
    pending_count: usize,
    /// Base offset of each producer's newest batch.
    last_batch: HashMap<i64, i64>,
}

/// A producer may have written any delta: what lies outside of the batch must not hide what other batches have.
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
        let Ok(decoded) = decode_records(batch, self.opened_bytes_max) else { return };
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

    /// Ends a producer's transaction. A marker's key: version i16, type i16, of which 0 is abort and 1 commit.
    fn marker(&mut self, producer: i64, record: &Record<'_>) {
        let kind = record.key.and_then(|key| Some([*key.get(2)?, *key.get(3)?]));
        let values = self.pending.remove(&producer).unwrap_or_default();
        self.pending_count -= values.len();
        if kind == Some([0, 1]) {
            values.into_iter().for_each(|(key, offset)| self.set(key, offset));
        }
    }

    /// Offset of the first value of which it is not known whether it counts.
    fn first_pending(&self) -> Option<i64> {
        self.pending.values().filter_map(|values| values.first()).map(|(_, offset)| *offset).min()
    }
}

/// What becomes of a batch.
enum Verdict {
    Keep,
    Drop,
    Replace(Bytes, BatchHeader),
}

/// What the second pass works by.
struct Plan<'a> {
    policy: &'a CompactPolicy,
    scan: Scan,
    /// Offset from which everything stays as it is.
    end: i64,
}

impl Plan<'_> {
    fn verdict(&self, batch: &[u8], header: &BatchHeader, age_from_ms: i64) -> Verdict {
        if header.base_offset >= self.end || header.attributes.is_control() {
            return Verdict::Keep;
        }
        if header.record_count == 0 {
            return if self.keeps_producer(header, age_from_ms) { Verdict::Keep } else { Verdict::Drop };
        }
        self.judge(batch, header, age_from_ms).unwrap_or(Verdict::Keep)
    }

    /// Whether the batch must stay for its producer's sake, and be it empty.
    fn keeps_producer(&self, header: &BatchHeader, age_from_ms: i64) -> bool {
        let kept_until = age_from_ms.saturating_add(PRODUCER_KEPT_MS);
        self.scan.last_batch.get(&header.producer_id) == Some(&header.base_offset)
            && kept_until > self.policy.now_ms
    }

    /// `None` if the batch cannot be decoded or encoded.
    fn judge(&self, batch: &[u8], header: &BatchHeader, age_from_ms: i64) -> Option<Verdict> {
        let has_horizon = header.attributes.has_delete_horizon();
        let expired = has_horizon && self.policy.now_ms >= header.base_timestamp;
        let decoded = decode_records(batch, self.scan.opened_bytes_max).ok()?;
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

    /// Whether no newer value of the record's key is known. A record without a key has no place in a compacted
    /// topic: the topic was not compacted when it came.
    fn is_newest(&self, record: &Record<'_>, header: &BatchHeader) -> bool {
        let offset = offset_of(header, record);
        record
            .key
            .is_some_and(|key| self.scan.newest.get(&KeyHash::of(key)).is_none_or(|&newest| newest <= offset))
    }
}

impl Tables {
    /// Compacts a partition as far as the key map reaches; gives the offsets that the new part stands for, or
    /// `None` if there was nothing to be done yet.
    pub(super) fn compact(
        &self,
        task: &Task,
        policy: &CompactPolicy,
        sources: &mut Sources<'_>,
        output: &mut Output<'_>,
        attempts: &mut Attempts,
    ) -> Result<Option<(i64, i64)>, Ended> {
        let dirt = dirt(&task.parts, policy);
        let clean_end = clean_end(&task.parts);
        let plan = self.plan(task, policy, clean_end, dirt.end, sources)?;
        let advances = plan.end > clean_end;
        let passed_horizon = Some(dirt.horizon).filter(|&horizon| horizon <= policy.now_ms);
        let attempt = Attempt { stuck: (!advances).then_some(dirt), passed_horizon };
        attempts.0.insert(task.partition, attempt);
        let count = task.parts.partition_point(|part| part.start < plan.end);
        let parts = &task.parts[..count];
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(None) };
        if !advances && passed_horizon.is_none() {
            return Ok(None);
        }
        output.start_part(NewPart {
            partition: task.partition,
            start: first.start,
            clean_end: clean_end.max(plan.end),
            bytes_expected: parts.iter().map(|part| part.bytes_above(task.log_start)).sum(),
        })?;
        sources.each_batch(task, parts, |batch, header, age_from_ms| {
            match plan.verdict(batch, header, age_from_ms) {
                Verdict::Keep => Ok(output.push(batch, header, age_from_ms)?),
                Verdict::Drop => Ok(()),
                Verdict::Replace(batch, header) => Ok(output.push(&batch, &header, age_from_ms)?),
            }
        })?;
        output.end_part(last.end)?;
        Ok(Some((first.start, last.end)))
    }

    /// The first pass: learns keys until there are too many or records are too young.
    fn plan<'a>(
        &self,
        task: &Task,
        policy: &'a CompactPolicy,
        clean_end: i64,
        mut end: i64,
        sources: &mut Sources<'_>,
    ) -> Result<Plan<'a>, Ended> {
        let mut scan = Scan { opened_bytes_max: self.config.opened_bytes_max, ..Scan::default() };
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
            // Back to the start of the region with the first value that may or may not count.
            let part = task.parts.iter().find(|part| pending < part.end && part.regions > 0);
            let start = part.map(|part| part.regions()[part.region_of(pending)].base_offset);
            end = start.map_or(end, |start| end.min(start));
        }
        Ok(Plan { policy, scan, end })
    }
}

//! The initial corpus of the targets: real messages, batches, logs and runs, as short as possible.

use std::sync::Arc;

use bytes::Bytes;
use millstream_batch::{BatchBuilder, BatchHeader, Codec, NewRecord, compress, stamp};
use millstream_model::{LogId, PartitionId, RaftGroupId};
use millstream_protocol::{
    ApiKey, RequestHeader, Writer,
    reader::{MEMORY_ALLOWANCE_BYTES, MEMORY_PER_FRAME_BYTE_MAX},
    testing::{CASES, Case, Kind, Rng},
};
use millstream_store::{
    disk::sim::SimDisk,
    tables::{StoredBatch, Tables, TablesConfig},
    wal::{Draft, RecoveryBase, Wal, WalConfig},
};

use crate::image::{File, describe};

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
/// Longer messages do not improve coverage.
const MESSAGE_BYTES_MAX: usize = 400;
/// Messages that are inside bytes have no API; they are numbered from here on.
const DATA_FROM: u16 = 0xff00;

/// The message of this kind of an API.
pub fn case(kind: Kind, key: ApiKey) -> Option<&'static Case> {
    CASES.iter().find(|case| case.kind == kind && case.key == Some(key))
}

/// A response by the number of its API, or another message that a client decodes.
pub fn response(number: u16) -> Option<&'static Case> {
    match number.checked_sub(DATA_FROM) {
        Some(nth) => CASES.iter().filter(|case| case.kind == Kind::Data).nth(nth.into()),
        None => case(Kind::Response, ApiKey::from_i16(number as i16)?),
    }
}

/// Memory for decoding and encoding a message of this size: both messages of a conversion, and their bytes.
pub fn memory_bytes_max(bytes: usize) -> usize {
    2 * (MEMORY_ALLOWANCE_BYTES + bytes * MEMORY_PER_FRAME_BYTE_MAX) + 4 * bytes
}

/// Log files as short as possible. The salt is random, so existing files cannot predict it.
pub fn wal_config(salt: u32) -> WalConfig {
    WalConfig {
        file_bytes: 32 << 10,
        first_file_bytes: 16 << 10,
        chunk_bytes: 32 << 10,
        salt,
        ..WalConfig::default()
    }
}

/// Targets and the seeds of each.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("frames", frames()),
        ("requests", requests()),
        ("responses", responses()),
        ("batches", batches()),
        ("records", records()),
        ("wal", logs()),
        ("runs", runs()),
    ]
}

/// The longest of some random messages below the limit.
fn message(case: &Case, version: i16, rng: &mut Rng) -> Option<Bytes> {
    let mut random = || (case.round_trip)(rng, version).expect("a round trip");
    let found: Vec<Bytes> =
        (0..20).map(|_| random()).filter(|bytes| bytes.len() <= MESSAGE_BYTES_MAX).collect();
    found.into_iter().max_by_key(Bytes::len)
}

/// The first and the last version, and one between: they cover the fields of the others.
fn versions(case: &Case) -> Vec<i16> {
    let (min, max) = (case.versions.min, case.versions.max);
    let mut versions = vec![min, (min + max) / 2, max];
    versions.dedup();
    versions
}

fn of_kind(kinds: &[Kind], mut seed: impl FnMut(&Case, i16, Bytes) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(4);
    let mut seeds = Vec::new();
    for case in CASES.iter().filter(|case| kinds.contains(&case.kind)) {
        for version in versions(case) {
            seeds.extend(message(case, version, &mut rng).map(|body| seed(case, version, body)));
        }
    }
    seeds
}

fn request(case: &Case, version: i16, body: &[u8]) -> Vec<u8> {
    let key = case.key.map_or(-1, |key| key as i16);
    let mut writer = Writer::new();
    let header = RequestHeader { key, version, correlation_id: 1, client_id: Some("fuzz".into()) };
    header.encode(&mut writer).expect("a header");
    [&writer.finish_contiguous()[..], body].concat()
}

fn requests() -> Vec<Vec<u8>> {
    of_kind(&[Kind::Request], |case, version, body| request(case, version, &body))
}

fn responses() -> Vec<Vec<u8>> {
    let data: Vec<&str> = CASES.iter().filter(|case| case.kind == Kind::Data).map(|case| case.name).collect();
    of_kind(&[Kind::Response, Kind::Data], |case, version, body| {
        let nth = data.iter().position(|name| *name == case.name);
        let number = nth.map_or_else(|| case.key.map_or(0, |key| key as u16), |nth| DATA_FROM + nth as u16);
        [&number.to_be_bytes()[..], &[version as u8], &body].concat()
    })
}

fn frames() -> Vec<Vec<u8>> {
    let framed = |body: &[u8]| [&(body.len() as u32).to_be_bytes()[..], body].concat();
    let whole: Vec<u8> = requests().iter().take(4).flat_map(|request| framed(request)).collect();
    let long = framed(&[7; 40_000]);
    let bad = [&framed(&[1, 2, 3])[..], &[0xff; 4]].concat();
    let seed = |limit: u8, pieces: u8, stream: &[u8]| [&[limit, pieces], stream].concat();
    vec![
        seed(12, 0, &whole),
        seed(12, 3, &whole),
        seed(16, 200, &long),
        seed(5, 1, &bad),
        seed(17, 0, &[0x7f; 9]),
    ]
}

/// A batch of some records from `base` on, as an idempotent producer sends it and the leader stamps it.
fn batch(codec: Codec, base: i64, records: usize, keys: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec).producer(7, 1, base as i32);
    for n in 0..records {
        let key = format!("k{}", (base as usize + n) % keys);
        let value = vec![(base as usize + n) as u8; 20];
        builder.push(NewRecord {
            timestamp_ms: 1000 + n as i64,
            key: Some(key.as_bytes()),
            value: (n % 3 != 2).then_some(&value),
            headers: &[(b"h", Some(b"v")), (b"h", None)],
        });
    }
    let mut bytes = builder.build().expect("a batch").to_vec();
    stamp(&mut bytes, base, 3);
    bytes
}

fn batches() -> Vec<Vec<u8>> {
    let one = |codec| [&[1][..], &batch(codec, 100, 4, 3)].concat();
    let mut seeds: Vec<Vec<u8>> = CODECS.into_iter().map(one).collect();
    seeds.push([&[0][..], &batch(Codec::None, 0, 2, 2), &batch(Codec::Zstd, 2, 2, 2)].concat());
    seeds
}

fn records() -> Vec<Vec<u8>> {
    let plain = batch(Codec::None, 0, 6, 3)[61..].to_vec();
    let mut seeds = Vec::new();
    for (n, codec) in CODECS.into_iter().enumerate() {
        for input in [&plain[..], &[0; 3000], &[]] {
            let packed = compress(codec, None, input).expect("compresses");
            seeds.push([&[n as u8, 6][..], &packed].concat());
        }
    }
    let raw = snap(&plain);
    seeds.push([&[2, 6][..], &raw].concat());
    seeds
}

/// Raw Snappy, as some clients send it: the content of the Java library's framing.
fn snap(input: &[u8]) -> Vec<u8> {
    let framed = compress(Codec::Snappy, None, input).expect("compresses");
    framed[20..].to_vec()
}

/// Logs as a kill leaves them: with entries of two groups, votes, a truncation, purges and several files.
fn logs() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (rounds, payload_bytes) in [(1, 20), (3, 900), (9, 1500)] {
        let disk = SimDisk::new(1);
        let (wal, _) = Wal::open_stepped(Arc::new(disk.clone()), wal_config(7), &RecoveryBase::default())
            .expect("opens");
        wal.group(RaftGroupId(0)).save_vote(&[9; 17], |_| {}).expect("voted");
        for index in 0..rounds {
            for group in [RaftGroupId(1), RaftGroupId(2)] {
                let payload = Bytes::from(vec![index as u8 + 1; payload_bytes]);
                wal.group(group)
                    .append([Draft { id: LogId::new(2, index), kind: 1, payload }], |_| {})
                    .expect("appended");
            }
            wal.group(RaftGroupId(2)).save_committed(LogId::new(2, index));
            wal.step();
        }
        wal.group(RaftGroupId(1)).truncate_after(Some(LogId::new(2, rounds / 2))).expect("truncated");
        wal.group(RaftGroupId(2)).purge(LogId::new(2, rounds / 3)).expect("purged");
        wal.step();
        wal.step_seal();
        seeds.push(describe(&files_of(&disk, "wal/wal-")));
    }
    seeds
}

/// Runs of a few partitions, with several batches, codecs and keys, one of them merged from others.
fn runs() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (flushes, codec) in [(1, Codec::None), (2, Codec::Zstd), (3, Codec::Gzip)] {
        let disk = SimDisk::new(1);
        let (tables, _) = Tables::open(Arc::new(disk.clone()), TablesConfig::tiny()).expect("opens");
        for flush in 0..flushes {
            for n in 0..4u64 {
                let base = (flush * 4 + n as i64) * 3;
                let bytes = batch(codec, base, 3, 4);
                let header = BatchHeader::parse(&bytes).expect("a header");
                let stored = StoredBatch {
                    bytes: bytes.into(),
                    base_offset: base,
                    next_offset: header.next_offset(),
                    max_timestamp: header.max_timestamp,
                    appended_ms: header.max_timestamp,
                };
                let id = LogId::new(1, (flush as u64 * 4) + n + 1);
                // The same batch in two partitions.
                tables.insert(RaftGroupId(1), id, PartitionId(1), stored.clone());
                tables.insert(RaftGroupId(1), id, PartitionId(3), stored);
                tables.applied(RaftGroupId(1), id);
            }
            tables.flush().expect("flushed");
        }
        for mode in [2, 3] {
            seeds.push([&[mode][..], &describe(&files_of(&disk, "tables/run-"))].concat());
        }
    }
    seeds
}

/// The files with this name prefix; a number in hexadecimal follows.
fn files_of(disk: &SimDisk, prefix: &str) -> Vec<File> {
    let named = disk.files().into_iter().filter_map(|(path, bytes)| {
        let name = path.to_str()?.strip_prefix(prefix)?;
        Some(File { number: u64::from_str_radix(name.split('.').next()?, 16).ok()?, bytes })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{log_files, run_files};

    #[test]
    fn files_come_back_from_their_description() {
        for seed in logs() {
            assert_eq!(describe(&log_files(&seed)), seed);
        }
        for seed in runs() {
            assert_eq!(describe(&run_files(&seed[1..])), seed[1..]);
        }
    }
}

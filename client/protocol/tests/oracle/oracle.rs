//! Messages for the Java oracle, and a check of those that it made; `run` starts both.
//!
//! `oracle emit SEED ROUNDS` prints lines `KIND NAME KEY VERSION FRAME OTHER BODY`: random messages of every API and
//! version, with their headers, in hex; and the body as it is written in another version, or `refused`. `oracle check FILE` reads lines `KIND NAME KEY VERSION FRAME VARIANT`: what Java wrote of a
//! message, and the same message with defaults written out and unknown tagged fields. Both must be read, and written as
//! the first.

use std::env;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use bytes::Bytes;
use millstream_protocol::testing::{CASES, Case, Kind, Rng, RoundTripError};
use millstream_protocol::{ApiKey, Reader, RequestHeader, ResponseHeader, Str, Writer};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["emit", seed, rounds] => match (seed.parse(), rounds.parse()) {
            (Ok(seed), Ok(rounds)) => emit(seed, rounds).map(|()| true),
            _ => Err(io::Error::other("SEED and ROUNDS are numbers")),
        },
        ["check", file] => check(file),
        _ => Err(io::Error::other("usage: oracle emit SEED ROUNDS | oracle check FILE")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("oracle: {error}");
            ExitCode::FAILURE
        }
    }
}

fn emit(seed: u64, rounds: u64) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut rng = Rng::new(seed);
    for case in CASES {
        for version in case.versions.min..=case.versions.max {
            for _ in 0..rounds {
                let fail = |error| io::Error::other(format!("{} version {version}: {error:?}", case.name));
                let (header, body) = random_message(case, version, &mut rng).map_err(fail)?;
                let key = case.key.map_or(-1, |key| key as i16);
                let other = case.versions.min
                    + rng.below((case.versions.max - case.versions.min) as usize + 1) as i16;
                let converted = match (case.convert)(body.clone(), version, other) {
                    Ok(body) => format!("={}", hex(&body)),
                    Err(RoundTripError::Encode(_)) => "refused".to_owned(),
                    Err(error) => return Err(fail(format!("{error:?}").into())),
                };
                let (kind, name, header, body) = (kind(case.kind), case.name, hex(&header), hex(&body));
                writeln!(out, "{kind} {name} {key} {version} {header}{body} {other} {converted}")?;
            }
        }
    }
    out.flush()
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Request => "request",
        Kind::Response => "response",
        Kind::Data => "data",
    }
}

type Failure = Box<dyn std::error::Error>;

/// A header and a body.
fn random_message(case: &Case, version: i16, rng: &mut Rng) -> Result<(Bytes, Bytes), Failure> {
    let mut w = Writer::new();
    let correlation_id = rng.i32();
    match (case.kind, case.key) {
        (Kind::Request, Some(key)) => {
            let client_id = if rng.one_in(4) { None } else { Some(rng.string()) };
            RequestHeader { key: key as i16, version, correlation_id, client_id }.encode(&mut w)?;
        }
        (Kind::Response, Some(key)) => ResponseHeader { correlation_id }.encode(&mut w, key, version),
        _ => {}
    }
    let body = (case.round_trip)(rng, version).map_err(|error| format!("{error:?}"))?;
    Ok((w.finish_contiguous(), body))
}

fn check(file: &str) -> io::Result<bool> {
    let (mut passed, mut failed) = (0, 0);
    for (index, line) in fs::read_to_string(file)?.lines().enumerate() {
        match check_line(line) {
            Ok(()) => passed += 1,
            Err(error) => {
                failed += 1;
                println!("FAIL line {}: {}: {error}", index + 1, line.get(..80).unwrap_or(line));
            }
        }
    }
    println!("java to rust: {passed} passed, {failed} failed");
    Ok(failed == 0 && passed > 0)
}

fn check_line(line: &str) -> Result<(), Failure> {
    let words: Vec<&str> = line.split(' ').collect();
    let [kind_name, name, _key, version, frame, variant] = words[..] else {
        return Err("not six words".into());
    };
    let case = CASES
        .iter()
        .find(|case| case.name == name && kind(case.kind) == kind_name)
        .ok_or("no such message")?;
    let version: i16 = version.parse()?;
    let frame = unhex(frame).ok_or("not hex")?;
    let again = recode(case, version, frame.clone())?;
    if again != frame {
        return Err(format!("is written as {}", hex(&again)).into());
    }
    let from_variant = recode(case, version, unhex(variant).ok_or("not hex")?)?;
    if from_variant != frame {
        return Err(format!("its variant is written as {}", hex(&from_variant)).into());
    }
    Ok(())
}

/// Reads header and body to their end, and writes what was read.
fn recode(case: &Case, version: i16, frame: Bytes) -> Result<Bytes, Failure> {
    let mut r = Reader::new(frame);
    let mut w = Writer::new();
    match (case.kind, case.key) {
        (Kind::Request, Some(key)) => {
            let header = RequestHeader::decode(&mut r)?;
            if (ApiKey::from_i16(header.key), header.version) != (Some(key), version) {
                return Err(format!("the header is read as {header:?}").into());
            }
            let client_id = header.client_id.as_ref().map(Str::detached);
            RequestHeader { client_id, ..header }.encode(&mut w)?;
        }
        (Kind::Response, Some(key)) => {
            ResponseHeader::decode(&mut r, key, version)?.encode(&mut w, key, version)
        }
        _ => {}
    }
    let body = (case.recode)(r.rest(), version).map_err(|error| format!("{error:?}"))?;
    w.raw(&body);
    Ok(w.finish_contiguous())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]].map(char::from))
        .collect()
}

fn unhex(text: &str) -> Option<Bytes> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(pair.first()?)? << 4 | digit(pair.get(1)?)?) as u8)).collect()
}

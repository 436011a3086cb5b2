//! The `kafka-protocol` crate as a second opinion: what we write, it reads and writes alike, for what it knows.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey as TheirKey, RequestKind, ResponseKind};
use millstream_protocol::testing::{CASES, Case, Kind, Rng};
use millstream_protocol::{ApiKey, Reader, RequestHeader, ResponseHeader, Writer};

const ROUNDS: usize = 20;

/// The message as the other crate writes what it reads; the bytes must be used up. `None` when it does not know the
/// version: its table of keys names some that its messages refuse.
fn theirs(case: &Case, key: TheirKey, version: i16, bytes: &Bytes) -> Option<Result<Bytes, String>> {
    let (mut input, mut output) = (bytes.clone(), BytesMut::new());
    let done = match case.kind {
        Kind::Request => RequestKind::decode(key, &mut input, version)
            .and_then(|message| message.encode(&mut output, version)),
        _ => ResponseKind::decode(key, &mut input, version)
            .and_then(|message| message.encode(&mut output, version)),
    };
    Some(match done {
        Err(error) if format!("{error:?}").contains("version not supported") => return None,
        Err(error) => Err(format!("{error:?}")),
        Ok(()) if !input.is_empty() => Err(format!("{} bytes are left", input.len())),
        Ok(()) => Ok(output.freeze()),
    })
}

#[test]
fn the_kafka_protocol_crate_agrees_on_every_message_that_it_knows() {
    let mut rng = Rng::new(18);
    let (mut compared, mut apis) = (0, 0);
    for case in CASES {
        let Some(key) = case.key.and_then(|key| TheirKey::try_from(key as i16).ok()) else { continue };
        let known = key.valid_versions();
        apis += 1;
        for version in case.versions.min.max(known.min)..=case.versions.max.min(known.max) {
            for _ in 0..ROUNDS {
                let bytes = (case.round_trip)(&mut rng, version).expect("a round trip");
                let Some(again) = theirs(case, key, version, &bytes) else { continue };
                let again = again
                    .unwrap_or_else(|error| panic!("{} version {version}: {error}: {bytes:02x?}", case.name));
                assert_eq!(again, bytes, "{} version {version}", case.name);
                compared += 1;
            }
        }
    }
    println!("{compared} messages of {apis} types");
    assert!(compared > 9_000 && apis > 120, "{compared} messages of {apis} types were compared");
}

#[test]
fn the_kafka_protocol_crate_agrees_on_headers() {
    use kafka_protocol::messages::{RequestHeader as TheirRequest, ResponseHeader as TheirResponse};
    use kafka_protocol::protocol::Decodable;
    for key in ApiKey::ALL {
        let Ok(their_key) = TheirKey::try_from(*key as i16) else { continue };
        let known = their_key.valid_versions();
        for version in key.versions().min.max(known.min)..=key.versions().max.min(known.max) {
            let header =
                RequestHeader { key: *key as i16, version, correlation_id: 7, client_id: Some("c".into()) };
            let mut w = Writer::new();
            header.encode(&mut w).expect("a header");
            let mut bytes = w.finish_contiguous();
            assert_eq!(RequestHeader::decode(&mut Reader::new(bytes.clone())), Ok(header));
            let their = TheirRequest::decode(&mut bytes, their_key.request_header_version(version))
                .expect("a header");
            assert_eq!((their.request_api_key, their.request_api_version), (*key as i16, version));
            assert_eq!((their.correlation_id, their.client_id.as_deref()), (7, Some("c")));
            assert!(bytes.is_empty(), "{key} version {version}: {} bytes are left", bytes.len());

            let mut w = Writer::new();
            ResponseHeader { correlation_id: -8 }.encode(&mut w, *key, version);
            let mut bytes = w.finish_contiguous();
            let their = TheirResponse::decode(&mut bytes, their_key.response_header_version(version))
                .expect("a header");
            assert_eq!((their.correlation_id, bytes.len()), (-8, 0), "{key} version {version}");
        }
    }
}

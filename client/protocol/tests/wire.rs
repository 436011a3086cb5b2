//! The bytes themselves: numbers, strings, headers, frames, tagged fields, nulls, limits, and what is not copied.

use std::cmp::Ordering;
use std::collections::HashMap;

use bytes::Bytes;
use millstream_protocol::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};
use millstream_protocol::messages::consumer_protocol::{
    ConsumerProtocolSubscription, SubscriptionTopicPartition,
};
use millstream_protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};
use millstream_protocol::messages::delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
use millstream_protocol::messages::fetch::{
    EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData,
};
use millstream_protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use millstream_protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use millstream_protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use millstream_protocol::messages::share_fetch;
use millstream_protocol::reader::{ARRAY_ELEMENTS_MAX, STRING_BYTES_MAX, TAGGED_FIELDS_MAX};
use millstream_protocol::{
    ApiKey, COPIED_BYTES_MAX, DecodeError, EncodeError, FrameError, Message, Reader, Records, Request,
    RequestHeader, ResponseHeader, Str, Uuid, VersionRange, Writer, correlation_id, decode_body, decode_data,
    decode_response, encode_data, encode_request_frame, encode_response_frame, frame_length,
};

fn reader(bytes: &[u8]) -> Reader {
    Reader::new(Bytes::copy_from_slice(bytes))
}

fn written<M: Message>(message: &M, version: i16) -> Result<Vec<u8>, EncodeError> {
    let mut w = Writer::new();
    message.encode(&mut w, version)?;
    Ok(w.finish_contiguous().to_vec())
}

fn read<M: Message>(bytes: &[u8], version: i16) -> Result<M, DecodeError> {
    decode_body(&mut reader(bytes), version)
}

#[test]
fn varints_take_five_and_ten_bytes_at_most() {
    for (value, bytes) in [
        (0u32, &[0x00][..]),
        (127, &[0x7f]),
        (128, &[0x80, 0x01]),
        (300, &[0xac, 0x02]),
        (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
    ] {
        let mut w = Writer::new();
        w.uvarint(value);
        assert_eq!(w.finish_contiguous(), bytes);
        assert_eq!(reader(bytes).uvarint(), Ok(value));
    }
    for (value, bytes) in [
        (0, &[0x00][..]),
        (-1, &[0x01]),
        (1, &[0x02]),
        (-65, &[0x81, 0x01]),
        (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
    ] {
        let mut w = Writer::new();
        w.varint(value);
        assert_eq!(w.finish_contiguous(), bytes);
        assert_eq!(reader(bytes).varint(), Ok(value));
        assert_eq!(reader(bytes).varlong(), Ok(value.into()));
    }
    for value in [0, -1, i64::MAX, i64::MIN, 1 << 40] {
        let mut w = Writer::new();
        w.varlong(value);
        assert_eq!(Reader::new(w.finish_contiguous()).varlong(), Ok(value));
    }
    let endless = DecodeError::Varint { at: 0 };
    assert_eq!(reader(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]).uvarint(), Err(endless.clone()), "six bytes");
    assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x1f]).uvarint(), Err(endless.clone()), "33 bits");
    assert_eq!(reader(&[0x80; 11]).uvarlong(), Err(endless.clone()), "eleven bytes");
    assert_eq!(
        reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).uvarlong(),
        Err(endless),
        "65 bits"
    );
    assert_eq!(reader(&[0x80]).uvarint(), Err(DecodeError::Truncated { at: 1, need: 1, have: 0 }));
}

#[test]
fn strings_are_checked_for_length_null_and_utf8() {
    assert_eq!(reader(&[0, 2, b'h', b'i']).string(false).expect("text"), "hi");
    assert_eq!(reader(&[3, b'h', b'i']).string(true).expect("text"), "hi");
    assert_eq!(reader(&[0xff, 0xff]).nullable_string(false), Ok(None));
    assert_eq!(reader(&[0]).nullable_string(true), Ok(None));
    assert_eq!(reader(&[0xff, 0xff]).string(false), Err(DecodeError::Null { at: 2 }));
    assert_eq!(reader(&[0]).string(true), Err(DecodeError::Null { at: 1 }));
    assert_eq!(reader(&[0xff, 0xfe]).nullable_string(false), Err(DecodeError::Length { at: 2, length: -2 }));
    assert_eq!(reader(&[0, 1, 0xff]).string(false), Err(DecodeError::Utf8 { at: 2 }));
    assert_eq!(
        reader(&[0, 3, 0xed, 0xa0, 0x80]).string(false),
        Err(DecodeError::Utf8 { at: 2 }),
        "half a surrogate"
    );
    assert_eq!(reader(&[0, 3, b'h']).string(false), Err(DecodeError::Truncated { at: 2, need: 3, have: 1 }));
    let too_long = [&[0x81, 0x80, 0x02][..], &vec![b'x'; STRING_BYTES_MAX + 1]].concat();
    let length = STRING_BYTES_MAX as i64 + 1;
    assert_eq!(reader(&too_long).string(true), Err(DecodeError::Length { at: 3, length }));
    let field = "Topic.Name";
    let refused = Writer::new().string(&"x".repeat(STRING_BYTES_MAX + 1), true, field);
    assert_eq!(
        refused,
        Err(EncodeError::TooLong { field, length: STRING_BYTES_MAX + 1, length_max: STRING_BYTES_MAX })
    );
}

#[test]
fn bytes_and_arrays_refuse_negative_lengths_and_nulls() {
    assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff]).nullable_bytes(false), Ok(None));
    assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff]).bytes(false), Err(DecodeError::Null { at: 4 }));
    assert_eq!(
        reader(&[0x80, 0, 0, 0]).nullable_bytes(false),
        Err(DecodeError::Length { at: 4, length: i32::MIN.into() })
    );
    assert_eq!(reader(&[0]).array(true, 1, Reader::i8), Err(DecodeError::Null { at: 1 }));
    assert_eq!(reader(&[0, 0, 0, 2, 1, 2]).array(false, 1, Reader::i8), Ok(vec![1, 2]));
    let announced = reader(&[0, 0, 0, 3, 1, 2]).array(false, 1, Reader::i8);
    assert_eq!(announced, Err(DecodeError::Elements { at: 4, count: 3, count_max: 2 }));
    let announced = reader(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]).array(false, 8, Reader::i64);
    assert_eq!(announced, Err(DecodeError::Elements { at: 4, count: i32::MAX as usize, count_max: 0 }));
}

#[test]
fn more_than_a_million_elements_are_refused_even_when_they_are_there() {
    let mut w = Writer::new();
    w.i32(ARRAY_ELEMENTS_MAX as i32);
    w.raw(&vec![1; ARRAY_ELEMENTS_MAX + 1]);
    let bytes = w.finish_contiguous();
    let read = Reader::new(bytes.clone()).array(false, 1, Reader::i8).expect("a million");
    assert_eq!(read.len(), ARRAY_ELEMENTS_MAX);
    let mut more = bytes.to_vec();
    more[3] += 1;
    let error = reader(&more).array(false, 1, Reader::i8);
    let count = ARRAY_ELEMENTS_MAX + 1;
    assert_eq!(error, Err(DecodeError::Elements { at: 4, count, count_max: ARRAY_ELEMENTS_MAX }));
}

#[test]
fn elements_that_are_larger_in_memory_than_on_the_wire_are_bounded() {
    let mut w = Writer::new();
    w.uvarint(900_001);
    w.raw(&vec![1; 900_000]);
    let error = Reader::new(w.finish_contiguous()).array(true, 1, |r| r.string(true));
    assert!(matches!(error, Err(DecodeError::Memory { .. })), "{:?}", error.map(|strings| strings.len()));
    let mut w = Writer::new();
    w.uvarint(200_001);
    (0..200_000).for_each(|_| w.string("topic", true, "").expect("short"));
    let names = Reader::new(w.finish_contiguous()).array(true, 1, |r| r.string(true)).expect("names");
    assert_eq!(names.len(), 200_000);
}

#[test]
fn text_compares_and_hashes_as_text() {
    let shared = Bytes::from_static(b"a frame with orders in it");
    let name = Str::from_utf8(shared.slice(13..19)).expect("text");
    assert_eq!(name, "orders");
    assert_eq!(name, Str::from(String::from("orders")));
    assert_eq!(name.len(), 6);
    assert_eq!(format!("{name} {name:?}"), "orders \"orders\"");
    assert_eq!(name.cmp(&Str::from("ordera")), Ordering::Greater);
    let map = HashMap::from([(name.clone(), 1)]);
    assert_eq!(map.get("orders"), Some(&1));
    assert_eq!(Str::default(), "");
    let alone = name.detached();
    assert_eq!(alone, name);
    let range = shared.as_ptr_range();
    assert!(range.contains(&name.as_ptr()) && !range.contains(&alone.as_ptr()), "a slice, and a copy");
    assert_eq!(Str::from_utf8(Bytes::from_static(&[0xc3])), Err(Bytes::from_static(&[0xc3])));
}

#[test]
fn ids_are_printed_as_usual() {
    let id = Uuid([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(id.to_string(), "12345678-9abc-def0-0102-030405060708");
    assert!(Uuid::default().is_zero() && !id.is_zero());
}

#[test]
fn record_sets_are_equal_when_their_bytes_are() {
    let one = Records::One(Bytes::from_static(b"abc"));
    let many = Records::from(vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"bc")]);
    assert_eq!(one, many);
    assert_eq!((many.len(), many.is_empty(), many.is_none()), (3, false, false));
    assert_ne!(Records::None, Records::Many(Vec::new()), "null is not empty");
    assert_ne!(one, Records::from(Bytes::from_static(b"abd")));
    assert!(Records::default().is_none());
}

#[test]
fn a_request_has_header_two_when_its_version_is_flexible() {
    let hello = ApiVersionsRequest {
        client_software_name: "me".into(),
        client_software_version: "1".into(),
        ..Default::default()
    };
    let chain = encode_request_frame(3, 5, Some("id"), &hello).expect("a frame");
    let mut wanted = vec![0, 0, 0, 19, 0, 18, 0, 3, 0, 0, 0, 5, 0, 2, b'i', b'd', 0];
    wanted.extend([3, b'm', b'e', 2, b'1', 0]);
    assert_eq!(chain.concat(), wanted);
    let chain = encode_request_frame(0, 5, None, &hello).expect("ignorable fields are dropped");
    assert_eq!(chain.concat(), [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 5, 0xff, 0xff]);

    let mut r = reader(&wanted[4..]);
    let header = RequestHeader::decode(&mut r).expect("a header");
    let client_id = Some(Str::from("id"));
    assert_eq!(header, RequestHeader { key: 18, version: 3, correlation_id: 5, client_id });
    assert_eq!(decode_body::<ApiVersionsRequest>(&mut r, 3), Ok(hello));
}

#[test]
fn a_header_of_an_unknown_key_or_version_can_be_read() {
    let bytes = [0x03, 0xe8, 0, 9, 0, 0, 0, 1, 0xff, 0xff];
    let header = RequestHeader::decode(&mut reader(&bytes)).expect("version 1 of the header");
    assert_eq!((header.key, header.version, header.client_id), (1000, 9, None));
    let bytes = [0, 18, 0, 99, 0, 0, 0, 1, 0xff, 0xff, 1, 7, 2, 0xaa, 0xbb];
    let mut r = reader(&bytes);
    let header = RequestHeader::decode(&mut r).expect("version 2 of the header, with a tagged field");
    assert_eq!((header.version, r.remaining()), (99, 0));
    let message = "ApiVersionsRequest";
    assert_eq!(ApiVersionsRequest::decode(&mut r, 99), Err(DecodeError::Version { message, version: 99 }));
    assert_eq!(
        written(&ApiVersionsRequest::default(), -1),
        Err(EncodeError::Version { message, version: -1 })
    );
}

#[test]
fn sasl_handshake_is_never_flexible() {
    assert_eq!(ApiKey::SaslHandshake.flexible_from(), i16::MAX);
    assert_eq!(ApiKey::from_i16(17), Some(ApiKey::SaslHandshake));
    assert_eq!(ApiKey::from_i16(-1), None);
    let mut w = Writer::new();
    ResponseHeader { correlation_id: 1 }.encode(&mut w, ApiKey::SaslHandshake, 1);
    assert_eq!(w.len(), 4);
}

#[test]
fn the_table_of_keys_is_in_order_and_knows_what_is_not_stable() {
    let numbers: Vec<i16> = ApiKey::ALL.iter().map(|key| *key as i16).collect();
    assert!(numbers.is_sorted() && numbers.len() >= 73, "{numbers:?}");
    assert!(ApiKey::ALL.iter().all(|key| ApiKey::from_i16(*key as i16) == Some(*key)));
    assert_eq!(ApiKey::InitProducerId.versions(), VersionRange { min: 0, max: 6 });
    assert_eq!(ApiKey::InitProducerId.stable_versions(), VersionRange { min: 0, max: 5 });
    assert_eq!(FetchRequest::VERSIONS, ApiKey::Fetch.versions());
    assert_eq!(FetchRequest::FLEXIBLE_FROM, 12);
    assert_eq!(ApiKey::OffsetForLeaderEpoch.to_string(), "OffsetForLeaderEpoch");
}

#[test]
fn the_highest_common_version_is_chosen() {
    let range = |min, max| VersionRange { min, max };
    assert_eq!(range(3, 13).highest_common(range(0, 9)), Some(9));
    assert_eq!(range(3, 13).highest_common(range(0, 2)), None);
    assert_eq!(range(3, 3).highest_common(range(3, 8)), Some(3));
}

#[test]
fn api_versions_is_answered_with_header_zero_and_refused_in_version_zero() {
    let row = ApiVersion { api_key: 18, min_version: 0, max_version: 5 };
    let body = ApiVersionsResponse { api_keys: vec![row.clone()], ..Default::default() };
    let chain = encode_response_frame(ApiKey::ApiVersions, 3, 9, &body).expect("a frame");
    assert_eq!(chain.concat(), [0, 0, 0, 19, 0, 0, 0, 9, 0, 0, 2, 0, 18, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0]);
    let frame = Bytes::from(chain.concat()).slice(4..);
    assert_eq!(correlation_id(&frame), Some(9));
    assert_eq!(decode_response::<ApiVersionsRequest>(frame, 3), Ok((9, body)));

    let refusal = ApiVersionsResponse { error_code: 35, api_keys: vec![row], ..Default::default() };
    let chain = encode_response_frame(ApiKey::ApiVersions, 0, 9, &refusal).expect("a frame");
    let frame = Bytes::from(chain.concat()).slice(4..);
    assert_eq!(decode_response::<ApiVersionsRequest>(frame, 5), Ok((9, refusal)), "asked in version 5");
}

#[test]
fn other_responses_have_header_one_when_their_version_is_flexible() {
    let body = HeartbeatResponse { throttle_time_ms: 1, error_code: 2 };
    let chain = encode_response_frame(ApiKey::Heartbeat, 4, 3, &body).expect("a frame");
    assert_eq!(chain.concat(), [0, 0, 0, 12, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 2, 0]);
    let chain = encode_response_frame(ApiKey::Heartbeat, 3, 3, &body).expect("a frame");
    assert_eq!(chain.concat(), [0, 0, 0, 10, 0, 0, 0, 3, 0, 0, 0, 1, 0, 2]);
    let short = Bytes::from_static(&[0, 0, 0, 3, 0, 0]);
    assert_eq!(
        decode_response::<HeartbeatRequest>(short, 3),
        Err(DecodeError::Truncated { at: 4, need: 4, have: 2 })
    );
    assert_eq!(correlation_id(&[0, 0]), None);
}

#[test]
fn topics_are_created_and_deleted_in_the_versions_that_kafka_dropped() {
    let topic = CreatableTopic {
        name: "t".into(),
        num_partitions: 2,
        replication_factor: 1,
        configs: vec![CreatableTopicConfig { name: "k".into(), value: Some("v".into()) }],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 1000, validate_only: false };
    let mut bytes =
        vec![0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b'k', 0, 1, b'v'];
    bytes.extend([0, 0, 3, 0xe8]);
    assert_eq!(written(&request, 0), Ok(bytes.clone()));
    assert_eq!(read(&bytes, 0), Ok(request.clone()));
    bytes.push(1);
    assert_eq!(written(&CreateTopicsRequest { validate_only: true, ..request.clone() }, 1), Ok(bytes));
    let not_in_version = written(&CreateTopicsRequest { validate_only: true, ..request }, 0);
    let field = "CreateTopicsRequest.validateOnly";
    assert_eq!(not_in_version, Err(EncodeError::NotInVersion { field, version: 0 }));

    let result = CreatableTopicResult { name: "t".into(), error_code: 36, ..Default::default() };
    let response = CreateTopicsResponse { topics: vec![result], throttle_time_ms: 5 };
    assert_eq!(written(&response, 0), Ok(vec![0, 0, 0, 1, 0, 1, b't', 0, 36]));
    assert_eq!(written(&response, 1), Ok(vec![0, 0, 0, 1, 0, 1, b't', 0, 36, 0, 0]));

    let request = DeleteTopicsRequest { topic_names: vec!["t".into()], timeout_ms: 1, ..Default::default() };
    assert_eq!(written(&request, 0), Ok(vec![0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1]));
    let bytes = [0, 0, 0, 1, 0, 1, b't', 0, 3];
    let response: DeleteTopicsResponse = read(&bytes, 0).expect("a response");
    assert_eq!(response.responses[0].name.as_deref(), Some("t"));
    assert_eq!(written(&response, 0), Ok(bytes.to_vec()));
}

#[test]
fn a_field_that_the_version_lacks_is_an_error_unless_it_may_be_dropped() {
    let request = FetchRequest { replica_id: 5, ..Default::default() };
    assert!(written(&request, 14).is_ok());
    let field = "FetchRequest.ReplicaId";
    assert_eq!(written(&request, 15), Err(EncodeError::NotInVersion { field, version: 15 }));
    let request = FetchRequest { rack_id: "r".into(), ..Default::default() };
    assert!(written(&request, 4).is_ok(), "the rack is ignorable");
    let request = MetadataRequest { topics: None, ..Default::default() };
    let field = "MetadataRequest.Topics";
    assert_eq!(written(&request, 0), Err(EncodeError::Null { field, version: 0 }));
    assert_eq!(written(&request, 1), Ok(vec![0xff, 0xff, 0xff, 0xff]));
    let unnamed = MetadataRequestTopic { name: None, topic_id: Uuid([1; 16]) };
    let request = MetadataRequest { topics: Some(vec![unnamed]), ..Default::default() };
    let field = "MetadataRequestTopic.Name";
    assert_eq!(written(&request, 9), Err(EncodeError::Null { field, version: 9 }));
    assert_eq!(read::<MetadataRequest>(&[0xff, 0xff, 0xff, 0xff], 0), Err(DecodeError::Null { at: 4 }));
}

#[test]
fn unknown_tagged_fields_are_passed_over_and_known_ones_end_where_they_say() {
    let plain = written(&HeartbeatResponse::default(), 4).expect("bytes");
    assert_eq!(plain, [0, 0, 0, 0, 0, 0, 0]);
    let mut tagged = plain.clone();
    tagged.pop();
    tagged.extend([2, 0, 1, 0xaa, 100, 2, 0xbb, 0xcc]);
    assert_eq!(read(&tagged, 4), Ok(HeartbeatResponse::default()));
    let mut cut = tagged.clone();
    cut.pop();
    assert_eq!(read::<HeartbeatResponse>(&cut, 4), Err(DecodeError::Truncated { at: 12, need: 2, have: 1 }));

    // ApiVersions response 3, with tag 1 (the features' epoch) of eight bytes.
    let epoch = |size: u8| [&[0, 0, 1, 0, 0, 0, 0, 1, 1, size][..], &vec![0; usize::from(size)]].concat();
    assert_eq!(read::<ApiVersionsResponse>(&epoch(8), 3).map(|r| r.finalized_features_epoch), Ok(0));
    assert_eq!(
        read::<ApiVersionsResponse>(&epoch(9), 3),
        Err(DecodeError::TaggedField { at: 19, tag: 1, left: 1 })
    );
    assert_eq!(
        read::<ApiVersionsResponse>(&epoch(7), 3),
        Err(DecodeError::Truncated { at: 10, need: 8, have: 7 })
    );

    let mut w = Writer::new();
    w.uvarint(TAGGED_FIELDS_MAX as u32 + 1);
    w.raw(&vec![0; 2 * TAGGED_FIELDS_MAX + 2]);
    let (count, count_max) = (TAGGED_FIELDS_MAX + 1, TAGGED_FIELDS_MAX);
    let error = Reader::new(w.finish_contiguous()).skip_tagged_fields();
    assert_eq!(error, Err(DecodeError::TaggedFields { at: 2, count, count_max }));
}

#[test]
fn tagged_fields_are_written_when_they_differ_from_their_default() {
    let diverging_epoch = EpochEndOffset { epoch: 1, end_offset: 2 };
    let partition = PartitionData { diverging_epoch, aborted_transactions: None, ..Default::default() };
    let bytes = written(&partition, 12).expect("bytes");
    assert_eq!(bytes[bytes.len() - 16..], [1, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(read(&bytes, 12), Ok(partition));
    let bytes = written(&PartitionData::default(), 12).expect("bytes");
    assert_eq!(bytes.last(), Some(&0), "no tagged fields");
}

#[test]
fn a_large_tagged_field_keeps_the_pieces_behind_it_in_place() {
    let large = Bytes::from(vec![7; COPIED_BYTES_MAX + 1]);
    let mut w = Writer::new();
    w.bytes(&large, false, "").expect("bytes");
    w.tagged(3, |w| w.bytes(&large, false, "")).expect("bytes");
    w.i8(9);
    let bytes = w.finish_contiguous();
    let mut r = Reader::new(bytes);
    assert_eq!(r.bytes(false).expect("bytes"), large);
    assert_eq!((r.uvarint(), r.uvarint()), (Ok(3), Ok(large.len() as u32 + 4)));
    assert_eq!(r.bytes(false).expect("bytes"), large);
    assert_eq!((r.i8(), r.remaining()), (Ok(9), 0));
}

#[test]
fn record_sets_are_slices_of_the_frame_on_the_way_in() {
    let records = Records::One(Bytes::from(vec![7; 10_000]));
    let partition_data = vec![PartitionProduceData { index: 1, records }];
    let topic_data = vec![TopicProduceData { name: "t".into(), partition_data, ..Default::default() }];
    let request = ProduceRequest { topic_data, ..Default::default() };
    for version in [3, 9, 12] {
        let frame = Bytes::from(written(&request, version).expect("bytes"));
        let read: ProduceRequest = decode_body(&mut Reader::new(frame.clone()), version).expect("a request");
        let pieces = read.topic_data[0].partition_data[0].records.pieces();
        assert!(frame.as_ptr_range().contains(&pieces[0].as_ptr()) && pieces.len() == 1);
        assert_eq!(read, request);
    }
}

#[test]
fn record_sets_are_links_of_the_chain_on_the_way_out() {
    let pieces: Vec<Bytes> = (1..=3).map(|n| Bytes::from(vec![n; 2000])).collect();
    let small = Bytes::from_static(b"small");
    let partition = |records| PartitionData { records, ..Default::default() };
    let partitions = vec![partition(Records::Many(pieces.clone())), partition(Records::One(small))];
    let responses = vec![FetchableTopicResponse { partitions, ..Default::default() }];
    let response = FetchResponse { responses, ..Default::default() };
    let chain = encode_response_frame(ApiKey::Fetch, 13, 1, &response).expect("a frame");
    let pointers: Vec<*const u8> = chain.iter().map(|piece| piece.as_ptr()).collect();
    assert_eq!(chain.len(), 5, "what stands before, three pieces, what stands behind");
    assert!(
        pieces.iter().zip(&pointers[1..]).all(|(piece, pointer)| piece.as_ptr() == *pointer),
        "not copied"
    );
    let whole = chain.concat();
    let length = frame_length([whole[0], whole[1], whole[2], whole[3]], 1 << 20).expect("a length");
    assert_eq!(length, whole.len() - 4);
    let (_, read) = decode_response::<FetchRequest>(Bytes::from(whole).slice(4..), 13).expect("a response");
    assert_eq!(read, response);
}

#[test]
fn a_null_record_set_is_written_as_an_empty_one_where_there_is_no_null() {
    let partition = share_fetch::PartitionData::default();
    let bytes = written(&partition, 1).expect("bytes");
    let read: share_fetch::PartitionData = read(&bytes, 1).expect("a partition");
    assert_eq!(read.records, Records::One(Bytes::new()));
}

#[test]
fn a_frame_has_a_length_within_the_limit() {
    assert_eq!(frame_length([0, 0, 0, 0], 10), Ok(0));
    assert_eq!(frame_length([0, 0, 0, 10], 10), Ok(10));
    assert_eq!(frame_length([0, 0, 0, 11], 10), Err(FrameError::TooLarge { bytes: 11, bytes_max: 10 }));
    assert_eq!(frame_length([0xff, 0xff, 0xff, 0xff], 10), Err(FrameError::Negative(-1)));
}

#[test]
fn a_frame_longer_than_its_length_can_say_is_refused() {
    let mut w = Writer::frame();
    let piece = Bytes::from_static(&[0; 1 << 16]);
    let records = Records::Many(vec![piece; 1 << 14]);
    w.records(&records, true, "").expect("1 GiB");
    w.records(&records, true, "").expect("2 GiB");
    let bytes = 2 * (1 << 30) + 10;
    assert_eq!(w.finish_frame(), Err(EncodeError::Frame { bytes, bytes_max: i32::MAX as usize }));
}

#[test]
fn consumers_subscriptions_carry_their_version_and_newer_ones_can_be_read() {
    let subscription = ConsumerProtocolSubscription {
        topics: vec!["t".into()],
        owned_partitions: vec![SubscriptionTopicPartition { topic: "t".into(), partitions: vec![0, 1] }],
        ..Default::default()
    };
    let bytes = encode_data(&subscription, 1).expect("bytes");
    assert_eq!(bytes[..2], [0, 1]);
    assert_eq!(decode_data(bytes), Ok((1, subscription.clone())));
    let mut newer = encode_data(&subscription, 3).expect("bytes").to_vec();
    newer[1] = 9;
    newer.extend([1, 2, 3]);
    assert_eq!(decode_data(Bytes::from(newer)), Ok((9, subscription)));
}

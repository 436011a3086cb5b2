//! The tables of APIs and errors in `docs/kafka-protocol.md`, generated from the code. The descriptions of errors are here;
//! a test checks that they cover all errors that this folder uses.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path, path::PathBuf};

use super::{api::ROWS, error::ErrorCode};
use millstream_tests::generated;

/// When an error is returned, and what a program or its operator does about it.
const ERRORS: &[(ErrorCode, &str, &str)] = &[
    (
        ErrorCode::UNKNOWN_SERVER_ERROR,
        "The group's state is larger than a log entry may be; or a bug of the broker.",
        "Use fewer members or smaller metadata; otherwise check the broker's log and report it.",
    ),
    (
        ErrorCode::OFFSET_OUT_OF_RANGE,
        "The offset was deleted, or does not exist yet.",
        "Clients apply `auto.offset.reset`.",
    ),
    (
        ErrorCode::CORRUPT_MESSAGE,
        "Produce: the checksum of a batch is wrong. Fetch: data on disk is damaged.",
        "Produce: check the network. Fetch: see Operations, \"When something is damaged\".",
    ),
    (
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        "The topic or partition does not exist, or not yet.",
        "Create it; check the spelling.",
    ),
    (
        ErrorCode::LEADER_NOT_AVAILABLE,
        "The partition has no leader now, or was just created.",
        "Nothing; if it persists, check `/health/ready`.",
    ),
    (
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        "The node does not lead the partition, or is starting or stopping.",
        "Nothing; clients refresh their metadata.",
    ),
    (
        ErrorCode::REQUEST_TIMED_OUT,
        "The request was not completed within its timeout. It may still take effect.",
        "An idempotent producer retries without duplicates.",
    ),
    (
        ErrorCode::MESSAGE_TOO_LARGE,
        "A batch is larger than `max.message.bytes` of the topic, after compression, or too large when decompressed.",
        "Use smaller records or a smaller `batch.size`, or raise `max.message.bytes`.",
    ),
    (
        ErrorCode::OFFSET_METADATA_TOO_LARGE,
        "The metadata of a committed offset is longer than `offset.metadata.max.bytes`.",
        "Use shorter metadata.",
    ),
    (
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        "No producer id can be assigned now; the broker is starting or stopping.",
        "Nothing.",
    ),
    (ErrorCode::COORDINATOR_NOT_AVAILABLE, "The group has no coordinator now.", "Nothing."),
    (ErrorCode::NOT_COORDINATOR, "Another node coordinates the group.", "Nothing; clients look for it."),
    (
        ErrorCode::INVALID_TOPIC_EXCEPTION,
        "The name of a topic has characters that are not allowed, or is too long; or the topic belongs to the broker (`__consumer_offsets`) and cannot be written or changed.",
        "Use 1 to 249 ASCII letters, digits, `.`, `_` and `-`.",
    ),
    (
        ErrorCode::NOT_ENOUGH_REPLICAS,
        "Nothing was written: the disk is nearly full (`disk.low.bytes`), or the broker is starting or stopping.",
        "Free disk space. Clients then continue by themselves.",
    ),
    (ErrorCode::INVALID_REQUIRED_ACKS, "`acks` is not 0, 1 or -1 (all).", "Set it to `all`."),
    (
        ErrorCode::ILLEGAL_GENERATION,
        "The group has started a new generation without this member.",
        "Clients join again. If it happens often, poll more often or process fewer records per poll.",
    ),
    (
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        "The member has no assignor in common with the group, or another protocol type.",
        "Use the same assignors in all members; change them in two steps.",
    ),
    (ErrorCode::INVALID_GROUP_ID, "The name of a group is empty or too long.", "Set `group.id`."),
    (
        ErrorCode::UNKNOWN_MEMBER_ID,
        "The group does not know this member: its session timed out, or the broker was restarted.",
        "Clients join again.",
    ),
    (
        ErrorCode::INVALID_SESSION_TIMEOUT,
        "The session timeout is outside of `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.",
        "By default 6 s to 30 min.",
    ),
    (ErrorCode::REBALANCE_IN_PROGRESS, "The group's members change.", "Nothing; clients join again."),
    (
        ErrorCode::INVALID_COMMIT_OFFSET_SIZE,
        "A commit is larger than a log entry may be.",
        "Commit fewer partitions at once.",
    ),
    (
        ErrorCode::INVALID_TIMESTAMP,
        "A record's timestamp is further from the broker's clock than `message.timestamp.before.max.ms` or `message.timestamp.after.max.ms` allow.",
        "Correct the clock, or use `message.timestamp.type=LogAppendTime`.",
    ),
    (
        ErrorCode::UNSUPPORTED_VERSION,
        "The API or its version is not supported.",
        "Use a client that negotiates versions; see the table above.",
    ),
    (ErrorCode::TOPIC_ALREADY_EXISTS, "The topic is there already.", "Nothing, if it is what you want."),
    (
        ErrorCode::INVALID_PARTITIONS,
        "The number of partitions is below 1, too large, or not larger than the current one.",
        "Partitions can only be added.",
    ),
    (
        ErrorCode::INVALID_REPLICATION_FACTOR,
        "More replicas than nodes.",
        "Use -1, the broker's default, or 1 on a single node.",
    ),
    (ErrorCode::INVALID_REPLICA_ASSIGNMENT, "Replicas were given that cannot be.", "Let the broker choose."),
    (
        ErrorCode::INVALID_CONFIG,
        "A key or value is not allowed; the message says which are.",
        "See Configuration.",
    ),
    (
        ErrorCode::NOT_CONTROLLER,
        "The cluster's metadata cannot be changed now; the broker is starting or stopping.",
        "Nothing; admin clients retry.",
    ),
    (
        ErrorCode::INVALID_REQUEST,
        "The request is contradictory or not valid here; the message says why.",
        "Correct it.",
    ),
    (
        ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
        "A batch in the format of Kafka before 0.11.",
        "Use a newer client, or remove its `api.version` setting.",
    ),
    (
        ErrorCode::POLICY_VIOLATION,
        "More topics, partitions or configuration than one cluster allows; or a deletion of records of a compacted topic.",
        "The message says which; a compacted topic keeps the newest record of each key.",
    ),
    (
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        "A batch of an idempotent producer arrived without the previous one.",
        "Clients reset the producer where that is safe; otherwise the program must decide.",
    ),
    (
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER,
        "A batch was written before, too long ago to return its offset.",
        "Nothing; it is stored.",
    ),
    (ErrorCode::INVALID_PRODUCER_EPOCH, "A newer producer with the same id is at work.", "Close this one."),
    (
        ErrorCode::INVALID_TXN_STATE,
        "A transactional record.",
        "Transactions are not supported; see Moving from Kafka.",
    ),
    (
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        "An older client looks up a transaction coordinator. It treats this error as fatal.",
        "Transactions are not supported; see Moving from Kafka.",
    ),
    (
        ErrorCode::SECURITY_DISABLED,
        "ACLs were requested, and there is no authorizer.",
        "Every client may do everything; restrict access to the port.",
    ),
    (
        ErrorCode::KAFKA_STORAGE_ERROR,
        "A data directory accepts no records because its disk is full; returned by DescribeLogDirs only.",
        "Free disk space.",
    ),
    (
        ErrorCode::DELEGATION_TOKEN_REQUEST_NOT_ALLOWED,
        "Delegation tokens were requested on a connection without authentication, which all connections are.",
        "Nothing; there are no tokens.",
    ),
    (ErrorCode::NON_EMPTY_GROUP, "The group has members.", "Stop them first."),
    (
        ErrorCode::GROUP_ID_NOT_FOUND,
        "The group does not exist.",
        "Check the spelling; offsets of groups without members expire.",
    ),
    (
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
        "The fetch session has ended.",
        "Nothing; clients open a new one.",
    ),
    (
        ErrorCode::INVALID_FETCH_SESSION_EPOCH,
        "Fetches of a session arrived out of order.",
        "Nothing; clients open a new one.",
    ),
    (ErrorCode::FENCED_LEADER_EPOCH, "The client knows an older leader.", "Nothing; it asks anew."),
    (ErrorCode::UNKNOWN_LEADER_EPOCH, "The client knows a newer leader than this node.", "Nothing."),
    (
        ErrorCode::MEMBER_ID_REQUIRED,
        "A member joins for the first time and gets its id.",
        "Nothing; clients join with it.",
    ),
    (ErrorCode::GROUP_MAX_SIZE_REACHED, "The group has `group.max.size` members.", "Fewer, or raise it."),
    (
        ErrorCode::FENCED_INSTANCE_ID,
        "Another member with the same `group.instance.id` has joined.",
        "Use a distinct name for each member.",
    ),
    (
        ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
        "No replica can become leader.",
        "If it persists, check `/health/ready`.",
    ),
    (ErrorCode::ELECTION_NOT_NEEDED, "The partition has the leader that it should have.", "Nothing."),
    (ErrorCode::NO_REASSIGNMENT_IN_PROGRESS, "There is no reassignment to cancel.", "Nothing."),
    (
        ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
        "Offsets of a topic that the group's members subscribe to cannot be deleted.",
        "Stop the members first.",
    ),
    (
        ErrorCode::INVALID_RECORD,
        "A record is malformed or not allowed in the topic, for example without a key in a compacted one; the message and `record_errors` say why.",
        "Correct the record.",
    ),
    (
        ErrorCode::RESOURCE_NOT_FOUND,
        "A user's SCRAM credentials were requested, and no user has any.",
        "Nothing; there is no authentication.",
    ),
    (ErrorCode::DUPLICATE_RESOURCE, "A request names the same user twice.", "Name it once."),
    (
        ErrorCode::UNKNOWN_TOPIC_ID,
        "No topic has this id: it was deleted.",
        "Nothing; clients refresh their metadata.",
    ),
    (
        ErrorCode::TRANSACTIONAL_ID_NOT_FOUND,
        "A transaction was requested, and there are none.",
        "Transactions are not supported; see Moving from Kafka.",
    ),
    (
        ErrorCode::MISMATCHED_ENDPOINT_TYPE,
        "A controller was requested from a broker.",
        "Use `--bootstrap-server`, not `--bootstrap-controller`.",
    ),
    (ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, "The kind of endpoint does not exist.", "The same."),
];

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/kafka-protocol.md")
}

/// Names of error codes in the sources of a folder, without their tests.
fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            names_in(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("document.rs") {
            let text = fs::read_to_string(&path).expect("it can be read");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let found = code.split("ErrorCode::").skip(1).map(|rest| {
                rest.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect::<String>()
            });
            names.extend(found.filter(|name| name.len() > 1 && name != "NONE"));
        }
    }
}

#[test]
fn the_document_has_the_table_of_apis() {
    let mut text = "| API | key | versions |\n| --- | --- | --- |\n".to_string();
    for row in ROWS {
        let (name, key, versions) = (row.key.name(), row.key as i16, row.versions);
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {name} | {key} | {} to {} |", versions.min, versions.max);
    }
    generated::check(&document(), "apis", &text);
}

#[test]
fn the_document_has_the_table_of_errors() {
    let mut text =
        "| error | code | retried | when | what to do |\n| --- | --- | --- | --- | --- |\n".to_string();
    for (code, when, then) in ERRORS {
        let retried = if code.is_retriable() { "yes" } else { "no" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{}` | {} | {retried} | {when} | {then} |", code.name(), code.0);
    }
    generated::check(&document(), "errors", &text);
}

#[test]
fn the_table_of_errors_is_complete() {
    let mut used = BTreeSet::new();
    names_in(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/kafka"), &mut used);
    let described: BTreeSet<String> = ERRORS.iter().map(|(code, ..)| code.name().to_string()).collect();
    assert_eq!(described, used);
    assert!(ERRORS.is_sorted_by_key(|(code, ..)| code.0), "sorted by code");
}

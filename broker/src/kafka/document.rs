//! The tables of APIs and errors in `docs/kafka-protocol.md`, made of the code. What is said of an error is here; that
//! nothing is left out is compared with the code of this folder.

use std::{collections::BTreeSet, fmt::Write, fs, path::Path, path::PathBuf};

use super::{api::ROWS, error::ErrorCode};
use millstream_tests::generated;

/// When an error is answered, and what a program (or whoever runs it) does about it.
const ERRORS: &[(ErrorCode, &str, &str)] = &[
    (
        ErrorCode::UNKNOWN_SERVER_ERROR,
        "The group's state is larger than the log can take; or a fault of the broker.",
        "Fewer members or smaller metadata; else look at its log and report it.",
    ),
    (
        ErrorCode::OFFSET_OUT_OF_RANGE,
        "The offset was deleted, or does not exist yet.",
        "Clients go on as `auto.offset.reset` says.",
    ),
    (
        ErrorCode::CORRUPT_MESSAGE,
        "Produce: a batch does not fit its checksum. Fetch: what is on disk does not.",
        "Produce: look at the network. Fetch: see Operations, \"When something is damaged\".",
    ),
    (
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        "There is no such topic or partition, or not yet.",
        "Create it; look at the spelling.",
    ),
    (
        ErrorCode::LEADER_NOT_AVAILABLE,
        "The partition has no leader now, or was just created.",
        "Nothing; if it lasts, look at `/health/ready`.",
    ),
    (
        ErrorCode::NOT_LEADER_OR_FOLLOWER,
        "The node does not lead the partition, or starts or stops.",
        "Nothing; clients ask for the metadata anew.",
    ),
    (
        ErrorCode::REQUEST_TIMED_OUT,
        "It was not done in the time that the request gave. It may still be done.",
        "An idempotent producer tries again without writing twice.",
    ),
    (
        ErrorCode::MESSAGE_TOO_LARGE,
        "A batch is larger than `max.message.bytes` of the topic, after compression, or opens to more than is allowed.",
        "Smaller records or `batch.size`, or raise `max.message.bytes`.",
    ),
    (
        ErrorCode::OFFSET_METADATA_TOO_LARGE,
        "The note with a committed offset is longer than `offset.metadata.max.bytes`.",
        "A shorter note.",
    ),
    (
        ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        "A producer id cannot be given out now; the broker starts or stops.",
        "Nothing.",
    ),
    (ErrorCode::COORDINATOR_NOT_AVAILABLE, "The group has no coordinator now.", "Nothing."),
    (ErrorCode::NOT_COORDINATOR, "Another node coordinates the group.", "Nothing; clients look for it."),
    (
        ErrorCode::INVALID_TOPIC_EXCEPTION,
        "The name of a topic has characters that are not allowed, or is too long; or the topic belongs to the broker (`__consumer_offsets`) and cannot be written or changed.",
        "1 to 249 ASCII letters, digits, `.`, `_` and `-`.",
    ),
    (
        ErrorCode::NOT_ENOUGH_REPLICAS,
        "Nothing was written: the disk is nearly full (`disk.low.bytes`), or the broker starts or stops.",
        "Make room. Clients go on by themselves when there is.",
    ),
    (ErrorCode::INVALID_REQUIRED_ACKS, "`acks` is not 0, 1 or -1 (all).", "Set it to `all`."),
    (
        ErrorCode::ILLEGAL_GENERATION,
        "The group has gone on without this member.",
        "Clients join again. If it happens often: poll more often, or work in smaller pieces.",
    ),
    (
        ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        "The member has no assignor in common with the group, or another type.",
        "The same assignors in all members; change them in two steps.",
    ),
    (ErrorCode::INVALID_GROUP_ID, "The name of a group is empty or too long.", "Set `group.id`."),
    (
        ErrorCode::UNKNOWN_MEMBER_ID,
        "The group does not know this member: its session timed out, or the broker started anew.",
        "Clients join again.",
    ),
    (
        ErrorCode::INVALID_SESSION_TIMEOUT,
        "The session timeout is outside of `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.",
        "6 s to 30 min, by the defaults.",
    ),
    (ErrorCode::REBALANCE_IN_PROGRESS, "The group's members change.", "Nothing; clients join again."),
    (
        ErrorCode::INVALID_COMMIT_OFFSET_SIZE,
        "A commit is larger than the log can take at once.",
        "Fewer partitions in one commit.",
    ),
    (
        ErrorCode::INVALID_TIMESTAMP,
        "A record's timestamp is further from the broker's clock than `message.timestamp.before.max.ms` or `message.timestamp.after.max.ms` allow.",
        "Set the clock; or `message.timestamp.type=LogAppendTime`.",
    ),
    (
        ErrorCode::UNSUPPORTED_VERSION,
        "The API or its version is not served.",
        "A client that negotiates versions; see the table above.",
    ),
    (ErrorCode::TOPIC_ALREADY_EXISTS, "The topic is there already.", "Nothing, if it is what you want."),
    (
        ErrorCode::INVALID_PARTITIONS,
        "The number of partitions is below 1, too large, or not more than there are.",
        "Partitions can only be added.",
    ),
    (
        ErrorCode::INVALID_REPLICATION_FACTOR,
        "More replicas than there are nodes.",
        "-1, the broker's default; 1 on a single node.",
    ),
    (ErrorCode::INVALID_REPLICA_ASSIGNMENT, "Replicas were given that cannot be.", "Let the broker choose."),
    (
        ErrorCode::INVALID_CONFIG,
        "A key or value is not allowed; the message says what is.",
        "See Configuration.",
    ),
    (
        ErrorCode::NOT_CONTROLLER,
        "The cluster's metadata cannot be changed now; the broker starts or stops.",
        "Nothing; admin clients try again.",
    ),
    (
        ErrorCode::INVALID_REQUEST,
        "The request contradicts itself, or asks for what cannot be; the message says what.",
        "Correct it.",
    ),
    (
        ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
        "A batch in the format of Kafka before 0.11.",
        "A newer client, or take its `api.version` setting away.",
    ),
    (
        ErrorCode::POLICY_VIOLATION,
        "More topics, partitions or configuration than one cluster takes; or records of a compacted topic are to be deleted.",
        "The message says which; a compacted topic keeps the newest record of each key.",
    ),
    (
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        "A batch of an idempotent producer came without the one before it.",
        "Clients begin anew where that is safe; else the program must decide.",
    ),
    (
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER,
        "A batch was written already, too long ago to say where.",
        "It is stored.",
    ),
    (ErrorCode::INVALID_PRODUCER_EPOCH, "A newer producer with the same id is at work.", "Close this one."),
    (
        ErrorCode::INVALID_TXN_STATE,
        "A transactional record.",
        "Transactions are not served; see Moving from Kafka.",
    ),
    (
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        "A client of an older version looks for the coordinator of a transaction. Of this error it takes notice at once.",
        "Transactions are not served; see Moving from Kafka.",
    ),
    (
        ErrorCode::SECURITY_DISABLED,
        "Access rules were asked for, and there is no authorizer.",
        "Everybody may do everything; restrict who reaches the port.",
    ),
    (
        ErrorCode::KAFKA_STORAGE_ERROR,
        "A data directory takes no records now, because its disk is full; only DescribeLogDirs tells it so.",
        "Make room.",
    ),
    (
        ErrorCode::DELEGATION_TOKEN_REQUEST_NOT_ALLOWED,
        "Delegation tokens were asked for on a connection without authentication, which all are.",
        "Nothing; there are none.",
    ),
    (ErrorCode::NON_EMPTY_GROUP, "The group has members.", "Stop them first."),
    (
        ErrorCode::GROUP_ID_NOT_FOUND,
        "There is no such group.",
        "Look at the spelling; offsets of groups without members expire.",
    ),
    (
        ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
        "The fetch session has ended.",
        "Nothing; clients begin a new one.",
    ),
    (
        ErrorCode::INVALID_FETCH_SESSION_EPOCH,
        "Fetches of a session came out of order.",
        "Nothing; clients begin a new one.",
    ),
    (ErrorCode::FENCED_LEADER_EPOCH, "The client knows an older leader.", "Nothing; it asks anew."),
    (ErrorCode::UNKNOWN_LEADER_EPOCH, "The client knows a newer leader than this node.", "Nothing."),
    (
        ErrorCode::MEMBER_ID_REQUIRED,
        "A member joins for the first time and gets its id.",
        "Nothing; it joins with it.",
    ),
    (ErrorCode::GROUP_MAX_SIZE_REACHED, "The group has `group.max.size` members.", "Fewer, or raise it."),
    (
        ErrorCode::FENCED_INSTANCE_ID,
        "Another member with the same `group.instance.id` has joined.",
        "A name of its own for each member.",
    ),
    (
        ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
        "There is no replica that could lead.",
        "If it lasts, look at `/health/ready`.",
    ),
    (ErrorCode::ELECTION_NOT_NEEDED, "The partition has the leader that it should have.", "Nothing."),
    (ErrorCode::NO_REASSIGNMENT_IN_PROGRESS, "There is no reassignment to cancel.", "Nothing."),
    (
        ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC,
        "Offsets of a topic that the group reads cannot be removed.",
        "Stop its members first.",
    ),
    (
        ErrorCode::INVALID_RECORD,
        "A record is malformed, or not as the topic wants it, for example without a key on a compacted one; the message and `record_errors` say what.",
        "Correct the record.",
    ),
    (
        ErrorCode::RESOURCE_NOT_FOUND,
        "A user's SCRAM credentials were asked for, and no user has any.",
        "Nothing; there is no authentication.",
    ),
    (ErrorCode::DUPLICATE_RESOURCE, "A request names the same user twice.", "Name it once."),
    (
        ErrorCode::UNKNOWN_TOPIC_ID,
        "There is no topic with this id: it was deleted.",
        "Nothing; clients ask anew.",
    ),
    (
        ErrorCode::TRANSACTIONAL_ID_NOT_FOUND,
        "A transaction was asked for, and there are none.",
        "Transactions are not served; see Moving from Kafka.",
    ),
    (
        ErrorCode::MISMATCHED_ENDPOINT_TYPE,
        "A broker was asked as a controller.",
        "`--bootstrap-server`, not `--bootstrap-controller`.",
    ),
    (ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, "The kind of endpoint does not exist.", "The same."),
];

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/kafka-protocol.md")
}

/// Names of codes in the sources of a folder, apart from their tests.
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
fn the_document_has_every_api_as_it_is() {
    let mut text = "| API | key | versions |\n| --- | --- | --- |\n".to_string();
    for row in ROWS {
        let (name, key, versions) = (row.key.name(), row.key as i16, row.versions);
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {name} | {key} | {} to {} |", versions.min, versions.max);
    }
    generated::check(&document(), "apis", &text);
}

#[test]
fn the_document_has_every_error_as_it_is() {
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
fn the_document_leaves_no_error_out() {
    let mut used = BTreeSet::new();
    names_in(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/kafka"), &mut used);
    let told: BTreeSet<String> = ERRORS.iter().map(|(code, ..)| code.name().to_string()).collect();
    assert_eq!(told, used);
    assert!(ERRORS.is_sorted_by_key(|(code, ..)| code.0), "sorted by code");
}

//! The only mapping from the service's errors to Kafka's error codes.
//!
//! Each code is chosen by what Kafka's clients do with it: they retry retriable codes with fresh metadata until their own
//! deadline, and report all others to the application.

pub(super) use millstream_protocol::ErrorCode;
use millstream_protocol::Str;

use crate::service::{
    BrokerConfigError, FetchError, GroupError, Leadership, ProduceError, ProducerIdError, TopicError,
};

impl From<&Leadership> for ErrorCode {
    fn from(leadership: &Leadership) -> ErrorCode {
        if leadership.leader.is_some() { ErrorCode::NONE } else { ErrorCode::LEADER_NOT_AVAILABLE }
    }
}

impl From<&TopicError> for ErrorCode {
    fn from(error: &TopicError) -> ErrorCode {
        match error {
            TopicError::Unknown => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            TopicError::AlreadyExists(_) => ErrorCode::TOPIC_ALREADY_EXISTS,
            TopicError::InvalidName(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
            TopicError::InvalidPartitions(_) => ErrorCode::INVALID_PARTITIONS,
            TopicError::InvalidReplicationFactor(_) => ErrorCode::INVALID_REPLICATION_FACTOR,
            TopicError::InvalidConfig(_) => ErrorCode::INVALID_CONFIG,
            TopicError::InvalidReplicaAssignment(_) => ErrorCode::INVALID_REPLICA_ASSIGNMENT,
            TopicError::Internal(_) => ErrorCode::INVALID_TOPIC_EXCEPTION,
            TopicError::TooMany(_) => ErrorCode::POLICY_VIOLATION,
            // Admin clients look up the controller again and retry.
            TopicError::Unavailable(_) => ErrorCode::NOT_CONTROLLER,
            TopicError::Timeout => ErrorCode::REQUEST_TIMED_OUT,
        }
    }
}

impl From<&BrokerConfigError> for ErrorCode {
    fn from(error: &BrokerConfigError) -> ErrorCode {
        match error {
            BrokerConfigError::Invalid(_) => ErrorCode::INVALID_CONFIG,
            BrokerConfigError::ReadOnly { .. } | BrokerConfigError::Fact { .. } => ErrorCode::INVALID_REQUEST,
            BrokerConfigError::Unavailable(_) => ErrorCode::NOT_CONTROLLER,
        }
    }
}

impl From<&ProduceError> for ErrorCode {
    fn from(error: &ProduceError) -> ErrorCode {
        match error {
            ProduceError::UnknownPartition => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            ProduceError::InternalTopic => ErrorCode::INVALID_TOPIC_EXCEPTION,
            ProduceError::NotLeader => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            ProduceError::MessageTooLarge => ErrorCode::MESSAGE_TOO_LARGE,
            ProduceError::Corrupt(_) => ErrorCode::CORRUPT_MESSAGE,
            ProduceError::InvalidRecord(_) => ErrorCode::INVALID_RECORD,
            // As in Kafka, one invalid timestamp determines the code of the whole batch.
            ProduceError::RefusedRecords(refused) if refused.timestamps > 0 => ErrorCode::INVALID_TIMESTAMP,
            ProduceError::RefusedRecords(_) => ErrorCode::INVALID_RECORD,
            ProduceError::UnsupportedFormat => ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
            ProduceError::InvalidTimestamp(_) => ErrorCode::INVALID_TIMESTAMP,
            ProduceError::OutOfOrderSequence => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            ProduceError::InvalidProducerEpoch => ErrorCode::INVALID_PRODUCER_EPOCH,
            ProduceError::DuplicateSequence => ErrorCode::DUPLICATE_SEQUENCE_NUMBER,
            // Certainly not appended, and worth a retry on the same broker: this is the one code that every client retries
            // without refreshing its metadata each time. Sarama does not retry the storage error.
            ProduceError::StorageFull | ProduceError::LogWaits | ProduceError::Unavailable => {
                ErrorCode::NOT_ENOUGH_REPLICAS
            }
            ProduceError::TransactionalUnsupported(_) => ErrorCode::INVALID_TXN_STATE,
            ProduceError::InvalidAcks => ErrorCode::INVALID_REQUIRED_ACKS,
            ProduceError::Timeout => ErrorCode::REQUEST_TIMED_OUT,
        }
    }
}

impl From<&ProducerIdError> for ErrorCode {
    fn from(error: &ProducerIdError) -> ErrorCode {
        match error {
            // The one retriable code after which an idempotent producer does not look up a coordinator, which it does not
            // have.
            ProducerIdError::Unavailable => ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        }
    }
}

impl From<&FetchError> for ErrorCode {
    fn from(error: &FetchError) -> ErrorCode {
        match error {
            FetchError::UnknownPartition => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            // Consumers refresh their metadata and fetch again.
            FetchError::NotLeader | FetchError::Unavailable => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            FetchError::OffsetOutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
            FetchError::FencedLeaderEpoch => ErrorCode::FENCED_LEADER_EPOCH,
            FetchError::UnknownLeaderEpoch => ErrorCode::UNKNOWN_LEADER_EPOCH,
            // Not the retriable storage error: a consumer must not retry silently forever.
            FetchError::Damaged(_) => ErrorCode::CORRUPT_MESSAGE,
        }
    }
}

/// The code of a consumer group error.
pub(super) fn group_code(error: GroupError) -> ErrorCode {
    match error {
        GroupError::InvalidGroupId => ErrorCode::INVALID_GROUP_ID,
        GroupError::InvalidSessionTimeout => ErrorCode::INVALID_SESSION_TIMEOUT,
        GroupError::GroupNotFound => ErrorCode::GROUP_ID_NOT_FOUND,
        GroupError::UnknownMember => ErrorCode::UNKNOWN_MEMBER_ID,
        GroupError::MemberIdRequired => ErrorCode::MEMBER_ID_REQUIRED,
        GroupError::FencedInstance => ErrorCode::FENCED_INSTANCE_ID,
        GroupError::IllegalGeneration => ErrorCode::ILLEGAL_GENERATION,
        GroupError::RebalanceInProgress => ErrorCode::REBALANCE_IN_PROGRESS,
        GroupError::InconsistentProtocol => ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
        GroupError::Full | GroupError::OutOfBytes => ErrorCode::GROUP_MAX_SIZE_REACHED,
        GroupError::NotEmpty => ErrorCode::NON_EMPTY_GROUP,
        // Kafka's code for a group whose metadata is too large for its log.
        GroupError::TooLarge => ErrorCode::UNKNOWN_SERVER_ERROR,
        GroupError::NotCoordinator => ErrorCode::NOT_COORDINATOR,
        GroupError::Unavailable => ErrorCode::COORDINATOR_NOT_AVAILABLE,
    }
}

/// An error as most responses carry it: the code and the message.
pub(super) fn refusal<E: std::fmt::Display>(error: &E) -> (i16, Option<Str>)
where
    for<'a> ErrorCode: From<&'a E>,
{
    (ErrorCode::from(error).0, Some(Str::from(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_errors_are_retriable_for_clients() {
        let retried = [
            ErrorCode::from(&TopicError::Unavailable(String::new())),
            ErrorCode::from(&TopicError::Timeout),
            ErrorCode::from(&ProduceError::StorageFull),
            ErrorCode::from(&ProduceError::NotLeader),
            ErrorCode::from(&ProduceError::Unavailable),
            ErrorCode::from(&ProducerIdError::Unavailable),
            ErrorCode::from(&FetchError::Unavailable),
        ];
        assert!(retried.iter().all(|code| code.is_retriable()), "{retried:?}");
    }

    #[test]
    fn permanent_errors_are_not_retriable() {
        let permanent = [
            ErrorCode::from(&ProduceError::MessageTooLarge),
            ErrorCode::from(&ProduceError::InvalidTimestamp(String::new())),
            ErrorCode::from(&TopicError::InvalidConfig(String::new())),
        ];
        assert!(permanent.iter().all(|code| !code.is_retriable()), "{permanent:?}");
    }

    #[test]
    fn a_refusal_has_a_message() {
        let (code, reason) = refusal(&TopicError::AlreadyExists("a".into()));
        assert_eq!(code, 36);
        assert_eq!(reason.as_deref(), Some("topic 'a' already exists"));
    }
}

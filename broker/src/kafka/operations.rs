//! Authorized operations of a resource, as bits of Kafka's Describe* responses. There is no authorizer, so these are all
//! operations that Kafka defines for the resource.

const READ: i32 = 1 << 3;
const WRITE: i32 = 1 << 4;
const CREATE: i32 = 1 << 5;
const DELETE: i32 = 1 << 6;
const ALTER: i32 = 1 << 7;
const DESCRIBE: i32 = 1 << 8;
const CLUSTER_ACTION: i32 = 1 << 9;
const DESCRIBE_CONFIGS: i32 = 1 << 10;
const ALTER_CONFIGS: i32 = 1 << 11;
const IDEMPOTENT_WRITE: i32 = 1 << 12;

/// Operations on a topic.
pub(super) const TOPIC: i32 =
    READ | WRITE | CREATE | DELETE | ALTER | DESCRIBE | DESCRIBE_CONFIGS | ALTER_CONFIGS;
/// Operations on a consumer group.
pub(super) const GROUP: i32 = READ | DELETE | DESCRIBE | DESCRIBE_CONFIGS | ALTER_CONFIGS;
/// Operations on the cluster.
pub(super) const CLUSTER: i32 =
    CREATE | ALTER | DESCRIBE | CLUSTER_ACTION | DESCRIBE_CONFIGS | ALTER_CONFIGS | IDEMPOTENT_WRITE;
/// Sent when the client did not request the operations.
const NOT_REQUESTED: i32 = i32::MIN;

/// The operations, if they were requested.
pub(super) fn if_requested(requested: bool, operations: i32) -> i32 {
    if requested { operations } else { NOT_REQUESTED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operations_are_kafkas_bits() {
        assert_eq!((TOPIC, GROUP, CLUSTER), (3576, 3400, 8096));
        assert_eq!((if_requested(true, TOPIC), if_requested(false, TOPIC)), (3576, -2147483648));
    }
}

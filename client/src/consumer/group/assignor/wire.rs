//! How subscriptions and assignments travel: Kafka's consumer protocol, which brokers do not look into.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millstream_protocol::{
    DecodeError, EncodeError, Str, decode_data, encode_data,
    messages::consumer_protocol::{
        AssignmentTopicPartition, ConsumerProtocolAssignment, ConsumerProtocolSubscription,
        SubscriptionTopicPartition,
    },
};

use super::{Assignor, Member};
use crate::consumer::TopicPartition;

/// The version in which subscriptions are written; older members read the fields that they know.
const SUBSCRIPTION_VERSION: i16 = 3;
/// The version in which assignments are written: the oldest, which every member reads.
const ASSIGNMENT_VERSION: i16 = 0;

/// What a member says of itself when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Subscription {
    pub(in super::super) topics: BTreeSet<String>,
    /// What it keeps while the group changes.
    pub(in super::super) owned: BTreeSet<TopicPartition>,
    /// What it had last, also when it has given that up to join.
    pub(in super::super) last: BTreeSet<TopicPartition>,
    /// The generation of both; -1 before the first.
    pub(in super::super) generation: i32,
}

/// What a member says that it wants to read, and has.
pub(in super::super) fn write_subscription(
    assignor: Assignor,
    subscription: &Subscription,
) -> Result<Bytes, EncodeError> {
    let owned = by_topic(&subscription.owned).into_iter().map(|(topic, partitions)| {
        SubscriptionTopicPartition { topic: Str::from(topic.to_string()), partitions }
    });
    let data = ConsumerProtocolSubscription {
        topics: subscription.topics.iter().map(Str::from).collect(),
        user_data: user_data(assignor, subscription),
        owned_partitions: owned.collect(),
        generation_id: subscription.generation,
        rack_id: None,
    };
    encode_data(&data, SUBSCRIPTION_VERSION)
}

/// What Kafka's sticky assignors add of their own, which members of older clients look for.
fn user_data(assignor: Assignor, subscription: &Subscription) -> Option<Bytes> {
    let mut data = BytesMut::new();
    match assignor {
        Assignor::Range | Assignor::RoundRobin => return None,
        Assignor::Sticky => {
            let topics = by_topic(&subscription.last);
            data.put_i32(topics.len() as i32);
            for (topic, partitions) in topics {
                data.put_i16(topic.len() as i16);
                data.put_slice(topic.as_bytes());
                data.put_i32(partitions.len() as i32);
                partitions.into_iter().for_each(|partition| data.put_i32(partition));
            }
        }
        Assignor::CooperativeSticky => {}
    }
    data.put_i32(subscription.generation);
    Some(data.freeze())
}

/// A member as its subscription tells it. `assignor` is the one that the group has agreed on.
pub(in super::super) fn read_subscription(
    assignor: Assignor,
    id: &str,
    instance: Option<&str>,
    bytes: Bytes,
) -> Result<Member, DecodeError> {
    let (version, data) = decode_data::<ConsumerProtocolSubscription>(bytes)?;
    let mut owned = partitions(data.owned_partitions.into_iter().map(|o| (o.topic, o.partitions)));
    let mut generation = Some(data.generation_id).filter(|_| version >= 2);
    let user_data = data.user_data.unwrap_or_default();
    match assignor {
        // Who joins under it has given everything up; it reports what it had by itself.
        Assignor::Sticky => (owned, generation) = read_sticky(user_data).unwrap_or_default(),
        Assignor::CooperativeSticky if generation.is_none() => generation = read_generation(user_data),
        _ => {}
    }
    let topics = data.topics.iter().map(|topic| topic.to_string()).collect();
    let instance = instance.map(String::from);
    Ok(Member { id: id.to_string(), instance, topics, owned, generation })
}

fn read_generation(mut bytes: Bytes) -> Option<i32> {
    bytes.try_get_i32().ok()
}

/// Nothing where the bytes make no sense: the member is treated as one that had nothing.
fn read_sticky(mut bytes: Bytes) -> Option<(BTreeSet<TopicPartition>, Option<i32>)> {
    let mut owned = BTreeSet::new();
    for _ in 0..bytes.try_get_i32().ok()? {
        let length = usize::from(bytes.try_get_u16().ok()?);
        let name = bytes.get(..length)?;
        let topic: Arc<str> = std::str::from_utf8(name).ok()?.into();
        bytes.advance(length);
        for _ in 0..bytes.try_get_i32().ok()? {
            owned.insert(TopicPartition { topic: topic.clone(), partition: bytes.try_get_i32().ok()? });
        }
    }
    // Version 0 ends here.
    Some((owned, read_generation(bytes)))
}

fn by_topic<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> BTreeMap<&'a str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    partitions.into_iter().for_each(|p| topics.entry(&p.topic).or_default().push(p.partition));
    topics
}

fn partitions<C: FromIterator<TopicPartition>>(topics: impl Iterator<Item = (Str, Vec<i32>)>) -> C {
    topics
        .flat_map(|(topic, partitions)| {
            let topic: Arc<str> = topic.as_str().into();
            partitions.into_iter().map(move |partition| TopicPartition { topic: topic.clone(), partition })
        })
        .collect()
}

/// What a member is to read.
pub(in super::super) fn write_assignment(partitions: &[TopicPartition]) -> Result<Bytes, EncodeError> {
    let assigned = by_topic(partitions).into_iter().map(|(topic, partitions)| AssignmentTopicPartition {
        topic: Str::from(topic.to_string()),
        partitions,
    });
    let data = ConsumerProtocolAssignment { assigned_partitions: assigned.collect(), ..Default::default() };
    encode_data(&data, ASSIGNMENT_VERSION)
}

/// What a member is to read; no bytes are nothing.
pub(crate) fn read_assignment(bytes: Bytes) -> Result<Vec<TopicPartition>, DecodeError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let (_, assignment) = decode_data::<ConsumerProtocolAssignment>(bytes)?;
    Ok(partitions(assignment.assigned_partitions.into_iter().map(|t| (t.topic, t.partitions))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }

    fn subscription() -> Subscription {
        Subscription {
            topics: ["t".to_string(), "u".to_string()].into(),
            owned: [place("t", 1)].into(),
            last: [place("t", 1), place("u", 0)].into(),
            generation: 7,
        }
    }

    #[test]
    fn subscriptions_read_back_as_members() {
        let said = subscription();
        for (assignor, owned, generation) in [
            (Assignor::Range, &said.owned, Some(7)),
            (Assignor::CooperativeSticky, &said.owned, Some(7)),
            (Assignor::Sticky, &said.last, Some(7)),
        ] {
            let bytes = write_subscription(assignor, &said).expect("written");
            let member = read_subscription(assignor, "m", Some("i"), bytes).expect("read");
            assert_eq!((&member.topics, &member.owned, member.generation), (&said.topics, owned, generation));
            assert_eq!((member.id.as_str(), member.instance.as_deref()), ("m", Some("i")));
        }
    }

    /// The bytes of Kafka's Java client 4.3.1 for the same member, from `ConsumerProtocol.serializeSubscription` with
    /// what its assignors add in generation 7.
    #[test]
    fn the_bytes_are_those_of_kafkas_java_client() {
        let bytes = write_subscription(Assignor::CooperativeSticky, &subscription()).expect("written");
        let expected = [
            &[0, 3, 0, 0, 0, 2, 0, 1, b't', 0, 1, b'u'][..],
            &[0, 0, 0, 4, 0, 0, 0, 7],
            &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 1],
            &[0, 0, 0, 7, 0xff, 0xff],
        ]
        .concat();
        assert_eq!(bytes, expected);
        let data = user_data(Assignor::Sticky, &subscription()).expect("some");
        let expected = [
            &[0, 0, 0, 2][..],
            &[0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 1],
            &[0, 1, b'u', 0, 0, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 7],
        ]
        .concat();
        assert_eq!(data, expected);
    }

    #[test]
    fn members_of_older_clients_are_understood() {
        let old = ConsumerProtocolSubscription {
            topics: vec![Str::from("t")],
            user_data: Some(Bytes::from_static(&[0, 0, 0, 9])),
            ..Default::default()
        };
        let bytes = encode_data(&old, 0).expect("written");
        let member = read_subscription(Assignor::CooperativeSticky, "m", None, bytes.clone()).expect("read");
        assert_eq!((member.generation, member.owned.len()), (Some(9), 0));
        let member = read_subscription(Assignor::Sticky, "m", None, bytes).expect("read");
        assert!(member.owned.is_empty(), "what makes no sense is nothing");
    }

    #[test]
    fn assignments_read_back() {
        let partitions = vec![place("a", 1), place("a", 3), place("b", 0)];
        let bytes = write_assignment(&partitions).expect("written");
        assert_eq!(read_assignment(bytes), Ok(partitions));
        assert_eq!(read_assignment(Bytes::new()), Ok(Vec::new()));
    }
}

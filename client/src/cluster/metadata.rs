//! What is known of brokers and topics.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_protocol::{
    ErrorCode,
    messages::metadata::{MetadataResponse, MetadataResponseTopic},
};

/// A broker as the cluster tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerMeta {
    /// Its id.
    pub id: i32,
    /// `HOST:PORT`.
    pub address: String,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// A topic as the cluster tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMeta {
    /// Its name.
    pub name: String,
    /// The name once more, to be shared by whatever is said of the topic.
    pub(crate) shared_name: Arc<str>,
    /// Its id; zero when the broker does not tell.
    pub id: [u8; 16],
    /// Whether it belongs to the broker.
    pub internal: bool,
    /// Its partitions, in the order of their numbers.
    pub partitions: Vec<PartitionMeta>,
}

/// A partition as the cluster tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMeta {
    /// Its number.
    pub index: i32,
    /// The broker that leads it, if there is one.
    pub leader: Option<i32>,
    /// The leader's epoch, or -1.
    pub leader_epoch: i32,
    /// The brokers that hold it.
    pub replicas: Vec<i32>,
    /// Those of them that are up to date.
    pub in_sync: Vec<i32>,
}

/// A cluster as of the last metadata response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) cluster_id: Option<String>,
    pub(crate) controller: Option<i32>,
    pub(crate) brokers: BTreeMap<i32, BrokerMeta>,
    topics: HashMap<String, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    updated_at: Instant,
    topic: Result<Arc<TopicMeta>, ErrorCode>,
}

impl Metadata {
    /// What is known of a topic, unless that is older than `age_max`.
    pub(crate) fn topic(
        &self,
        name: &str,
        now: Instant,
        age_max: Duration,
    ) -> Option<Result<Arc<TopicMeta>, ErrorCode>> {
        let known = self.topics.get(name)?;
        (now.saturating_duration_since(known.updated_at) < age_max).then(|| known.topic.clone())
    }

    /// The newest that is known of a topic, however old.
    pub(crate) fn last_known(&self, name: &str) -> Option<Arc<TopicMeta>> {
        self.topics.get(name)?.topic.clone().ok()
    }

    /// The newest that is known of a topic, and whether that is older than `age_max`: it may have more partitions now.
    pub(crate) fn known_since(
        &self,
        name: &str,
        now: Instant,
        age_max: Duration,
    ) -> Option<(Arc<TopicMeta>, bool)> {
        let known = self.topics.get(name)?;
        let is_old = now.saturating_duration_since(known.updated_at) >= age_max;
        known.topic.clone().ok().map(|topic| (topic, is_old))
    }

    /// Takes in an answer: brokers as a whole, topics one by one.
    pub(crate) fn learn(&mut self, response: &MetadataResponse, now: Instant) {
        self.cluster_id = response.cluster_id.as_ref().map(|id| id.to_string());
        self.controller = Some(response.controller_id).filter(|id| *id >= 0);
        let brokers = response.brokers.iter().map(|broker| {
            let rack = broker.rack.as_ref().map(|rack| rack.to_string());
            let address = address_text(&broker.host, broker.port);
            (broker.node_id, BrokerMeta { id: broker.node_id, address, rack })
        });
        self.brokers = brokers.collect();
        for topic in &response.topics {
            let Some(name) = &topic.name else { continue };
            let answer = match ErrorCode(topic.error_code) {
                ErrorCode::NONE => Ok(Arc::new(topic_of(topic, self.last_known(name).as_deref()))),
                code => Err(code),
            };
            self.topics.insert(name.to_string(), Known { updated_at: now, topic: answer });
        }
    }
}

/// IPv6 addresses have colons of their own. Some brokers advertise them with their brackets.
fn address_text(host: &str, port: i32) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An older epoch than the one that is known comes from a broker that is behind: what is known stays.
fn topic_of(answer: &MetadataResponseTopic, known: Option<&TopicMeta>) -> TopicMeta {
    let known = known.filter(|known| known.id == answer.topic_id.0);
    let mut partitions: Vec<PartitionMeta> = answer
        .partitions
        .iter()
        .map(|p| PartitionMeta {
            index: p.partition_index,
            leader: Some(p.leader_id).filter(|id| *id >= 0),
            leader_epoch: p.leader_epoch,
            replicas: p.replica_nodes.clone(),
            in_sync: p.isr_nodes.clone(),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.index);
    for partition in &mut partitions {
        let before = known.and_then(|known| known.partitions.get(usize::try_from(partition.index).ok()?));
        if let Some(before) = before.filter(|before| before.leader_epoch > partition.leader_epoch) {
            *partition = before.clone();
        }
    }
    let name = answer.name.as_ref().map_or_else(String::new, |name| name.to_string());
    let shared_name = name.as_str().into();
    TopicMeta { name, shared_name, id: answer.topic_id.0, internal: answer.is_internal, partitions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_protocol::{
        Str,
        messages::metadata::{MetadataResponseBroker, MetadataResponsePartition},
    };

    fn response(leader_id: i32, leader_epoch: i32, error_code: i16) -> MetadataResponse {
        let partition = MetadataResponsePartition { leader_id, leader_epoch, ..Default::default() };
        let topic = MetadataResponseTopic {
            error_code,
            name: Some(Str::from("a")),
            partitions: vec![partition],
            ..Default::default()
        };
        let broker =
            MetadataResponseBroker { node_id: 7, host: Str::from("h"), port: 9, ..Default::default() };
        MetadataResponse {
            brokers: vec![broker],
            topics: vec![topic],
            controller_id: 7,
            ..Default::default()
        }
    }

    fn leader(metadata: &Metadata) -> Option<i32> {
        metadata.last_known("a").and_then(|topic| topic.partitions[0].leader)
    }

    #[test]
    fn an_older_epoch_does_not_replace_a_newer_one() {
        let (mut metadata, now) = (Metadata::default(), crate::clock::now());
        metadata.learn(&response(7, 5, 0), now);
        metadata.learn(&response(8, 4, 0), now);
        assert_eq!(leader(&metadata), Some(7));
        metadata.learn(&response(8, 6, 0), now);
        assert_eq!(leader(&metadata), Some(8));
        assert_eq!(metadata.brokers[&7].address, "h:9");
    }

    #[test]
    fn addresses_have_one_port() {
        assert_eq!(address_text("h", 9), "h:9");
        assert_eq!(address_text("::1", 9), "[::1]:9");
        assert_eq!(address_text("[::1]", 9), "[::1]:9");
    }

    #[test]
    fn what_is_known_ages_and_errors_are_known_too() {
        let (mut metadata, now) = (Metadata::default(), crate::clock::now());
        metadata.learn(&response(7, 5, 3), now);
        let age_max = Duration::from_secs(1);
        assert_eq!(metadata.topic("a", now, age_max), Some(Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)));
        assert_eq!(metadata.topic("a", now + age_max, age_max), None);
        assert_eq!(metadata.known_since("a", now, age_max), None);
        metadata.learn(&response(7, 5, 0), now);
        let is_old = |at| metadata.known_since("a", at, age_max).map(|(_, is_old)| is_old);
        assert_eq!((is_old(now), is_old(now + age_max)), (Some(false), Some(true)));
        assert_eq!(metadata.topic("b", now, age_max), None);
    }
}

//! CreateTopics, key 19, versions 0 to 7.
//!
//! 1 adds validate_only and an error message; 2 the throttle time; 4 lets -1 mean the broker's defaults (accepted in every
//! version here); 5 returns partitions, replication factor and configuration; 6 only changes the order of quota errors;
//! 7 returns the topic's id.

use std::collections::HashMap;

use futures::StreamExt;
use millstream_protocol::{
    Str, Uuid,
    messages::create_topics::{
        CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest,
        CreateTopicsResponse,
    },
};

use super::{
    configs::source_number,
    context::RequestContext,
    error::{ErrorCode, refusal},
    timeout::wait_of,
};
use crate::service::{Change, NewTopic, Service, TopicError};

/// Maximum concurrent topic creations of one request.
const AT_ONCE_MAX: usize = 64;

/// Creates topics, each independently: a refused topic does not affect the others.
pub(super) async fn create_topics(
    _ctx: &RequestContext,
    change: &Change,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let (timeout_ms, validate_only) = (request.timeout_ms, request.validate_only);
    let (topics, twice) = split_duplicates(request.topics);
    let makers = topics.into_iter().map(|topic| async move {
        let name = topic.name.clone();
        let made = change.within(wait_of(timeout_ms), |change| create(change, topic, validate_only));
        made.await.unwrap_or_else(|| failed(name, &TopicError::Timeout))
    });
    let made = futures::stream::iter(makers).buffered(AT_ONCE_MAX).collect::<Vec<_>>().await;
    let topics = made.into_iter().chain(twice.into_iter().map(duplicate)).collect();
    CreateTopicsResponse { topics, ..Default::default() }
}

/// Separates repeated names: each is refused once, and none of its topics is created.
fn split_duplicates(topics: Vec<CreatableTopic>) -> (Vec<CreatableTopic>, Vec<Str>) {
    let mut count: HashMap<Str, usize> = HashMap::new();
    topics.iter().for_each(|topic| *count.entry(topic.name.clone()).or_default() += 1);
    let mut twice: Vec<Str> = count.iter().filter(|(_, n)| **n > 1).map(|(name, _)| name.clone()).collect();
    twice.sort();
    (topics.into_iter().filter(|topic| count[&topic.name] == 1).collect(), twice)
}

fn duplicate(name: Str) -> CreatableTopicResult {
    refused(name, ErrorCode::INVALID_REQUEST, "the request names the topic more than once")
}

fn refused(name: Str, code: ErrorCode, reason: &'static str) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: code.0,
        error_message: Some(Str::from(reason)),
        // The default, an empty list, would mean that the topic has no configuration.
        configs: None,
        ..Default::default()
    }
}

fn failed(name: Str, error: &TopicError) -> CreatableTopicResult {
    let (error_code, error_message) = refusal(error);
    CreatableTopicResult { name, error_code, error_message, configs: None, ..Default::default() }
}

async fn create(change: Change, topic: CreatableTopic, validate_only: bool) -> CreatableTopicResult {
    let name = topic.name.clone();
    if let Some((code, reason)) = contradiction(&topic) {
        return refused(name, code, reason);
    }
    match change.create_topic(new_topic(&topic), validate_only).await {
        Ok(view) => CreatableTopicResult {
            name,
            topic_id: Uuid(view.id.0),
            error_message: None,
            num_partitions: view.partitions.len() as i32,
            replication_factor: change.replicas() as i16,
            configs: Some(described(&change, &topic)),
            ..Default::default()
        },
        Err(error) => failed(name, &error),
    }
}

/// Contradictions within the request itself.
fn contradiction(topic: &CreatableTopic) -> Option<(ErrorCode, &'static str)> {
    if topic.configs.iter().any(|config| config.value.is_none()) {
        return Some((
            ErrorCode::INVALID_CONFIG,
            "a configuration without a value is not allowed for a new topic",
        ));
    }
    if topic.assignments.is_empty() {
        return None;
    }
    if topic.num_partitions != -1 {
        return Some((ErrorCode::INVALID_REQUEST, "with assignments the number of partitions must be -1"));
    }
    if topic.replication_factor != -1 {
        return Some((ErrorCode::INVALID_REQUEST, "with assignments the replication factor must be -1"));
    }
    None
}

fn new_topic(topic: &CreatableTopic) -> NewTopic {
    NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic.assignments.iter().map(|a| (a.partition_index, a.broker_ids.clone())).collect(),
        configs: topic
            .configs
            .iter()
            .map(|c| (c.name.to_string(), c.value.as_ref().map(Str::to_string)))
            .collect(),
    }
}

/// The configuration of the topic, or with validate_only of a topic like it.
fn described(service: &Service, topic: &CreatableTopic) -> Vec<CreatableTopicConfigs> {
    let own = topic
        .configs
        .iter()
        .filter_map(|c| Some((c.name.to_string(), c.value.as_ref()?.to_string())))
        .collect();
    let entries = service.configs_of_new_topic(&own);
    let describe = |entry: crate::service::ConfigEntry| CreatableTopicConfigs {
        name: Str::from(entry.name),
        value: entry.value.map(Str::from),
        read_only: entry.read_only,
        config_source: source_number(entry.source),
        is_sensitive: entry.sensitive,
    };
    entries.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_protocol::messages::create_topics::{CreatableReplicaAssignment, CreatableTopicConfig};

    fn named(name: &'static str) -> CreatableTopic {
        CreatableTopic { name: name.into(), num_partitions: 1, replication_factor: 1, ..Default::default() }
    }

    #[test]
    fn a_repeated_name_is_refused_once_and_not_created() {
        let (once, twice) = split_duplicates(vec![named("b"), named("a"), named("c"), named("a")]);
        assert_eq!(once.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(twice.iter().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn assignments_exclude_counts() {
        let assignment = CreatableReplicaAssignment { partition_index: 0, broker_ids: vec![1] };
        let mut topic = CreatableTopic { assignments: vec![assignment], ..named("a") };
        assert_eq!(contradiction(&topic).expect("counts are given").0, ErrorCode::INVALID_REQUEST);
        topic.num_partitions = -1;
        assert!(contradiction(&topic).expect("a factor is given").1.contains("replication factor"));
        topic.replication_factor = -1;
        assert_eq!(contradiction(&topic), None);
    }

    #[test]
    fn a_new_topic_accepts_no_configuration_without_a_value() {
        let config = CreatableTopicConfig { name: "retention.ms".into(), value: None };
        let topic = CreatableTopic { configs: vec![config], ..named("a") };
        assert_eq!(contradiction(&topic).expect("no value").0, ErrorCode::INVALID_CONFIG);
    }
}

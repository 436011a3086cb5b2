//! Metadata 0-13.
//!
//! 0: an empty list is all topics. 1: null is all, an empty list none; racks, controller, internal topics.
//! 2: cluster id. 4: the client says whether topics may be created. 5: offline replicas. 7: leader epochs.
//! 8: authorized operations. 9: flexible. 10: topic ids in the answer. 11: no cluster operations. 12: by topic id.
//! 13: an error of the whole answer, which tells a client to start over; there is no reason for that here.

use std::sync::Arc;

use millstream_model::TopicId;
use millstream_protocol::{
    Str, Uuid,
    messages::metadata::{
        MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
        MetadataResponsePartition, MetadataResponseTopic,
    },
};

use super::{
    context::RequestContext,
    error::ErrorCode,
    operations::{self, if_asked},
};
use crate::service::{NewTopic, PartitionView, TopicError, TopicView};

/// Describes brokers and topics; creates topics that are not there if broker and client allow it.
pub(super) async fn metadata(context: &RequestContext, request: MetadataRequest) -> MetadataResponse {
    let service = &context.service;
    let may_create = service.broker_config().auto_create_topics
        && (context.version < 4 || request.allow_auto_topic_creation);
    let topic_operations = if_asked(request.include_topic_authorized_operations, operations::TOPIC);
    let wanted = request.topics.filter(|topics| context.version > 0 || !topics.is_empty());
    let mut topics = match wanted {
        None => service.topics().iter().map(|view| describe(context, view)).collect(),
        Some(wanted) => {
            let mut topics = Vec::new();
            for one in wanted {
                topics.push(describe_wanted(context, one, may_create).await);
            }
            topics
        }
    };
    for topic in topics.iter_mut().filter(|topic: &&mut MetadataResponseTopic| topic.error_code == 0) {
        topic.topic_authorized_operations = topic_operations;
    }
    MetadataResponse {
        cluster_authorized_operations: if_asked(
            request.include_cluster_authorized_operations,
            operations::CLUSTER,
        ),
        brokers: brokers(context),
        cluster_id: Some(service.cluster_id().into()),
        controller_id: service.controller_id(),
        topics,
        ..Default::default()
    }
}

fn brokers(context: &RequestContext) -> Vec<MetadataResponseBroker> {
    let brokers = context.service.brokers().into_iter();
    brokers
        .map(|broker| MetadataResponseBroker {
            node_id: broker.id,
            host: broker.host.into(),
            port: i32::from(broker.port),
            rack: broker.rack.map(Str::from),
        })
        .collect()
}

async fn describe_wanted(
    context: &RequestContext,
    wanted: MetadataRequestTopic,
    may_create: bool,
) -> MetadataResponseTopic {
    let id = TopicId(wanted.topic_id.0);
    let Some(name) = wanted.name else {
        return match context.service.topic_by_id(id) {
            Some(view) => describe(context, &view),
            None => missing(ErrorCode::UNKNOWN_TOPIC_ID, None, id),
        };
    };
    if let Some(view) = context.service.topic(&name) {
        return describe(context, &view);
    }
    match find_or_create(context, &name, may_create).await {
        Ok(view) => describe(context, &view),
        Err(error) => missing(ErrorCode::from(&error), Some(name), TopicId::default()),
    }
}

async fn find_or_create(
    context: &RequestContext,
    name: &str,
    may_create: bool,
) -> Result<Arc<TopicView>, TopicError> {
    context.service.check_topic_name(name)?;
    if !may_create {
        return Err(TopicError::Unknown);
    }
    let new =
        NewTopic { name: name.to_string(), partitions: -1, replication_factor: -1, ..NewTopic::default() };
    match context.service.create_topic(new, false).await {
        // Someone else was faster.
        Err(TopicError::AlreadyExists(_)) => context.service.topic(name).ok_or(TopicError::Unknown),
        result => result,
    }
}

fn missing(code: ErrorCode, name: Option<Str>, id: TopicId) -> MetadataResponseTopic {
    // Versions below 12 have no room for "no name".
    let name = name.or_else(|| Some(Str::default()));
    MetadataResponseTopic { error_code: code.0, name, topic_id: Uuid(id.0), ..Default::default() }
}

fn describe(context: &RequestContext, view: &TopicView) -> MetadataResponseTopic {
    let node = context.service.node_id();
    let partition = |partition: &PartitionView| {
        let leadership = context.service.leadership(partition);
        MetadataResponsePartition {
            error_code: ErrorCode::from(&leadership).0,
            partition_index: partition.index,
            leader_id: leadership.leader.unwrap_or(-1),
            leader_epoch: leadership.epoch,
            replica_nodes: vec![node],
            isr_nodes: vec![node],
            ..Default::default()
        }
    };
    MetadataResponseTopic {
        name: Some(Str::from(&view.name)),
        topic_id: Uuid(view.id.0),
        is_internal: view.internal,
        partitions: view.partitions.iter().map(partition).collect(),
        ..Default::default()
    }
}

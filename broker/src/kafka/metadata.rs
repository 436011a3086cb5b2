//! Metadata 0-13.
//!
//! 0: an empty list is all topics. 1: null is all, an empty list none; racks, controller, internal topics.
//! 2: cluster id. 4: the client says whether topics may be created. 5: offline replicas. 7: leader epochs.
//! 8: authorized operations. 9: flexible. 10: topic ids in the response. 11: no cluster operations. 12: by topic id.
//! 13: a top-level error that makes a client rebootstrap; never set here.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use millstream_model::TopicId;
use millstream_protocol::{
    Str, Uuid,
    messages::metadata::{
        MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
        MetadataResponsePartition, MetadataResponseTopic,
    },
};

use super::{
    context::{OnClose, RequestContext},
    error::ErrorCode,
    operations::{self, if_requested},
};
use crate::service::{Change, NewTopic, PartitionView, TopicError, TopicView};

/// Maximum concurrent topic creations of one request.
const CREATED_AT_ONCE_MAX: usize = 64;

/// Describes brokers and topics; creates missing topics if broker and client allow it.
pub(super) fn metadata(
    context: &RequestContext,
    request: MetadataRequest,
) -> (OnClose, impl Future<Output = Result<Option<MetadataResponse>, String>> + Send + use<>) {
    let missing = to_create(context, &request);
    // The creation runs to completion by itself; only the response waits for it.
    let creation = (!missing.is_empty()).then(|| context.service.change(|change| create(change, missing)));
    let context = context.clone();
    let answer = async move {
        let refused = match creation {
            Some(creation) => creation.await.map_err(|error| error.to_string())?,
            None => BTreeMap::new(),
        };
        Ok(Some(describe_all(&context, request, &refused)))
    };
    (OnClose::Drop, answer)
}

/// Missing topics of the request that may be created.
fn to_create(context: &RequestContext, request: &MetadataRequest) -> BTreeSet<Str> {
    let service = &context.service;
    let allowed = context.version < 4 || request.allow_auto_topic_creation;
    if !allowed || !service.broker_config().auto_create_topics {
        return BTreeSet::new();
    }
    let names = request.topics.iter().flatten().filter_map(|wanted| wanted.name.as_ref());
    let missing = names.filter(|name| service.topic(name).is_none());
    missing.filter(|name| service.check_topic_name(name).is_ok()).cloned().collect()
}

/// Creates the topics and returns the errors.
async fn create(change: Change, names: BTreeSet<Str>) -> BTreeMap<Str, TopicError> {
    let creations = names.into_iter().map(|name| {
        let change = change.clone();
        async move {
            let new = NewTopic {
                name: name.to_string(),
                partitions: -1,
                replication_factor: -1,
                ..NewTopic::default()
            };
            match change.create_topic(new, false).await {
                // Also created by a concurrent request.
                Ok(_) | Err(TopicError::AlreadyExists(_)) => None,
                Err(error) => Some((name, error)),
            }
        }
    });
    let results = futures::stream::iter(creations).buffer_unordered(CREATED_AT_ONCE_MAX);
    results.filter_map(std::future::ready).collect().await
}

fn describe_all(
    context: &RequestContext,
    request: MetadataRequest,
    refused: &BTreeMap<Str, TopicError>,
) -> MetadataResponse {
    let service = &context.service;
    let topic_operations = if_requested(request.include_topic_authorized_operations, operations::TOPIC);
    let wanted = request.topics.filter(|topics| context.version > 0 || !topics.is_empty());
    let mut topics: Vec<MetadataResponseTopic> = match wanted {
        None => service.topics().iter().map(|view| describe(context, view)).collect(),
        Some(wanted) => wanted.into_iter().map(|one| describe_wanted(context, one, refused)).collect(),
    };
    for topic in topics.iter_mut().filter(|topic| topic.error_code == 0) {
        topic.topic_authorized_operations = topic_operations;
    }
    MetadataResponse {
        cluster_authorized_operations: if_requested(
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

fn describe_wanted(
    context: &RequestContext,
    wanted: MetadataRequestTopic,
    refused: &BTreeMap<Str, TopicError>,
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
    let error = match (context.service.check_topic_name(&name), refused.get(&name)) {
        (Err(invalid), _) => ErrorCode::from(&invalid),
        (Ok(()), Some(refused)) => ErrorCode::from(refused),
        (Ok(()), None) => ErrorCode::from(&TopicError::Unknown),
    };
    missing(error, Some(name), TopicId::default())
}

fn missing(code: ErrorCode, name: Option<Str>, id: TopicId) -> MetadataResponseTopic {
    // Versions below 12 cannot encode "no name".
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

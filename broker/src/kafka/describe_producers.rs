//! DescribeProducers, key 61, version 0: the idempotent producers known to a partition.

use millstream_protocol::{
    Str,
    messages::describe_producers::{
        DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
    },
};

use super::{context::RequestContext, error::ErrorCode};
use crate::service::{ActiveProducer, Service, TopicView};

/// Describes the producers of partitions, each independently.
pub(super) async fn describe_producers(
    ctx: &RequestContext,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let view = ctx.service.topic(&topic.name);
        let partitions = topic.partition_indexes.iter().map(|&partition_index| {
            let found = view.as_ref().ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            answer(partition_index, found.and_then(|view| producers(&ctx.service, view, partition_index)))
        });
        let partitions = partitions.collect();
        TopicResponse { name: topic.name, partitions }
    });
    DescribeProducersResponse { topics: topics.collect(), ..Default::default() }
}

fn producers(service: &Service, view: &TopicView, index: i32) -> Result<Vec<ActiveProducer>, ErrorCode> {
    let partition = usize::try_from(index).ok().and_then(|index| view.partitions.get(index));
    let partition = partition.ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    service.active_producers(partition).map_err(|error| ErrorCode::from(&error))
}

fn answer(partition_index: i32, found: Result<Vec<ActiveProducer>, ErrorCode>) -> PartitionResponse {
    match found {
        Ok(producers) => PartitionResponse {
            partition_index,
            active_producers: producers.into_iter().map(describe).collect(),
            ..Default::default()
        },
        Err(code) => PartitionResponse {
            partition_index,
            error_code: code.0,
            error_message: Some(Str::from(code.name())),
            ..Default::default()
        },
    }
}

fn describe(producer: ActiveProducer) -> ProducerState {
    ProducerState {
        producer_id: producer.id,
        producer_epoch: i32::from(producer.epoch),
        last_sequence: producer.last_sequence,
        last_timestamp: producer.last_write_ms,
        // As in Kafka for a producer without a transaction.
        coordinator_epoch: -1,
        current_txn_start_offset: -1,
    }
}

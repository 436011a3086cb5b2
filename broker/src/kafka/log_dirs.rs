//! DescribeLogDirs, key 35, versions 1 to 5.
//!
//! 2 is flexible; 3 adds a top-level error; 4 the size and the free space of the volume; 5 whether a directory accepts no
//! new partitions. A directory that accepts no records because the disk is full has KAFKA_STORAGE_ERROR, and still its
//! sizes: its data is still served.

use std::sync::Arc;

use millstream_protocol::{
    Str,
    messages::describe_log_dirs::{
        DescribableLogDirTopic, DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse,
        DescribeLogDirsResult, DescribeLogDirsTopic,
    },
};

use super::{context::RequestContext, error::ErrorCode};
use crate::service::{PartitionView, Service, TopicView};

/// Describes the data directory and its partitions. Topics that do not exist are left out.
pub(super) async fn describe_log_dirs(
    ctx: &RequestContext,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let service = ctx.service.clone();
    // Collecting the sizes of 100,000 partitions takes long: on a blocking thread.
    match tokio::task::spawn_blocking(move || look(&service, request.topics.as_deref())).await {
        Ok(result) => DescribeLogDirsResponse { results: vec![result], ..Default::default() },
        Err(_) => {
            DescribeLogDirsResponse { error_code: ErrorCode::UNKNOWN_SERVER_ERROR.0, ..Default::default() }
        }
    }
}

fn look(service: &Service, asked: Option<&[DescribableLogDirTopic]>) -> DescribeLogDirsResult {
    let topics = match asked {
        None => service.topics().iter().map(|view| describe(service, view, view.partitions.iter())).collect(),
        Some(asked) => asked
            .iter()
            .filter_map(|topic| Some((service.topic(&topic.topic)?, &topic.partitions)))
            .map(|(view, wanted)| chosen(service, &view, wanted))
            .collect(),
    };
    let space = service.disk_space();
    // An absolute path, because clients do not know the broker's working directory.
    let log_dir =
        std::path::absolute(service.data_dir()).unwrap_or_else(|_| service.data_dir().to_path_buf());
    let stop = service.write_stop();
    DescribeLogDirsResult {
        error_code: stop.map_or(ErrorCode::NONE, |_| ErrorCode::KAFKA_STORAGE_ERROR).0,
        log_dir: Str::from(log_dir.display().to_string()),
        topics,
        total_bytes: space.map_or(-1, |space| space.total_bytes.min(i64::MAX as u64) as i64),
        usable_bytes: space.map_or(-1, |space| space.free_bytes.min(i64::MAX as u64) as i64),
        ..Default::default()
    }
}

fn chosen(service: &Service, view: &Arc<TopicView>, wanted: &[i32]) -> DescribeLogDirsTopic {
    let known = wanted.iter().filter_map(|&index| view.partitions.get(usize::try_from(index).ok()?));
    describe(service, view, known)
}

fn describe<'a>(
    service: &Service,
    view: &TopicView,
    partitions: impl Iterator<Item = &'a PartitionView>,
) -> DescribeLogDirsTopic {
    let partition = |partition: &PartitionView| DescribeLogDirsPartition {
        partition_index: partition.index,
        partition_size: service.partition_bytes(partition).min(i64::MAX as u64) as i64,
        ..Default::default()
    };
    DescribeLogDirsTopic { name: Str::from(&view.name), partitions: partitions.map(partition).collect() }
}

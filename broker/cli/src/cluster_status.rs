//! `millstream cluster status`: whether every partition can be written and read.

use millstream_client::{
    BrokerMeta, ClientError,
    admin::{Admin, ConfigOf, LogDir},
};
use serde_json::json;

use super::{
    connect::Output,
    error::CliError,
    output::{Out, counted},
};

/// Most partitions listed by name; the others are counted.
const NAMED_MAX: usize = 10;
/// The broker's key for the threshold of free disk space.
const LOW_KEY: &str = "disk.low.bytes";

/// The state of all partitions in the metadata.
#[derive(Debug, Default, PartialEq, Eq)]
struct Health {
    topics: usize,
    partitions: usize,
    without_leader: Vec<String>,
    under_replicated: Vec<String>,
}

async fn health(admin: &Admin) -> Result<Health, CliError> {
    let mut health = Health::default();
    for topic in admin.cluster().topics().await? {
        // Internal topics are checked, but not counted as topics.
        if !topic.internal {
            health.topics += 1;
            health.partitions += topic.partitions.len();
        }
        for partition in &topic.partitions {
            let name = || format!("{}-{}", topic.name, partition.index);
            if partition.leader.is_none() {
                health.without_leader.push(name());
            }
            if partition.in_sync.len() < partition.replicas.len() {
                health.under_replicated.push(name());
            }
        }
    }
    Ok(health)
}

/// Brokers that refuse records now, each with its reason.
async fn refusing(admin: &Admin, brokers: &[BrokerMeta]) -> Result<Vec<String>, CliError> {
    let mut refusing = Vec::new();
    for broker in brokers {
        let dirs = match admin.log_dirs(broker.id).await {
            Ok(dirs) => dirs,
            // A request that is not permitted, or not supported, says nothing about the broker's health.
            Err(ClientError::Refused { .. } | ClientError::Unsupported { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        for dir in dirs.iter().filter(|dir| dir.error.is_some()) {
            let low = admin.configs(&ConfigOf::Broker(broker.id)).await.unwrap_or_default();
            let low = low.into_iter().find(|entry| entry.name == LOW_KEY).and_then(|entry| entry.value);
            refusing.push(reason(broker.id, dir, low.and_then(|value| value.parse().ok())));
        }
    }
    Ok(refusing)
}

/// Why a broker refuses records. `low_bytes` is its threshold of free disk space, if it has one.
fn reason(broker: i32, dir: &LogDir, low_bytes: Option<u64>) -> String {
    let LogDir { path, error, total_bytes, free_bytes } = dir;
    let mib = |bytes: u64| bytes >> 20;
    match (free_bytes, total_bytes, low_bytes) {
        (Some(free), Some(total), Some(low)) => format!(
            "broker {broker}: the disk of {path} is full, {} of {} MiB are free and {LOW_KEY} is {} MiB",
            mib(*free),
            mib(*total),
            mib(low)
        ),
        _ => {
            let code = error.map(|code| code.to_string()).unwrap_or_default();
            format!("broker {broker}: {path} cannot be written ({code}); its log says why")
        }
    }
}

pub(super) async fn status(admin: &Admin, output: Output, out: &mut Out) -> Result<(), CliError> {
    let (cluster_id, controller, brokers) = admin.cluster().describe().await?;
    let health = health(admin).await?;
    let groups = admin.groups().await?.len();
    let refusing = refusing(admin, &brokers).await?;
    let lacking = health.without_leader.len();
    match output {
        Output::Json => out.json(&json!({
            "cluster_id": cluster_id,
            "controller": controller,
            "brokers": brokers.len(),
            "topics": health.topics,
            "partitions": health.partitions,
            "groups": groups,
            "without_leader": health.without_leader,
            "under_replicated": health.under_replicated,
            "refusing_writes": refusing,
            "healthy": lacking == 0 && controller.is_some() && refusing.is_empty(),
        }))?,
        Output::Table => {
            let led = controller.map_or_else(|| "no broker".to_string(), |id| format!("broker {id}"));
            let row = |what: &str, value: String| vec![what.to_string(), value];
            let rows = [
                row("cluster", cluster_id.unwrap_or_else(|| "-".to_string())),
                row("brokers", format!("{}, metadata led by {led}", brokers.len())),
                row("topics", format!("{} with {}", health.topics, counted(health.partitions, "partition"))),
                row("groups", groups.to_string()),
                row("without leader", named(&health.without_leader)),
                row("under-replicated", named(&health.under_replicated)),
                row("refusing writes", named(&refusing)),
            ];
            out.pairs(&rows)?;
        }
    }
    out.flush()?;
    if lacking > 0 || controller.is_none() {
        Err(CliError::Unhealthy { partitions: lacking })
    } else if !refusing.is_empty() {
        Err(CliError::RefusingWrites { brokers: refusing.len() })
    } else {
        Ok(())
    }
}

fn named(partitions: &[String]) -> String {
    let shown = partitions.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match partitions.len() {
        0 => "none".to_string(),
        n if n > NAMED_MAX => format!("{shown} and {} more", n - NAMED_MAX),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use millstream_client::ErrorCode;

    use super::*;

    #[test]
    fn some_are_named_and_the_others_counted() {
        let names = |n: usize| (0..n).map(|at| format!("t-{at}")).collect::<Vec<_>>();
        assert_eq!(named(&names(0)), "none");
        assert_eq!(named(&names(2)), "t-0, t-1");
        assert!(named(&names(13)).ends_with("t-9 and 3 more"));
    }

    #[test]
    fn a_full_disk_is_told_with_its_numbers_and_any_other_error_with_its_name() {
        let mut dir = LogDir {
            path: "/data".into(),
            error: Some(ErrorCode::KAFKA_STORAGE_ERROR),
            total_bytes: Some(640 << 20),
            free_bytes: Some(12 << 20),
        };
        let message = reason(1, &dir, Some(64 << 20));
        assert!(
            message.contains("12 of 640 MiB") && message.contains("disk.low.bytes is 64 MiB"),
            "{message}"
        );
        dir.free_bytes = None;
        let message = reason(1, &dir, None);
        assert!(message.contains("/data") && message.contains("KAFKA_STORAGE_ERROR"), "{message}");
    }
}

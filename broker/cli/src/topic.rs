//! `millstream topic`: creates, shows, changes and deletes topics.

use std::{collections::BTreeMap, sync::Arc};

use clap::{Args, Subcommand};
use millstream_client::{
    Cluster, TopicMeta,
    admin::{Admin, ConfigChange, ConfigEntry, ConfigOf, ConfigOrigin, NewTopic, OffsetAt},
    consumer::TopicPartition,
};
use serde_json::json;

use super::{
    candidates,
    connect::{Common, Output, runtime},
    each::each,
    error::CliError,
    find,
    number::number,
    output::{Out, counted},
};
use millstream::console;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(super) struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
    #[command(flatten)]
    common: Common,
}

/// Stands for the broker's default.
const BROKERS_DEFAULT: i32 = -1;

/// What is to be changed; at least one.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct Changes {
    /// Set a key; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Reset a key to its default; may be given several times.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Create a topic.
    Create {
        /// Topic name.
        name: String,
        /// Partitions; -1 is the default too [default: the broker's num.partitions].
        #[arg(long, value_name = "N", value_parser = count::<i32>)]
        partitions: Option<i32>,
        /// Replicas; -1 is the default too [default: the broker's default.replication.factor].
        #[arg(long, value_name = "N", value_parser = count::<i16>)]
        replication_factor: Option<i16>,
        /// A configuration key; may be given several times.
        #[arg(long = "config", value_name = "KEY=VALUE")]
        configs: Vec<String>,
        /// Only validate the request.
        #[arg(long)]
        validate_only: bool,
    },
    /// List topics.
    List {
        /// Include internal topics.
        #[arg(long)]
        internal: bool,
    },
    /// Show a topic's partitions and configuration.
    Describe {
        /// Topic name.
        #[arg(add = candidates::topics())]
        name: String,
        /// Include configuration keys at their defaults.
        #[arg(long)]
        all: bool,
    },
    /// Change a topic's configuration.
    Alter {
        /// Topic name.
        #[arg(add = candidates::topics())]
        name: String,
        #[command(flatten)]
        changes: Changes,
        /// Only validate the request.
        #[arg(long)]
        validate_only: bool,
    },
    /// Delete topics with their records.
    ///
    /// If one of several names fails, the others are still processed, and the exit code is 1.
    Delete {
        /// Topic names.
        #[arg(required = true, add = candidates::topics())]
        names: Vec<String>,
    },
    /// Add partitions to a topic.
    Grow {
        /// Topic name.
        #[arg(add = candidates::topics())]
        name: String,
        /// New number of partitions.
        #[arg(long, value_name = "N", value_parser = number::<i32>(1..))]
        partitions: i32,
    },
}

/// Runs the command.
pub(super) fn run(args: TopicArgs) -> Result<(), CliError> {
    let cluster = args.common.cluster();
    let output = args.common.output;
    runtime()?.block_on(async move {
        let (admin, mut out) = (Admin::new(cluster.clone()), Out::new());
        match args.command {
            TopicCommand::Create { name, partitions, replication_factor, configs, validate_only } => {
                let configs =
                    configs.iter().map(|pair| key_value("--config", pair)).collect::<Result<_, _>>()?;
                let new = NewTopic {
                    name,
                    partitions: partitions.filter(|n| *n != BROKERS_DEFAULT),
                    replication_factor: replication_factor.filter(|n| i32::from(*n) != BROKERS_DEFAULT),
                    configs,
                };
                create(&admin, &new, validate_only, output, &mut out).await?;
            }
            TopicCommand::List { internal } => list(&cluster, internal, output, &mut out).await?,
            TopicCommand::Describe { name, all } => describe(&admin, &name, all, output, &mut out).await?,
            TopicCommand::Alter { name, changes, validate_only } => {
                find::topic(&cluster, &name).await?;
                let (of, changes) = (ConfigOf::Topic(name.clone()), changes.parse()?);
                let altered = admin.alter_configs(&of, &changes, validate_only).await;
                altered.map_err(|error| CliError::about_keys(error, keys_of(&name)))?;
                done(&mut out, output, "altered", &name, validate_only)?;
            }
            TopicCommand::Delete { names } => {
                each(&names, "topic", async |name| match admin.delete_topic(name).await {
                    Ok(()) => done(&mut out, output, "deleted", name, false),
                    Err(error) => Err(find::missing_or(&cluster, name, error).await),
                })
                .await?;
            }
            TopicCommand::Grow { name, partitions } => {
                if let Err(error) = admin.grow_topic(&name, partitions).await {
                    return Err(find::missing_or(&cluster, &name, error).await);
                }
                done(&mut out, output, "grown", &name, false)?;
            }
        }
        out.flush()
    })
}

fn done(out: &mut Out, output: Output, what: &str, name: &str, validate_only: bool) -> Result<(), CliError> {
    let what = if validate_only { format!("could be {what}") } else { what.to_string() };
    match output {
        Output::Table => out.line(&format!("topic '{name}' {what}")),
        Output::Json => out.json(&json!({ "topic": name, "result": what })),
    }
}

/// The command that lists the keys of an existing topic.
fn keys_of(name: &str) -> String {
    format!("`millstream topic describe {name} --all` shows the keys of a topic")
}

/// The command that lists the keys of a new topic.
async fn keys_of_any(cluster: &Cluster) -> String {
    let topics = cluster.topics().await.unwrap_or_default();
    match topics.first() {
        Some(topic) => keys_of(&topic.name),
        None => "docs/configuration.md has the keys of a topic".to_string(),
    }
}

async fn create(
    admin: &Admin,
    new: &NewTopic,
    validate_only: bool,
    output: Output,
    out: &mut Out,
) -> Result<(), CliError> {
    let partitions = match admin.create_topic(new, validate_only).await {
        Ok(partitions) => partitions,
        Err(error) => return Err(CliError::about_keys(error, keys_of_any(admin.cluster()).await)),
    };
    match (output, partitions) {
        (Output::Json, _) => {
            let result = if validate_only { "could be created" } else { "created" };
            out.json(&json!({ "topic": new.name, "result": result, "partitions": partitions }))
        }
        (Output::Table, Some(n)) if !validate_only => {
            out.line(&format!("topic '{}' created with {}", new.name, counted(n, "partition")))
        }
        (Output::Table, _) => done(out, output, "created", &new.name, validate_only),
    }
}

async fn list(cluster: &Cluster, internal: bool, output: Output, out: &mut Out) -> Result<(), CliError> {
    let topics: Vec<Arc<TopicMeta>> =
        cluster.topics().await?.into_iter().filter(|topic| internal || !topic.internal).collect();
    let replicas = |topic: &TopicMeta| topic.partitions.first().map_or(0, |p| p.replicas.len());
    match output {
        Output::Json => {
            let all = topics.iter().map(|topic| {
                json!({
                    "name": topic.name,
                    "partitions": topic.partitions.len(),
                    "replicas": replicas(topic),
                    "internal": topic.internal,
                })
            });
            out.json(&all.collect::<Vec<_>>())
        }
        Output::Table if topics.is_empty() => {
            console::note(format_args!("there are no topics; `millstream topic create NAME` makes one"));
            Ok(())
        }
        Output::Table => {
            let row = |topic: &Arc<TopicMeta>| {
                vec![topic.name.clone(), topic.partitions.len().to_string(), replicas(topic).to_string()]
            };
            out.table(&["TOPIC", "PARTITIONS", "REPLICAS"], &topics.iter().map(row).collect::<Vec<_>>())
        }
    }
}

/// First offset and end offset of each partition, where known.
async fn bounds(admin: &Admin, topic: &TopicMeta) -> BTreeMap<i32, (Option<i64>, Option<i64>)> {
    let name: Arc<str> = topic.name.as_str().into();
    let partition = |p: i32| TopicPartition { topic: name.clone(), partition: p };
    let partitions: Vec<TopicPartition> = topic.partitions.iter().map(|p| partition(p.index)).collect();
    let mut bounds: BTreeMap<i32, (Option<i64>, Option<i64>)> = BTreeMap::new();
    let found = |answer: Result<Option<millstream_client::admin::FoundOffset>, _>| {
        answer.ok().flatten().map(|f| f.offset)
    };
    for (partition, answer) in admin.offsets(partitions.clone(), OffsetAt::Earliest).await {
        bounds.entry(partition.partition).or_default().0 = found(answer);
    }
    for (partition, answer) in admin.offsets(partitions, OffsetAt::Latest).await {
        bounds.entry(partition.partition).or_default().1 = found(answer);
    }
    bounds
}

async fn describe(
    admin: &Admin,
    name: &str,
    all: bool,
    output: Output,
    out: &mut Out,
) -> Result<(), CliError> {
    let topic = find::topic(admin.cluster(), name).await?;
    let mut configs = admin.configs(&ConfigOf::Topic(name.to_string())).await?;
    configs.retain(|entry| all || entry.origin == ConfigOrigin::Topic);
    let bounds = bounds(admin, &topic).await;
    match output {
        Output::Json => describe_json(&topic, &configs, &bounds, out),
        Output::Table => describe_table(&topic, &configs, &bounds, out),
    }
}

fn describe_json(
    topic: &TopicMeta,
    configs: &[ConfigEntry],
    bounds: &BTreeMap<i32, (Option<i64>, Option<i64>)>,
    out: &mut Out,
) -> Result<(), CliError> {
    let partitions = topic.partitions.iter().map(|p| {
        let (start, end) = bounds.get(&p.index).copied().unwrap_or_default();
        json!({
            "partition": p.index,
            "leader": p.leader,
            "leader_epoch": p.leader_epoch,
            "replicas": p.replicas,
            "in_sync": p.in_sync,
            "log_start_offset": start,
            "end_offset": end,
        })
    });
    let configs: BTreeMap<&str, &Option<String>> =
        configs.iter().map(|e| (e.name.as_str(), &e.value)).collect();
    out.json(&json!({
        "name": topic.name,
        "internal": topic.internal,
        "partitions": partitions.collect::<Vec<_>>(),
        "config": configs,
    }))
}

fn describe_table(
    topic: &TopicMeta,
    configs: &[ConfigEntry],
    bounds: &BTreeMap<i32, (Option<i64>, Option<i64>)>,
    out: &mut Out,
) -> Result<(), CliError> {
    let ids = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let known = |n: Option<i64>| n.map_or_else(|| "-".to_string(), |n| n.to_string());
    let rows: Vec<Vec<String>> = topic
        .partitions
        .iter()
        .map(|p| {
            let (start, end) = bounds.get(&p.index).copied().unwrap_or_default();
            let leader = p.leader.map_or_else(|| "none".to_string(), |id| id.to_string());
            vec![p.index.to_string(), leader, ids(&p.replicas), ids(&p.in_sync), known(start), known(end)]
        })
        .collect();
    out.table(&["PARTITION", "LEADER", "REPLICAS", "IN SYNC", "START", "END"], &rows)?;
    if configs.is_empty() {
        return Ok(());
    }
    out.line("")?;
    show_configs(configs, out)
}

/// Keys with their values and sources.
pub(super) fn show_configs(configs: &[ConfigEntry], out: &mut Out) -> Result<(), CliError> {
    let origin = |origin| match origin {
        ConfigOrigin::Topic => "topic",
        ConfigOrigin::Broker => "broker",
        ConfigOrigin::Default => "default",
        ConfigOrigin::Other => "-",
    };
    let row = |entry: &ConfigEntry| {
        vec![entry.name.clone(), entry.value.clone().unwrap_or_default(), origin(entry.origin).to_string()]
    };
    out.table(&["KEY", "VALUE", "SET ON"], &configs.iter().map(row).collect::<Vec<_>>())
}

fn key_value(flag: &'static str, pair: &str) -> Result<(String, String), CliError> {
    let split = pair.split_once('=').map(|(key, value)| (key.trim().to_string(), value.trim().to_string()));
    let refuse = || CliError::Flag { flag, value: pair.to_string(), allowed: "KEY=VALUE" };
    split.filter(|(key, _)| !key.is_empty()).ok_or_else(refuse)
}

impl Changes {
    pub(super) fn parse(self) -> Result<Vec<ConfigChange>, CliError> {
        let set = self.set.iter().map(|pair| key_value("--set", pair));
        let set = set.map(|pair| pair.map(|(key, value)| ConfigChange::Set(key, value)));
        set.chain(self.unset.into_iter().map(|key| Ok(ConfigChange::Unset(key)))).collect()
    }
}

/// A number of partitions or replicas, or -1, which is Kafka's value for the broker's default.
fn count<N: TryFrom<i32>>(text: &str) -> Result<N, &'static str> {
    let number = text.parse().ok().filter(|n| *n >= 1 || *n == BROKERS_DEFAULT);
    number.and_then(|n| N::try_from(n).ok()).ok_or("a whole number from 1 on, or -1 for the broker's default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_have_a_key() {
        assert_eq!(key_value("--set", "a=b=c").expect("a pair"), ("a".to_string(), "b=c".to_string()));
        for wrong in ["a", "=b", ""] {
            let error = key_value("--set", wrong).expect_err(wrong);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("--set"), "{error}");
        }
    }
}

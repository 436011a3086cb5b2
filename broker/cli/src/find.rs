//! Looks up topics and groups by name, with suggestions for missing ones.

use std::sync::Arc;

use millstream_client::{
    ClientError, Cluster, ErrorCode, TopicMeta,
    admin::{Admin, NewTopic},
};

use super::error::{CliError, Missing};
use millstream::suggest::nearest;

/// Advice for a missing topic that is to be read or changed.
const LOOK: &str = "`millstream topic list` shows what there is, `millstream topic create` makes one";
/// Advice for a missing topic that is to be written.
const MAKE: &str = "--create makes it, as `millstream topic create` does";
/// Advice for a missing group.
pub(super) const LOOK_AT_GROUPS: &str = "`millstream group list` shows what there is";

/// Looks up a topic. The error for a missing one suggests similar names.
pub(super) async fn topic(cluster: &Cluster, name: &str) -> Result<Arc<TopicMeta>, CliError> {
    topic_or(cluster, name, LOOK).await
}

/// Looks up a topic, with specific advice if it is missing.
pub(super) async fn topic_or(
    cluster: &Cluster,
    name: &str,
    next: &'static str,
) -> Result<Arc<TopicMeta>, CliError> {
    match cluster.topic(name, false).await {
        Ok(topic) => Ok(topic),
        Err(error) if is_missing(&error) => Err(missing(cluster, name, next).await),
        Err(error) => Err(error.into()),
    }
}

/// The topic, once it is writable; created if it is missing and `create` is set.
pub(super) async fn writable(
    cluster: &Cluster,
    name: &str,
    create: bool,
) -> Result<Arc<TopicMeta>, CliError> {
    match cluster.topic(name, false).await {
        Ok(topic) => return Ok(topic),
        Err(error) if is_missing(&error) && create => make(cluster, name).await?,
        Err(error) if is_missing(&error) => return Err(missing(cluster, name, MAKE).await),
        Err(error) if error.is_retriable() => {}
        Err(error) => return Err(error.into()),
    }
    // It exists; this waits until its leaders are elected.
    Ok(cluster.topic(name, true).await?)
}

/// The error of an operation on a topic; if the topic is missing, with suggestions.
pub(super) async fn missing_or(cluster: &Cluster, name: &str, error: ClientError) -> CliError {
    if is_missing(&error) { missing(cluster, name, LOOK).await } else { error.into() }
}

fn is_missing(error: &ClientError) -> bool {
    error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}

async fn make(cluster: &Cluster, name: &str) -> Result<(), CliError> {
    let new = NewTopic { name: name.to_string(), ..NewTopic::default() };
    match Admin::new(cluster.clone()).create_topic(&new, false).await {
        // Another client created it first.
        Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => Ok(()),
        made => Ok(made.map(drop)?),
    }
}

async fn missing(cluster: &Cluster, name: &str, next: &'static str) -> CliError {
    // The missing topic is the error to report, whether or not the list for suggestions is available.
    let topics = cluster.topics().await.unwrap_or_default();
    let names = topics.iter().filter(|topic| !topic.internal).map(|topic| topic.name.as_str());
    let near = near(name, names);
    CliError::Missing(Missing::Topic { name: name.to_string(), near, next })
}

fn near<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    nearest(name, names).into_iter().map(String::from).collect()
}

/// The error for a missing group, with suggestions.
pub(super) async fn missing_group(admin: &Admin, name: &str, next: &'static str) -> CliError {
    let groups = admin.groups().await.unwrap_or_default();
    let near = near(name, groups.iter().map(|group| group.name.as_str()));
    CliError::Missing(Missing::Group { name: name.to_string(), near, next })
}

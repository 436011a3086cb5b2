//! Topics over HTTP: list, describe, create, change, delete.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Admin, Open, Port,
    problem::{Body, ConfigText, Name, Problem},
    views::{self, TopicJson, TopicsJson},
};
use crate::service::{Change, NewTopic, PARTITIONS_MAX, TopicError};

/// A topic to create.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewTopic")]
pub(super) struct NewTopicJson {
    /// Topic name: 1 to 249 ASCII letters, digits, `.`, `_` and `-`.
    name: String,
    /// Number of partitions; default: `num.partitions` of the broker.
    #[serde(default)]
    #[schemars(range(min = 1, max = PARTITIONS_MAX))]
    partitions: Option<i32>,
    /// Number of replicas; default: the broker's.
    #[serde(default)]
    #[schemars(range(min = 1))]
    replication_factor: Option<i16>,
    /// Configuration overrides.
    #[serde(default)]
    config: BTreeMap<String, ConfigText>,
    /// Only validate the request.
    #[serde(default)]
    validate_only: bool,
}

/// Changes of a topic, applied all or none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TopicChange")]
pub(super) struct TopicChangeJson {
    /// New number of partitions, larger than the current one.
    #[serde(default)]
    #[schemars(range(min = 1, max = PARTITIONS_MAX))]
    partitions: Option<i32>,
    /// Keys with their new values.
    #[serde(default)]
    set: BTreeMap<String, ConfigText>,
    /// Keys to reset to their defaults.
    #[serde(default)]
    unset: Vec<String>,
    /// Only validate the request.
    #[serde(default)]
    validate_only: bool,
}

pub(super) async fn list(
    State(port): State<Arc<Port>>,
    Open(admin): Open,
) -> Result<Json<TopicsJson>, Problem> {
    // Computing the sizes of a hundred thousand partitions takes a while: not on a thread of requests.
    port.in_background(move || views::topics(&admin.sources.service)).await.map(Json)
}

pub(super) async fn show(Open(admin): Open, Name(name): Name) -> Result<Json<TopicJson>, Problem> {
    topic(&admin, &name).map(Json)
}

fn topic(admin: &Admin, name: &str) -> Result<TopicJson, Problem> {
    views::topic(&admin.sources.service, name).ok_or_else(|| Problem::no_topic(name))
}

pub(super) async fn create(Open(admin): Open, Body(wanted): Body<NewTopicJson>) -> Result<Response, Problem> {
    let name = wanted.name.clone();
    let new = NewTopic {
        name: wanted.name,
        // Kafka's value for the default is -1; here the field is omitted.
        partitions: wanted.partitions.unwrap_or(-1),
        replication_factor: wanted.replication_factor.unwrap_or(-1),
        configs: wanted.config.into_iter().map(|(key, value)| (key, Some(value.0))).collect(),
        ..NewTopic::default()
    };
    let validate_only = wanted.validate_only;
    let made = async move |change: Change| change.create_topic(new, validate_only).await;
    let made = admin.sources.service.change(made).await.map_err(TopicError::from).flatten();
    made.map_err(|error| Problem::of_topic(&name, &error))?;
    if wanted.validate_only {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok((StatusCode::CREATED, Json(topic(&admin, &name)?)).into_response())
}

pub(super) async fn change(
    Open(admin): Open,
    Name(name): Name,
    Body(change): Body<TopicChangeJson>,
) -> Result<Response, Problem> {
    let keys: Vec<(String, Option<String>)> = change
        .set
        .into_iter()
        .map(|(key, value)| (key, Some(value.0)))
        .chain(change.unset.into_iter().map(|key| (key, None)))
        .collect();
    let (partitions, validate_only, topic_name) = (change.partitions, change.validate_only, name.clone());
    let changed = admin
        .sources
        .service
        .change(async move |change| alter(&change, &topic_name, partitions, keys, validate_only).await);
    let changed = changed.await.map_err(TopicError::from).flatten();
    changed.map_err(|error| Problem::of_topic(&name, &error))?;
    if validate_only {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(topic(&admin, &name)?).into_response())
}

/// Validates everything before anything changes.
async fn alter(
    change: &Change,
    name: &str,
    partitions: Option<i32>,
    keys: Vec<(String, Option<String>)>,
    validate_only: bool,
) -> Result<(), TopicError> {
    let turn = change.config_turn().await;
    change.alter_topic_config(&turn, name, keys.clone(), true).await?;
    if let Some(partitions) = partitions {
        change.create_partitions(name, partitions, validate_only).await?;
    }
    if validate_only || keys.is_empty() {
        return Ok(());
    }
    change.alter_topic_config(&turn, name, keys, false).await
}

pub(super) async fn remove(Open(admin): Open, Name(name): Name) -> Result<StatusCode, Problem> {
    let wanted = name.clone();
    let removed = admin.sources.service.change(async move |change| change.delete_topic(&wanted).await).await;
    let removed = removed.map_err(TopicError::from).flatten();
    removed.map(|()| StatusCode::NO_CONTENT).map_err(|error| Problem::of_topic(&name, &error))
}

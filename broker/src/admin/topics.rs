//! Topics over HTTP: list, show, make, change, remove.

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

/// A topic to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewTopic")]
pub(super) struct NewTopicJson {
    /// Its name: 1 to 249 ASCII letters, digits, `.`, `_` and `-`.
    name: String,
    /// How many partitions; `num.partitions` of the broker when it is left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = PARTITIONS_MAX))]
    partitions: Option<i32>,
    /// How many replicas; the broker's default when it is left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    replication_factor: Option<i16>,
    /// Keys that are set on it.
    #[serde(default)]
    config: BTreeMap<String, ConfigText>,
    /// Only check whether it could be made.
    #[serde(default)]
    validate_only: bool,
}

/// What changes of a topic. Either everything that is asked for is allowed, or nothing happens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TopicChange")]
pub(super) struct TopicChangeJson {
    /// How many partitions it is to have; more than now.
    #[serde(default)]
    #[schemars(range(min = 1, max = PARTITIONS_MAX))]
    partitions: Option<i32>,
    /// Keys with their new values.
    #[serde(default)]
    set: BTreeMap<String, ConfigText>,
    /// Keys that go back to their defaults.
    #[serde(default)]
    unset: Vec<String>,
    /// Only check whether it could be changed.
    #[serde(default)]
    validate_only: bool,
}

pub(super) async fn list(
    State(port): State<Arc<Port>>,
    Open(admin): Open,
) -> Result<Json<TopicsJson>, Problem> {
    // Sizes of a hundred thousand partitions take a while: not on a thread that others wait for.
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
        // -1 is how Kafka asks for the default; here that is done by saying nothing.
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

/// Checks everything before anything changes.
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

//! Settings that can be changed over HTTP: the broker's configuration, and the log filter.

use std::collections::BTreeMap;

use axum::{Json, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Admin, Open,
    problem::{Body, ConfigText, Problem},
    views::{self, ConfigsJson},
};
use crate::service::{BrokerConfigError, BrokerScope};

/// Changes of broker keys, applied all or none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ConfigChange")]
pub(super) struct ConfigChangeJson {
    /// Keys with their new values.
    #[serde(default)]
    set: BTreeMap<String, ConfigText>,
    /// Keys to reset to their values at start.
    #[serde(default)]
    unset: Vec<String>,
    /// Change only this broker, not all.
    #[serde(default)]
    this_broker_only: bool,
}

/// The log filter.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Log")]
pub(super) struct LogJson {
    /// The current filter.
    filter: String,
    /// The filter at start.
    at_start: String,
}

/// A change of the log filter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LogChange", extend("required" = ["filter"]))]
pub(super) struct LogChangeJson {
    /// The new filter, as in RUST_LOG: `info`, or `info,millstream::kafka=debug`. Null restores the filter at
    /// start.
    filter: Option<String>,
}

pub(super) async fn configs(Open(admin): Open) -> Json<ConfigsJson> {
    Json(views::configs(&admin.sources.service))
}

pub(super) async fn change_configs(
    Open(admin): Open,
    Body(change): Body<ConfigChangeJson>,
) -> Result<Json<ConfigsJson>, Problem> {
    let set = change.set.into_iter().map(|(key, value)| (key, Some(value.0)));
    let changes = set.chain(change.unset.into_iter().map(|key| (key, None))).collect();
    let scope = if change.this_broker_only { BrokerScope::This } else { BrokerScope::All };
    let changed = admin.sources.service.change(async move |change| {
        let turn = change.config_turn().await;
        change.alter_broker_config(&turn, scope, changes, false).await
    });
    changed.await.map_err(BrokerConfigError::from).flatten()?;
    Ok(Json(views::configs(&admin.sources.service)))
}

pub(super) async fn log(Open(admin): Open) -> Json<LogJson> {
    Json(log_json(&admin))
}

pub(super) async fn change_log(
    Open(admin): Open,
    Body(change): Body<LogChangeJson>,
) -> Result<Json<LogJson>, Problem> {
    let log = &admin.sources.log;
    let filter = change.filter.unwrap_or_else(|| log.first_filter().to_string());
    log.set(&filter).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error))?;
    // Readers of the log must know why it changes.
    tracing::warn!(filter = log.filter(), "log filter changed");
    Ok(Json(log_json(&admin)))
}

fn log_json(admin: &Admin) -> LogJson {
    let log = &admin.sources.log;
    LogJson { filter: log.filter(), at_start: log.first_filter().to_string() }
}

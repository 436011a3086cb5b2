//! Configurations of topics and brokers.

use millstream_protocol::{
    Str,
    messages::{
        describe_configs::{DescribeConfigsRequest, DescribeConfigsResource},
        incremental_alter_configs::{AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest},
    },
};

use super::Admin;
use crate::{ClientError, cluster::Lane};

/// What is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOf {
    /// A topic.
    Topic(String),
    /// A broker.
    Broker(i32),
    /// All brokers.
    AllBrokers,
}

impl ConfigOf {
    fn kind(&self) -> i8 {
        match self {
            ConfigOf::Topic(_) => 2,
            ConfigOf::Broker(_) | ConfigOf::AllBrokers => 4,
        }
    }

    fn name(&self) -> Str {
        match self {
            ConfigOf::Topic(name) => Str::from(name),
            ConfigOf::Broker(id) => Str::from(id.to_string()),
            ConfigOf::AllBrokers => Str::EMPTY,
        }
    }
}

impl std::fmt::Display for ConfigOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConfigOf::Topic(name) => write!(f, "topic '{name}'"),
            ConfigOf::Broker(id) => write!(f, "broker {id}"),
            ConfigOf::AllBrokers => f.write_str("all brokers"),
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigOrigin {
    /// Set on the topic.
    Topic,
    /// Set on a broker, while it ran or at its start.
    Broker,
    /// The default; it was not set.
    Default,
    /// The broker does not say, or something that this client does not know.
    Other,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key.
    pub name: String,
    /// Its value; none when it is hidden.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: ConfigOrigin,
    /// Whether it can only be given at start.
    pub read_only: bool,
    /// What it does, if the broker says.
    pub documentation: Option<String>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Key and new value.
    Set(String, String),
    /// The key goes back to its default.
    Unset(String),
    /// Key and what is added to its list.
    Append(String, String),
    /// Key and what is taken from its list.
    Subtract(String, String),
}

impl ConfigChange {
    fn wire(&self) -> AlterableConfig {
        let (name, config_operation, value) = match self {
            ConfigChange::Set(name, value) => (name, 0, Some(value)),
            ConfigChange::Unset(name) => (name, 1, None),
            ConfigChange::Append(name, value) => (name, 2, Some(value)),
            ConfigChange::Subtract(name, value) => (name, 3, Some(value)),
        };
        AlterableConfig { name: Str::from(name), config_operation, value: value.map(Str::from) }
    }
}

impl Admin {
    /// Every key of a topic or a broker.
    pub async fn configs(&self, of: &ConfigOf) -> Result<Vec<ConfigEntry>, ClientError> {
        let resource = DescribeConfigsResource {
            resource_type: of.kind(),
            resource_name: of.name(),
            configuration_keys: None,
        };
        let request = DescribeConfigsRequest {
            resources: vec![resource],
            include_synonyms: false,
            include_documentation: true,
        };
        let response = self.ask_about(of, &request).await?;
        let result = response.results.into_iter().next().unwrap_or_default();
        let reason = result.error_message.map(|reason| reason.to_string());
        ClientError::check(result.error_code, || format!("describe the configuration of {of}"), reason)?;
        let entries = result.configs.into_iter().map(|config| ConfigEntry {
            name: config.name.to_string(),
            value: config.value.map(|value| value.to_string()),
            origin: match config.config_source {
                1 => ConfigOrigin::Topic,
                2..=4 => ConfigOrigin::Broker,
                5 => ConfigOrigin::Default,
                _ => ConfigOrigin::Other,
            },
            read_only: config.read_only,
            documentation: config.documentation.map(|text| text.to_string()),
        });
        Ok(entries.collect())
    }

    /// Changes keys of a topic or a broker, all or none.
    pub async fn alter_configs(
        &self,
        of: &ConfigOf,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let resource = AlterConfigsResource {
            resource_type: of.kind(),
            resource_name: of.name(),
            configs: changes.iter().map(ConfigChange::wire).collect(),
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only };
        let response = self.ask_about(of, &request).await?;
        let result = response.responses.into_iter().next().unwrap_or_default();
        let reason = result.error_message.map(|reason| reason.to_string());
        ClientError::check(result.error_code, || format!("change the configuration of {of}"), reason)
    }

    /// A broker answers for itself.
    async fn ask_about<R: millstream_protocol::Request>(
        &self,
        of: &ConfigOf,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let ConfigOf::Broker(id) = of else { return self.cluster.ask_controller(request).await };
        let connection = self.cluster.broker(*id, Lane::Ask).await?;
        connection.call_in(connection.version::<R>(i16::MAX)?, request).await
    }
}

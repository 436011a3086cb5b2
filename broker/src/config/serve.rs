//! The configuration of `millstream serve`: flags override the environment, which overrides the configuration
//! file and the defaults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    Address, AddressError, BatchLimit, BrokerConfig, ConfigError, TopicConfig, memory,
    topic_keys::{in_topic_units, topic_key_of},
};

/// Keys of the file that also exist as flags.
const FLAGS: &[&str] = &["advertised-kafka", "data-dir", "http-addr", "kafka-addr", "node-id", "rack"];

/// The given options, before defaults. In order of precedence: `--set`, flags and environment, the file.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// `--config`: a TOML file of the same keys.
    pub config: Option<PathBuf>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--kafka-addr`.
    pub kafka_addr: Option<String>,
    /// `--http-addr`.
    pub http_addr: Option<String>,
    /// `--advertised-kafka`: the address for clients.
    pub advertised_kafka: Option<String>,
    /// `--node-id`.
    pub node_id: Option<u64>,
    /// `--rack`.
    pub rack: Option<String>,
    /// `--memory`: a size.
    pub memory: Option<String>,
    /// `--set key=value`, in order.
    pub set: Vec<String>,
}

/// An invalid configuration: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ServeConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {path} is not TOML, at line {line} column {column}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The parser's message.
        reason: String,
    },
    /// A key or value in the file is invalid.
    #[error("the configuration file {path}: {source}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<ServeConfigError>,
    },
    /// Not `key=value`.
    #[error("--set takes key=value, not {0:?}")]
    Pair(String),
    /// A key or value is invalid.
    #[error(transparent)]
    Key(#[from] ConfigError),
    /// An address is invalid.
    #[error("invalid value for {key}: {source}")]
    Address {
        /// The key.
        key: &'static str,
        /// The cause.
        source: AddressError,
    },
    /// A flag has a value that is not allowed.
    #[error("invalid value {value:?} for {key}: {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// The given value.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },
}

/// The configuration of a node.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// Address of the Kafka listener; port 0 picks any free one.
    pub kafka_addr: Address,
    /// Address of the HTTP listener.
    pub http_addr: Address,
    /// The address for clients; `None` is the bound address.
    pub advertised_kafka: Option<Address>,
    /// This node's id.
    pub node_id: u64,
    /// This node's rack.
    pub rack: Option<String>,
    /// The flags above that were given, from any source.
    pub flags_given: BTreeSet<&'static str>,
    /// The broker's keys.
    pub broker: BrokerConfig,
    /// The broker keys that were set, as given.
    pub broker_set: BTreeMap<String, String>,
    /// Defaults for topics that were set, as given.
    pub topic_set: BTreeMap<String, String>,
    /// The options that it was resolved from.
    options: ServeOptions,
}

impl ServeConfig {
    /// Resolves the given options.
    pub fn resolve(options: ServeOptions) -> Result<ServeConfig, ServeConfigError> {
        let given = options.clone();
        let mut values = BTreeMap::new();
        if let Some(path) = &options.config {
            values = read_file(path.clone())?;
        }
        let flags = [
            ("data-dir", options.data_dir.map(|dir| dir.display().to_string())),
            ("kafka-addr", options.kafka_addr),
            ("http-addr", options.http_addr),
            ("advertised-kafka", options.advertised_kafka),
            ("node-id", options.node_id.map(|id| id.to_string())),
            ("rack", options.rack),
        ];
        values.extend(flags.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))));
        if let Some(memory) = options.memory {
            values.insert("memory.bytes".to_string(), size("memory", memory)?.to_string());
        }
        for pair in options.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| ServeConfigError::Pair(pair.clone()))?;
            values.insert(key.trim().to_string(), value.trim().to_string());
        }
        ServeConfig::from_values(values, given)
    }

    /// Resolves the same options with the current configuration file; `None` without one.
    pub fn read_again(&self) -> Result<Option<ServeConfig>, ServeConfigError> {
        match &self.options.config {
            Some(_) => ServeConfig::resolve(self.options.clone()).map(Some),
            None => Ok(None),
        }
    }

    fn from_values(
        mut values: BTreeMap<String, String>,
        options: ServeOptions,
    ) -> Result<ServeConfig, ServeConfigError> {
        let flags_given = FLAGS.iter().copied().filter(|flag| values.contains_key(*flag)).collect();
        let mut take = |key: &str| values.remove(key);
        let data_dir = take("data-dir").unwrap_or_else(|| "./millstream-data".to_string()).into();
        let kafka_addr = take("kafka-addr").unwrap_or_else(|| "127.0.0.1:9092".to_string());
        let kafka_addr = address("kafka-addr", &kafka_addr, str::parse)?;
        let http_addr = take("http-addr").unwrap_or_else(|| "127.0.0.1:9644".to_string());
        let http_addr = address("http-addr", &http_addr, str::parse)?;
        let rack = take("rack");
        let node_id = take("node-id").unwrap_or_else(|| "1".to_string());
        let advertised = take("advertised-kafka");
        let advertised =
            advertised.map(|text| address("advertised-kafka", &text, Address::advertised)).transpose()?;
        let (mut broker_set, mut topic_set) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in values {
            check_pair(&key, &value)?;
            if let Some(topic_key) = topic_key_of(&key) {
                topic_set.insert(topic_key.to_string(), value);
            } else if let Some(converted) = in_topic_units(&key, &value) {
                let (topic_key, value) = converted?;
                topic_set.insert(topic_key.to_string(), value);
            } else {
                broker_set.insert(key, value);
            }
        }
        let broker = BrokerConfig::from_values(&broker_set);
        let batch_limit = BatchLimit::new(&broker, broker.wal_file_bytes);
        topic_set.iter().try_for_each(|(key, value)| batch_limit.check(key, value))?;
        Ok(ServeConfig {
            data_dir,
            kafka_addr,
            http_addr,
            advertised_kafka: advertised,
            node_id: node_id.parse().ok().filter(|&id| id <= i32::MAX as u64).ok_or(
                ServeConfigError::Value {
                    key: "node-id",
                    value: node_id,
                    allowed: "a whole number from 0 to 2147483647",
                },
            )?,
            rack,
            flags_given,
            broker,
            broker_set,
            topic_set,
            options,
        })
    }
}

/// Validates a key that is not a flag, and its value.
fn check_pair(key: &str, value: &str) -> Result<(), ServeConfigError> {
    match (topic_key_of(key), in_topic_units(key, value)) {
        (Some(topic_key), _) => TopicConfig::check(topic_key, value)?,
        (None, Some(converted)) => drop(converted?),
        (None, None) => BrokerConfig::check(key, value)?,
    }
    Ok(())
}

fn size(key: &'static str, value: String) -> Result<u64, ServeConfigError> {
    let allowed = "bytes from 64 MiB on, or a number with KiB, MiB or GiB behind";
    let bytes =
        memory::parse_size(&value).filter(|bytes| (memory::BUDGET_BYTES_MIN..=1 << 50).contains(bytes));
    bytes.ok_or(ServeConfigError::Value { key, value, allowed })
}

fn address(
    key: &'static str,
    text: &str,
    read: impl Fn(&str) -> Result<Address, AddressError>,
) -> Result<Address, ServeConfigError> {
    read(text).map_err(|source| ServeConfigError::Address { key, source })
}

fn read_file(path: PathBuf) -> Result<BTreeMap<String, String>, ServeConfigError> {
    let text =
        fs::read_to_string(&path).map_err(|source| ServeConfigError::File { path: path.clone(), source })?;
    let table: toml::Table = text.parse().map_err(|e| syntax(&path, &text, &e))?;
    let mut out = BTreeMap::new();
    flatten("", &table, &mut out);
    for (key, value) in out.iter().filter(|(key, _)| !FLAGS.contains(&key.as_str())) {
        check_pair(key, value)
            .map_err(|error| ServeConfigError::InFile { path: path.clone(), source: Box::new(error) })?;
    }
    Ok(out)
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ServeConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let reason = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    ServeConfigError::Syntax {
        path: path.to_path_buf(),
        line: before.matches('\n').count() + 1,
        column,
        reason,
    }
}

/// A list is joined with commas. `[log] retention.ms = 1` and `"log.retention.ms" = 1` are the same key.
fn flatten(prefix: &str, table: &toml::Table, out: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&name, inner, out),
            toml::Value::String(text) => drop(out.insert(name, text.clone())),
            toml::Value::Array(items) => {
                let texts =
                    items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_string));
                out.insert(name, texts.collect::<Vec<_>>().join(","));
            }
            other => drop(out.insert(name, other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_wins_over_flags() {
        let options = ServeOptions {
            kafka_addr: Some("127.0.0.1:1".into()),
            set: vec![
                "kafka-addr=127.0.0.1:2".into(),
                "num.partitions=7".into(),
                "log.retention.ms=5".into(),
            ],
            ..ServeOptions::default()
        };
        let config = ServeConfig::resolve(options).expect("a good configuration");
        assert_eq!(config.kafka_addr.to_string(), "127.0.0.1:2");
        assert_eq!(config.broker.num_partitions, 7);
        assert_eq!(config.topic_set["retention.ms"], "5");
    }

    #[test]
    fn a_broker_key_may_have_the_prefix_of_topic_defaults() {
        let set = vec!["log.retention.check.interval.ms=7".into()];
        let config =
            ServeConfig::resolve(ServeOptions { set, ..ServeOptions::default() }).expect("a good one");
        assert_eq!(config.broker.retention_check_ms, 7);
        assert!(config.topic_set.is_empty());
    }

    #[test]
    fn topic_defaults_have_the_names_that_kafkas_broker_has_for_them() {
        let topic_set = |set: &[&str]| {
            let set = set.iter().map(|pair| pair.to_string()).collect();
            ServeConfig::resolve(ServeOptions { set, ..ServeOptions::default() }).map(|c| c.topic_set)
        };
        let all = topic_set(&[
            "message.max.bytes=5000",
            "log.cleaner.delete.retention.ms=7",
            "compression.type=lz4",
            "log.roll.hours=2",
        ]);
        let pairs = [
            ("compression.type", "lz4"),
            ("delete.retention.ms", "7"),
            ("max.message.bytes", "5000"),
            ("segment.ms", "7200000"),
        ];
        let wanted: BTreeMap<_, _> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(all.expect("good"), wanted);
        let retention = |set: &[&str]| topic_set(set).expect("good")["retention.ms"].clone();
        assert_eq!(retention(&["log.retention.hours=1"]), "3600000");
        assert_eq!(retention(&["log.retention.hours=-1"]), "-1");
        assert_eq!(
            retention(&["log.retention.ms=5", "log.retention.hours=1", "log.retention.minutes=2"]),
            "5"
        );
        assert_eq!(retention(&["log.retention.minutes=2", "log.retention.hours=1"]), "120000");
        for bad in ["log.retention.hours=soon", "log.retention.hours=-2", "log.max.message.bytes=5"] {
            let error = topic_set(&[bad]).expect_err(bad).to_string();
            assert!(error.contains(bad.split('=').next().unwrap_or(bad)), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_in_one_line_with_its_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("millstream.toml");
        let resolved = |text: &str| {
            std::fs::write(&path, text).expect("written");
            let options = ServeOptions { config: Some(path.clone()), ..ServeOptions::default() };
            ServeConfig::resolve(options)
                .map(|config| config.broker.http_allowed_hosts)
                .map_err(|e| e.to_string())
        };
        for (text, said) in [
            ("\"num.partitions\" = 3\nb = = 2\n", "not TOML, at line 2 column 5: "),
            ("\"num.partitions\" = \"many\"\n", "num.partitions"),
            ("nonsense = 1\n", "nonsense"),
            ("[kafka-addr]\nx = 1\n", "kafka-addr.x"),
        ] {
            let error = resolved(text).expect_err(text);
            let file = path.display().to_string();
            assert!(error.contains(&file) && error.contains(said) && !error.contains('\n'), "{error}");
        }
        assert_eq!(
            resolved("\"http.allowed.hosts\" = [\"a\", \"b\"]\n"),
            Ok(vec!["a".to_string(), "b".to_string()])
        );
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_with_the_reason() {
        let with = |pair: &str| {
            ServeConfig::resolve(ServeOptions { set: vec![pair.into()], ..ServeOptions::default() })
        };
        for (pair, reason) in [
            ("advertised-kafka=0.0.0.0:9092", "every address of this machine"),
            ("advertised-kafka=[::]:9092", "every address of this machine"),
            ("advertised-kafka=PLAINTEXT://broker:9092", "leave out 'PLAINTEXT://'"),
            ("advertised-kafka=broker:0", "port 0"),
            ("advertised-kafka=bro ker:9092", "a host name has no ' '"),
            ("advertised-kafka=::1:9092", "in brackets"),
            ("kafka-addr=PLAINTEXT://0.0.0.0:9092", "leave out 'PLAINTEXT://'"),
            ("kafka-addr=bro ker:9092", "a host name has no ' '"),
            ("kafka-addr=:9092", "the host is missing"),
            ("http-addr=localhost", "the port is missing"),
            ("http-addr=localhost:99999", "from 0 to 65535"),
        ] {
            let error = with(pair).expect_err(pair).to_string();
            let key = pair.split('=').next().expect("a key");
            assert!(error.contains(key) && error.contains(reason), "{pair}: {error}");
        }
        let advertised = with("advertised-kafka=[::1]:9092").expect("good").advertised_kafka;
        assert_eq!(advertised.expect("given").host(), "::1", "clients get no brackets");
        for pair in ["kafka-addr=0.0.0.0:0", "kafka-addr=[::]:9092", "http-addr=localhost:0"] {
            assert!(with(pair).is_ok(), "{pair}: a listener may take every address, and any port");
        }
    }

    #[test]
    fn memory_is_given_as_a_size() {
        let with = |memory: &str| {
            ServeConfig::resolve(ServeOptions { memory: Some(memory.into()), ..ServeOptions::default() })
        };
        assert_eq!(with("256MiB").expect("a good one").broker.requests_bytes_max, 32 << 20);
        for bad in ["1MiB", "much", "2GB"] {
            let error = with(bad).expect_err(bad).to_string();
            assert!(error.contains("memory") && error.contains(bad) && error.contains("MiB"), "{error}");
        }
    }

    #[test]
    fn what_is_unknown_or_out_of_range_is_refused_by_name() {
        for (given, named) in [
            ("nonsense=1", "nonsense"),
            ("num.partitions=0", "num.partitions"),
            ("node-id=x", "node-id"),
            ("x", "x"),
        ] {
            let options = ServeOptions { set: vec![given.into()], ..ServeOptions::default() };
            let error = ServeConfig::resolve(options).expect_err(given).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

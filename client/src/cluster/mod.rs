//! A cluster as a client sees it: its brokers, a connection to each, and what is known of its topics.

mod metadata;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use millstream_protocol::{
    ErrorCode, Request, Str,
    messages::{
        find_coordinator::FindCoordinatorRequest,
        metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse},
    },
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Mutex as AsyncMutex;

use crate::{ClientConfig, ClientError, backoff::Backoff, clock, wire::Connection};

pub(crate) use metadata::Metadata;
pub use metadata::{BrokerMeta, PartitionMeta, TopicMeta};

/// The newest Metadata version that is used: topics are named, not asked for by id.
const METADATA_VERSION_MAX: i16 = 12;
/// First FindCoordinator version that asks for several groups at once.
const MANY_COORDINATORS_FROM: i16 = 4;
/// Two questions for the same topic are at least so far apart.
const REFRESH_EVERY_MIN: Duration = Duration::from_millis(100);

/// What a connection is for: a request that the broker holds back must not hold up others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Short questions.
    Ask,
    /// Batches on their way to the broker.
    Produce,
    /// Fetches, which wait for records.
    Fetch,
    /// One member's requests to its group: a join waits for all members, those of the same client too.
    Group(u64),
}

/// Connections to one broker in one lane.
#[derive(Default)]
struct PooledConnection {
    connection: Option<Arc<Connection>>,
    failures: u32,
    not_before: Option<Instant>,
}

/// By address and lane. Each entry has its own lock, which is held while it connects.
type ConnectionPool = HashMap<(String, Lane), Arc<AsyncMutex<PooledConnection>>>;

/// A cluster. Cheap to clone; connections are shared and close when the last clone is gone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<ClientConfig>,
    metadata: RwLock<Metadata>,
    pool: Mutex<ConnectionPool>,
    /// Members so far; the number of one is its lane.
    members: AtomicU64,
    /// Held while metadata is requested: tasks that waited for it find the answer in `metadata`.
    refreshing: AsyncMutex<()>,
}

impl Cluster {
    /// A cluster that is reached over the configuration's addresses. Nothing is connected before it is needed.
    pub fn new(config: ClientConfig) -> Cluster {
        let inner = Inner {
            config: Arc::new(config),
            metadata: RwLock::default(),
            pool: Mutex::default(),
            members: AtomicU64::new(0),
            refreshing: AsyncMutex::default(),
        };
        Cluster { inner: Arc::new(inner) }
    }

    /// Settings of the client.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff { first: self.inner.config.retry_first, longest: self.inner.config.retry_longest }
    }

    /// A connection to an address: the open one, or a new one after the wait that earlier failures ask for.
    async fn connection(&self, address: &str, lane: Lane) -> Result<Arc<Connection>, ClientError> {
        let pooled = self.inner.pool.lock().entry((address.to_string(), lane)).or_default().clone();
        let mut pooled = pooled.lock().await;
        if let Some(open) = pooled.connection.as_ref().filter(|connection| connection.is_open()) {
            return Ok(open.clone());
        }
        pooled.connection = None;
        if let Some(at) = pooled.not_before {
            tokio::time::sleep_until(at.into()).await;
        }
        match Connection::open(address, &self.inner.config).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *pooled =
                    PooledConnection { connection: Some(connection.clone()), failures: 0, not_before: None };
                Ok(connection)
            }
            Err(error) => {
                pooled.failures += 1;
                pooled.not_before =
                    Some(clock::now() + self.backoff().after(pooled.failures, clock::random_u64()));
                Err(error)
            }
        }
    }

    /// A connection to a broker by its id.
    pub(crate) async fn broker(&self, id: i32, lane: Lane) -> Result<Arc<Connection>, ClientError> {
        if self.address_of(id).is_none() {
            self.refresh(&[]).await?;
        }
        let address = self.address_of(id).ok_or_else(|| ClientError::Unreachable {
            addresses: format!("broker {id}"),
            reason: "the cluster has no such broker".to_string(),
        })?;
        self.connection(&address, lane).await
    }

    /// A lane that no other member has.
    pub(crate) fn member_lane(&self) -> MemberLane {
        let lane = Lane::Group(self.inner.members.fetch_add(1, Relaxed));
        MemberLane { cluster: self.clone(), lane }
    }

    fn address_of(&self, id: i32) -> Option<String> {
        self.inner.metadata.read().brokers.get(&id).map(|broker| broker.address.clone())
    }

    /// A connection to whichever broker answers first: those that are known, then those that were given.
    pub(crate) async fn any(&self) -> Result<Arc<Connection>, ClientError> {
        self.inner.config.check_bootstrap()?;
        let mut addresses: Vec<String> =
            self.inner.metadata.read().brokers.values().map(|b| b.address.clone()).collect();
        addresses.extend(
            self.inner
                .config
                .bootstrap
                .iter()
                .filter(|a| !addresses.contains(a))
                .cloned()
                .collect::<Vec<_>>(),
        );
        let (mut last, mut answers_http) = ("no address was given".to_string(), None);
        for address in &addresses {
            match self.connection(address, Lane::Ask).await {
                Ok(connection) => return Ok(connection),
                Err(ClientError::Unreachable { reason, .. }) => last = reason,
                Err(ClientError::NotKafka { address }) => answers_http = Some(address),
                Err(error) => last = error.to_string(),
            }
        }
        if let Some(address) = answers_http {
            return Err(ClientError::NotKafka { address });
        }
        Err(ClientError::Unreachable { addresses: addresses.join(", "), reason: last })
    }

    /// Asks any broker.
    pub(crate) async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let connection = self.any().await?;
        connection.call_in(connection.version::<R>(i16::MAX)?, request).await
    }

    /// Asks the broker that leads the metadata.
    pub(crate) async fn ask_controller<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.refresh(&[]).await?;
        let controller = self.inner.metadata.read().controller;
        let connection = match controller {
            Some(id) => self.broker(id, Lane::Ask).await?,
            None => self.any().await?,
        };
        connection.call_in(connection.version::<R>(i16::MAX)?, request).await
    }

    /// The broker that coordinates a group.
    pub async fn coordinator(&self, group: &str) -> Result<i32, ClientError> {
        let connection = self.any().await?;
        let version = connection.version::<FindCoordinatorRequest>(i16::MAX)?;
        let key = Str::from(group.to_string());
        let request = match version {
            MANY_COORDINATORS_FROM.. => {
                FindCoordinatorRequest { coordinator_keys: vec![key], ..Default::default() }
            }
            _ => FindCoordinatorRequest { key, ..Default::default() },
        };
        let answer = connection.call_in(version, &request).await?;
        let (code, node) = match answer.coordinators.first() {
            Some(first) => (first.error_code, first.node_id),
            None => (answer.error_code, answer.node_id),
        };
        ClientError::check(code, || format!("find the coordinator of group '{group}'"), None)?;
        Ok(node)
    }

    /// The cluster's id, controller and brokers, asked for anew.
    pub async fn describe(&self) -> Result<(Option<String>, Option<i32>, Vec<BrokerMeta>), ClientError> {
        self.refresh(&[]).await?;
        let metadata = self.inner.metadata.read();
        Ok((metadata.cluster_id.clone(), metadata.controller, metadata.brokers.values().cloned().collect()))
    }

    /// Every topic, sorted by name, asked for anew.
    pub async fn topics(&self) -> Result<Vec<Arc<TopicMeta>>, ClientError> {
        let response = self.fetch_metadata(None, false).await?;
        let mut names: Vec<String> =
            response.topics.iter().filter_map(|t| Some(t.name.as_ref()?.to_string())).collect();
        names.sort();
        let metadata = self.inner.metadata.read();
        Ok(names.iter().filter_map(|name| metadata.last_known(name)).collect())
    }

    /// A topic as it is known, or asked for when what is known is too old. With `create`, a broker that allows it makes a
    /// topic that does not exist, and the call waits for that.
    pub async fn topic(&self, name: &str, create: bool) -> Result<Arc<TopicMeta>, ClientError> {
        let (config, begun) = (&self.inner.config, clock::now());
        let mut failures = 0;
        loop {
            if let Some(Ok(topic)) =
                self.inner.metadata.read().topic(name, clock::now(), config.metadata_age_max)
            {
                return Ok(topic);
            }
            self.learn(&[name], create).await?;
            let code = match self.inner.metadata.read().topic(name, clock::now(), config.metadata_age_max) {
                Some(Ok(topic)) => return Ok(topic),
                Some(Err(code)) => code,
                None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            };
            let over = clock::now().saturating_duration_since(begun) > config.request_timeout;
            if over || !create || !code.is_retriable() {
                return Err(refused(name, code));
            }
            failures += 1;
            tokio::time::sleep(self.backoff().after(failures, clock::random_u64())).await;
        }
    }

    /// The newest that is known of a topic, without asking.
    pub(crate) fn known(&self, name: &str) -> Option<Arc<TopicMeta>> {
        self.inner.metadata.read().last_known(name)
    }

    /// The newest that is known of a topic, and whether it is time to ask again.
    pub(crate) fn known_since(&self, name: &str, now: Instant) -> Option<(Arc<TopicMeta>, bool)> {
        self.inner.metadata.read().known_since(name, now, self.inner.config.metadata_age_max)
    }

    /// Asks for brokers and these topics anew.
    pub(crate) async fn refresh(&self, topics: &[&str]) -> Result<(), ClientError> {
        self.learn(topics, false).await
    }

    async fn learn(&self, topics: &[&str], create: bool) -> Result<(), ClientError> {
        let asked_at = clock::now();
        let _one = self.inner.refreshing.lock().await;
        let is_new = |name: &&str| {
            let known = self.inner.metadata.read().topic(name, asked_at, REFRESH_EVERY_MIN);
            // An unknown topic that may be made is asked for again.
            matches!(known, Some(Ok(_))) || (known.is_some() && !create)
        };
        if !topics.is_empty() && topics.iter().all(is_new) {
            return Ok(());
        }
        self.fetch_metadata(Some(topics), create).await.map(|_| ())
    }

    async fn fetch_metadata(
        &self,
        topics: Option<&[&str]>,
        create: bool,
    ) -> Result<MetadataResponse, ClientError> {
        let connection = self.any().await?;
        let version = connection.version::<MetadataRequest>(METADATA_VERSION_MAX)?;
        let one = |name: &&str| MetadataRequestTopic {
            name: Some(Str::from(name.to_string())),
            ..Default::default()
        };
        let request = MetadataRequest {
            topics: topics.map(|names| names.iter().map(one).collect()),
            allow_auto_topic_creation: create || version < 4,
            ..Default::default()
        };
        let response = connection.call_in(version, &request).await?;
        self.inner.metadata.write().learn(&response, clock::now());
        Ok(response)
    }
}

/// A member's lane, whose connections close with it.
pub(crate) struct MemberLane {
    cluster: Cluster,
    lane: Lane,
}

impl MemberLane {
    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }
}

impl Drop for MemberLane {
    fn drop(&mut self) {
        self.cluster.inner.pool.lock().retain(|(_, lane), _| *lane != self.lane);
    }
}

fn refused(name: &str, code: ErrorCode) -> ClientError {
    ClientError::Refused { what: format!("topic '{name}'"), code, reason: None }
}

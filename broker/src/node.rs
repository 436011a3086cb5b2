//! The composition root: opens the store, starts the groups, opens the listeners, starts maintenance, stops.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_model::{NodeId, RaftGroupId, limits};
use millstream_replica::{Group, LogStore, NoPeers, StartError, Timing, identity};
use millstream_state::cluster;
use millstream_store::{
    disk::{Disk, OsDisk},
    doctor::IDENTITY_NAME,
    tables::{Tables, TablesConfig},
    wal::{RecoveryBase, Wal, WalConfig},
};

use crate::{
    admin, clock,
    config::{Address, AddressError, BatchLimit, MemoryBudget, ServeConfig},
    console,
    housekeeping::{self, Maintenance, Pacer, StoreHandles, Wakeup},
    kafka, net,
    partition::{Shard, ShardHost},
    reload::reload,
    service::{
        BrokerFacts, ClusterHost, GroupExpiry, Service, StaticConfigs, TopicError, TopicRepair, space_of,
    },
    signals::{HangUps, ShutdownSignals},
    telemetry::{self, LogSwitch},
};
use parking_lot::Mutex;

/// Maximum time that a shutdown waits for state changes in progress.
const CHANGES_WAIT_MAX: Duration = Duration::from_secs(5);

/// Why a node could not start or had to stop: exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An operation of the operating system failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// A port cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The requested address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// Clients cannot connect to the machine's own name.
    #[error("{0}; give the address by which clients reach this broker with --advertised-kafka HOST:PORT")]
    Advertised(AddressError),
    /// The data directory cannot be created or written.
    #[error("the data directory {} cannot be used: {}", dir.display(), directory_error(dir, source))]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another broker uses the directory.
    #[error("the data directory {0} is in use by another broker")]
    InUse(String),
    /// The store cannot be opened.
    #[error("the store in {dir} cannot be opened: {reason}; look at it with `millstream doctor --data-dir {dir}`", dir = dir.display())]
    Store {
        /// The data directory.
        dir: PathBuf,
        /// The cause, with the file.
        reason: String,
    },
    /// The token of the HTTP port cannot be read.
    #[error(transparent)]
    Token(#[from] admin::TokenError),
    /// A group cannot be started.
    #[error(transparent)]
    Start(StartError),
    /// A Raft group has lost its membership or its log.
    #[error("{reason}; look at it with `millstream doctor --data-dir {dir}`", dir = dir.display())]
    Lost {
        /// The data directory.
        dir: PathBuf,
        /// The group, and the cause.
        reason: StartError,
    },
    /// The store belongs to another node id.
    #[error("{reason}: the store in {dir} was made with another --node-id", dir = dir.display())]
    Foreign {
        /// The data directory.
        dir: PathBuf,
        /// The group, and its node.
        reason: StartError,
    },
    /// The cluster's first entries could not be written.
    #[error("the metadata group does not answer: {0}")]
    Metadata(#[from] TopicError),
}

/// Why a directory cannot be used. The system's own error does not say that a file is in its place.
fn directory_error(dir: &Path, source: &io::Error) -> String {
    match dir.ancestors().find(|part| part.is_file()) {
        Some(file) => format!("{} is a file, not a directory", file.display()),
        None if source.kind() == io::ErrorKind::StorageFull
            && space_of(dir).is_ok_and(|space| space.lacks_inodes()) =>
        {
            "its volume has no inodes left: no further file can be made on it".to_string()
        }
        None if dir.exists() => source.to_string(),
        None => format!("it cannot be made: {source}"),
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> NodeError {
    let what = what.into();
    move |source| NodeError::Io { what, source }
}

/// The open store of a node.
struct Store {
    disk: Arc<OsDisk>,
    wal: Arc<Wal>,
    tables: Arc<Tables>,
    /// Set when everything but the log is stopped: writes that fail from then on were not acknowledged.
    closing: Arc<AtomicBool>,
    /// Set when the tables' memory is full.
    wakeup: Arc<Wakeup>,
    /// Paces the tables' merges.
    pacer: Arc<Pacer>,
    // Keeps the directory locked.
    _lock: fs::File,
}

impl Store {
    fn start_maintenance(&self, config: &ServeConfig, service: Service) -> io::Result<Maintenance> {
        let handles =
            StoreHandles { disk: self.disk.clone(), wal: self.wal.clone(), tables: self.tables.clone() };
        Maintenance::start(service, handles, &config.data_dir, self.wakeup.clone(), self.pacer.clone())
    }
}

/// Runs a broker until a shutdown signal.
pub async fn serve(config: ServeConfig, log: LogSwitch) -> Result<(), NodeError> {
    let started = clock::monotonic();
    let descriptors = net::Descriptors::take_all(config.broker.connections_max)
        .map_err(io_error("cannot open enough files"))?;
    // Bound first, so that a port in use is reported before anything is written.
    let kafka = net::bind(&config.kafka_addr, config.broker.send_buffer_bytes)
        .await
        .map_err(|source| NodeError::Listen { address: config.kafka_addr.to_string(), source })?;
    let http = net::bind(&config.http_addr, None)
        .await
        .map_err(|source| NodeError::Listen { address: config.http_addr.to_string(), source })?;
    let (kafka_addr, http_addr) = (address(&kafka)?, address(&http)?);
    let facts = facts(&config, kafka_addr, http_addr)?;
    let host = config.http_addr.host();
    let admin = admin::AdminServer::start(http, host, &config.broker, descriptors.http_connections)?;
    // Before the start, which may take long and be interrupted.
    let (mut signals, mut hangups) = (ShutdownSignals::new(), HangUps::new());
    let closing = Arc::new(AtomicBool::new(false));
    let opened = tokio::select! {
        opened = open(&config, descriptors, closing.clone(), &admin, facts) => opened?,
        _ = signals.next() => {
            // Nothing was acknowledged yet: the next start continues with what this one wrote.
            closing.store(true, Relaxed);
            tracing::info!("stopped before ready");
            admin.close();
            return Ok(());
        }
    };
    let (store, service) = opened;
    let maintenance =
        store.start_maintenance(&config, service.clone()).map_err(io_error("cannot start the flusher"))?;
    let groups = GroupExpiry::start(service.clone());
    let repair = TopicRepair::start(service.clone());
    let dispatcher = kafka::Dispatcher::new(service.clone());
    let server = net::Server::start(kafka, dispatcher, &config.broker, descriptors, http_addr);
    let pages = admin::Sources {
        service: service.clone(),
        wal: store.wal.clone(),
        tables: store.tables.clone(),
        connections: Box::new(server.connection_count()),
        log,
    };
    admin.open(pages);
    if let Err(error) = write_addresses(&config.data_dir, kafka_addr, http_addr) {
        // A hint for scripts: a full disk must not keep a broker from serving its data.
        tracing::warn!(%error, "cannot write addresses.json");
    }
    tracing::info!(ready_ms = started.elapsed().as_millis() as u64, "ready");
    console::announce(format!(
        "millstream ready kafka={kafka_addr} http={http_addr} node={}",
        config.node_id
    ));
    serve_until_ending(&mut signals, &mut hangups, config, &service).await;
    tracing::info!("stopping");
    admin.stopping();
    service.groups().dismiss();
    server.shutdown().await;
    admin.close();
    service.finish_changes(CHANGES_WAIT_MAX).await;
    repair.shutdown().await;
    groups.shutdown().await;
    maintenance.shutdown().await;
    for shard in service.shards() {
        shard.group().shutdown().await;
    }
    service.metadata().shutdown().await;
    store.closing.store(true, Relaxed);
    Ok(())
}

/// Waits for a shutdown signal; reloads the configuration on each SIGHUP until then.
async fn serve_until_ending(
    endings: &mut ShutdownSignals,
    hangups: &mut HangUps,
    mut config: ServeConfig,
    service: &Service,
) {
    loop {
        tokio::select! {
            _ = endings.next() => return,
            () = hangups.next() => reload(&mut config, service),
        }
    }
}

fn log_memory_budget(budget: &MemoryBudget) {
    let budget_mib = budget.bytes >> 20;
    tracing::info!(budget_mib, source = %budget, "memory budget");
    if budget.is_too_large() {
        let (limit_mib, limit) = (budget.limit.bytes >> 20, &budget.limit.source);
        tracing::warn!(
            budget_mib,
            limit_mib,
            %limit,
            "memory budget exceeds half of the process's memory limit; the system may kill the process"
        );
    }
}

fn address(listeners: &[tokio::net::TcpListener]) -> Result<SocketAddr, NodeError> {
    let first = listeners.first().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable));
    first.and_then(|listener| listener.local_addr()).map_err(io_error("cannot determine the bound address"))
}

fn facts(config: &ServeConfig, kafka: SocketAddr, http: SocketAddr) -> Result<BrokerFacts, NodeError> {
    Ok(BrokerFacts {
        advertised: advertised(config, kafka)?,
        kafka_addr: config.kafka_addr.at_port(kafka.port()),
        http_addr: config.http_addr.at_port(http.port()),
        background_threads: housekeeping::THREADS,
        compaction_every: housekeeping::COMPACTION_EVERY_MIN,
    })
}

/// The address for clients: the configured one, or else the listener's host, or this machine's name if the
/// port is bound to every address.
fn advertised(config: &ServeConfig, bound: SocketAddr) -> Result<Address, NodeError> {
    if let Some(address) = &config.advertised_kafka {
        return Ok(address.clone());
    }
    let host = match bound.ip().is_unspecified() {
        true => fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or("localhost".into(), |name| name.trim().to_string()),
        false => config.kafka_addr.host().to_string(),
    };
    Address::new(&host, bound.port()).map_err(NodeError::Advertised)
}

/// Opens the store and starts its groups; may be dropped at any time.
async fn open(
    config: &ServeConfig,
    descriptors: net::Descriptors,
    closing: Arc<AtomicBool>,
    admin: &admin::AdminServer,
    facts: BrokerFacts,
) -> Result<(Store, Service), NodeError> {
    let given = config.clone();
    // Reading a long log takes time.
    let store = tokio::task::spawn_blocking(move || open_store(&given, descriptors, closing)).await;
    let store = store.map_err(|e| io_error("the store cannot be opened")(io::Error::other(e)))??;
    let service = start_groups(config, &store, facts, admin).await?;
    if let Err(error) = write_identity(&config.data_dir, NodeId(config.node_id)) {
        // Only repairs need it: a full disk must not keep a broker from serving its data.
        tracing::warn!(%error, "cannot write the node's identity");
    }
    Ok((store, service))
}

fn open_store(
    config: &ServeConfig,
    descriptors: net::Descriptors,
    closing: Arc<AtomicBool>,
) -> Result<Store, NodeError> {
    let dir = &config.data_dir;
    let disk = Arc::new(OsDisk::new(dir).map_err(unusable(dir))?);
    let lock = lock(dir)?;
    let (wakeup, pacer) = (Arc::new(Wakeup::default()), Arc::new(Pacer::default()));
    let (full, merges) = (wakeup.clone(), pacer.clone());
    let tables_config = TablesConfig {
        full: Arc::new(move || full.wake()),
        pace: Arc::new(move |bytes| merges.pace(bytes)),
        memtable_bytes_max: config.broker.memtable_bytes,
        cache_bytes_max: config.broker.read_cache_bytes,
        decompressed_bytes_max: config.broker.decompressed_bytes_max,
        open_files_max: descriptors.run_files,
        ..TablesConfig::default()
    };
    let as_disk: Arc<dyn Disk> = disk.clone();
    let (tables, manifest) = Tables::open(as_disk.clone(), tables_config).map_err(|e| unopened(dir, e))?;
    let is_closing = closing.clone();
    let file_bytes = log_file_bytes(config);
    let spare_files_max = WalConfig::default().spare_files_max;
    let wal_config = WalConfig {
        file_bytes,
        // On a small volume spare files would waste space.
        spare_files_max: if file_bytes < config.broker.wal_file_bytes { 1 } else { spare_files_max },
        gather: config.broker.wal_gather,
        writer_priority: config.broker.wal_writer_priority,
        salt: clock::random_u64() as u32,
        // About the memory that a flush frees is kept for reuse.
        spare_bytes_max: config.broker.memtable_bytes / 2 * 5,
        // A failed write is final: the next start determines what is on disk.
        on_failure: Arc::new(move |failed| {
            if is_closing.load(Relaxed) {
                return tracing::warn!(%failed, "log write failed during shutdown; unacknowledged entries are lost");
            }
            tracing::error!(%failed, "log write failed; exiting without further acknowledgements");
            telemetry::flush_log(telemetry::LAST_LINES_WAIT);
            console::last_words(format_args!("millstream: {failed}"));
            std::process::exit(1);
        }),
        ..WalConfig::default()
    };
    let flushed = manifest.flushed.iter().map(|(group, id)| (*group, id.index)).collect();
    let (wal, report) =
        Wal::open(as_disk, wal_config, &RecoveryBase { flushed }).map_err(|e| unopened(dir, e))?;
    tracing::info!(files = report.files, frames = report.frames, torn = report.torn, "log opened");
    log_memory_budget(&config.broker.memory);
    Ok(Store { disk, wal: Arc::new(wal), tables: Arc::new(tables), closing, wakeup, pacer, _lock: lock })
}

/// The size of log files. Warns if the volume is so small that produce is refused early.
fn log_file_bytes(config: &ServeConfig) -> u64 {
    let all = space_of(&config.data_dir).ok().map(|space| space.total_bytes);
    let file_bytes = config.broker.log_file_bytes(all);
    let needed = config.broker.volume_bytes_min(file_bytes);
    if let Some(all) = all.filter(|all| *all < needed) {
        tracing::warn!(
            "the volume of the data directory has {} MiB and needs {} MiB for disk.low.bytes, two memtables and the log: produce may be refused although there are few records",
            all >> 20,
            needed >> 20
        );
    }
    file_bytes
}

fn unusable(dir: &Path) -> impl FnOnce(io::Error) -> NodeError {
    let dir = dir.to_path_buf();
    move |source| NodeError::DataDir { dir, source }
}

fn unopened(dir: &Path, reason: impl std::fmt::Display) -> NodeError {
    NodeError::Store { dir: dir.to_path_buf(), reason: reason.to_string() }
}

fn lock(dir: &Path) -> Result<fs::File, NodeError> {
    let file = fs::File::create(dir.join("LOCK")).map_err(unusable(dir))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(NodeError::InUse(dir.display().to_string())),
        Err(e) => Err(unusable(dir)(e.into())),
    }
}

async fn start_groups(
    config: &ServeConfig,
    store: &Store,
    facts: BrokerFacts,
    admin: &admin::AdminServer,
) -> Result<Service, NodeError> {
    let node = NodeId(config.node_id);
    let log = |group| LogStore::new(store.wal.group(group));
    let static_configs = StaticConfigs {
        node: config.node_id,
        broker: config.broker_set.clone(),
        topic: config.topic_set.clone(),
    };
    let batch_limit = BatchLimit::new(&config.broker, store.wal.file_bytes());
    let cluster_host = Arc::new(ClusterHost::new(store.tables.clone(), static_configs, batch_limit));
    let metadata = Group::start(
        RaftGroupId::METADATA,
        node,
        Timing::default(),
        NoPeers::shared(),
        log(RaftGroupId::METADATA),
        cluster_host.clone(),
        store.tables.clone(),
    );
    let shards = (1..=limits::SHARDS_DEFAULT).map(RaftGroupId).map(|id| {
        let (log, tables) = (log(id), store.tables.clone());
        async move {
            let host = Arc::new(ShardHost::new(id, tables.clone()));
            let group =
                Group::start(id, node, Timing::default(), NoPeers::shared(), log, host.clone(), tables)
                    .await?;
            Ok::<_, StartError>((id, Shard::new(group, host)))
        }
    });
    let (metadata, shards) = futures::future::join(metadata, futures::future::join_all(shards)).await;
    let refused = start_error(&config.data_dir);
    let metadata = metadata.map_err(&refused)?;
    let shards = shards.into_iter().collect::<Result<HashMap<_, _>, _>>().map_err(&refused)?;
    let groups: Vec<&Group> = shards.values().map(|shard| shard.group()).chain([&metadata]).collect();
    let leaderless = Arc::new(Mutex::new(groups.iter().map(|group| group.id()).collect::<BTreeSet<_>>()));
    admin.electing(leaderless.clone());
    // All elections run concurrently, so that their votes and first entries share a few log writes.
    let elections = groups.into_iter().map(|group| {
        let leaderless = leaderless.clone();
        async move {
            group.lead_alone().await?;
            leaderless.lock().remove(&group.id());
            Ok(())
        }
    });
    futures::future::try_join_all(elections).await.map_err(&refused)?;
    let service = Service::new(cluster_host, metadata, shards, store.wal.clone(), config.clone(), facts);
    let started = service.change(async move |change| {
        change.bootstrap_cluster(cluster::cluster_id_text(clock::random_uuid())).await?;
        change.reconcile().await
    });
    started.await.map_err(TopicError::from)??;
    Ok(service)
}

/// Maps a group's start error to the node's error, which says what to do.
fn start_error(dir: &Path) -> impl Fn(StartError) -> NodeError {
    let dir = dir.to_path_buf();
    move |reason| match reason {
        StartError::NoMembers { .. } | StartError::Storage { .. } => {
            NodeError::Lost { dir: dir.clone(), reason }
        }
        StartError::OtherMembers { .. } => NodeError::Foreign { dir: dir.clone(), reason },
        StartError::Timing(_) | StartError::Stopped { .. } => NodeError::Start(reason),
    }
}

/// Writes a file that says that this node is the only one of its cluster, for a repair that has no other source for it.
fn write_identity(dir: &Path, node: NodeId) -> io::Result<()> {
    let (path, new, text) = (dir.join(IDENTITY_NAME), dir.join("identity.new"), identity(node));
    if fs::read(&path).is_ok_and(|current| current == text.as_bytes()) {
        return Ok(());
    }
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)?;
    fs::File::open(dir)?.sync_all()
}

fn write_addresses(dir: &Path, kafka: SocketAddr, http: SocketAddr) -> io::Result<()> {
    let text = serde_json::json!({ "kafka": kafka.to_string(), "http": http.to_string() }).to_string();
    let new = dir.join("addresses.json.new");
    fs::write(&new, text)?;
    fs::rename(new, dir.join("addresses.json"))
}

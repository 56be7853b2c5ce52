//! The handle everything goes through.

use crate::cache::{Cache, Command, Feed, Link, etcd_revision, valid_prefix};
use crate::config::EtcdConfig;
use crate::error::{Conflict, Error, FailedCompare, Result};
use crate::etcd::{Kind, Pool, lease_not_found};
use crate::lease::Leases;
use crate::metrics::Metrics;
use crate::object::Object;
use crate::past::Past;
use crate::read_index::ReadIndex;
use crate::resource::{Resource, Snapshot};
use crate::schema::ResourceSchema;
use crate::servers::{self, Member, Participant, Servers};
use crate::txn::{Committed, Compare, KeyValue, Op, Txn};
use bytes::Bytes;
use etcd_client::{Client, CompareOp, PutOptions, TxnOp, TxnOpResponse};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Written once when the cache must be brought past a revision of a key that the watch does not cover.
const MARKER: &str = "/registry/skep-progress";
/// How long a writer waits for this server's admission: a server that died while it was alone keeps others out for the ten
/// seconds of its lease, and etcd ends leases a little late.
const ADMISSION_LIMIT: Duration = Duration::from_secs(25);
/// How long a reader waits for the watch to catch up before it asks whether it ever will.
const GRACE: Duration = Duration::from_millis(50);

/// Storage of a cluster: etcd and the cache in front of it. Cheap to clone; the last clone's drop ends its tasks.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    commands: mpsc::Sender<Command>,
    member: Option<Member>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// What the background tasks share with the handles.
pub(crate) struct Core {
    pub(crate) pool: Arc<Pool>,
    cache: Arc<Cache>,
    read_index: ReadIndex,
    servers: Arc<Servers>,
    /// The key that says that this server may write.
    place: Option<String>,
    leases: Leases,
    /// Held by the one reader that brings the cache past foreign revisions, for all.
    marking: Mutex<()>,
}

/// How the cache is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The watch stands, so the cache follows etcd.
    pub ready: bool,
    /// Why not, in words for a person.
    pub reason: Option<String>,
    /// Revision the cache has reached.
    pub revision: i64,
}

impl Storage {
    /// Connects, lists `/registry/` and starts the watch. Fails if etcd does not answer within
    /// [`crate::Tuning::request_timeout`].
    pub async fn connect(config: EtcdConfig, resources: Vec<ResourceSchema>) -> Result<Self> {
        let metrics = Metrics::default();
        let pool = Arc::new(Pool::new(&config, metrics.clone()).await?);
        let cache = Arc::new(Cache::new(config.tuning.clone(), metrics));
        for schema in &resources {
            check_prefix(schema)?;
            cache.enter(schema);
        }
        let stop = CancellationToken::new();
        let stop_on_drop = stop.clone().drop_guard();
        let servers = Arc::new(Servers::new(config.member.is_some()));
        if let Some(member) = config.member.clone() {
            let participant = Participant { member, servers: Arc::clone(&servers), pool: pool.clone() };
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(participant.run()).await });
        }
        let (commands, queue) = mpsc::channel(16);
        let feed = Feed::load(pool.clone(), cache.clone(), queue, stop.clone()).await?;
        let (started, first_watch) = oneshot::channel();
        tokio::spawn(feed.run(started));
        tokio::time::timeout(config.tuning.request_timeout, first_watch)
            .await
            .map_err(|_| Error::Timeout { operation: "watch", after: config.tuning.request_timeout })?
            .map_err(|_| Error::Closed)?;
        let read_index = ReadIndex::new({
            let pool = pool.clone();
            move || {
                let pool = pool.clone();
                async move {
                    pool.metrics.read_rounds.inc();
                    etcd_revision(&pool).await
                }
            }
        });
        let place = config.member.as_ref().map(|member| servers::key(&member.id));
        let core = Arc::new(Core {
            pool,
            cache,
            read_index,
            servers,
            place,
            leases: Leases::default(),
            marking: Mutex::default(),
        });
        let (trimmed, stopped) = (Arc::clone(&core), stop.clone());
        let every = config.tuning.history_trim_interval;
        tokio::spawn(async move {
            while stopped.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                trimmed.cache.trim();
            }
        });
        if let Some(every) = config.tuning.compaction_interval {
            let (core, stop) = (core.clone(), stop.clone());
            tokio::spawn(async move {
                stop.run_until_cancelled(crate::compact::run(core, every)).await;
            });
        }
        let member = config.member;
        Ok(Self(Arc::new(Inner { core, commands, member, stop, _stop_on_drop: stop_on_drop })))
    }

    /// Adds a resource at run time and loads it. If the prefix is known already, its fields are replaced and it is
    /// loaded anew: handles stay valid, watchers get `Expired`.
    pub async fn add_resource(&self, schema: ResourceSchema) -> Result<Resource> {
        check_prefix(&schema)?;
        // Loaded at the revision the cache stands at, so that revision must not be about to be compacted.
        let revision = self.read_revision().await?;
        self.wait_for(revision).await?;
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(Command::Add(schema, reply)).await.map_err(|_| Error::Closed)?;
        let timeout = self.0.core.pool.timeout * 2;
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer.map_err(|_| Error::Closed)?,
            Err(_) => Err(Error::Timeout { operation: "list", after: timeout }),
        }
    }

    /// Forgets a resource; its watchers get `Expired`.
    pub fn remove_resource(&self, prefix: &str) {
        self.0.core.cache.remove(prefix);
    }

    /// The resource of a prefix, if a schema was given for it.
    pub fn resource(&self, prefix: &str) -> Option<Resource> {
        self.0.core.cache.get(prefix).map(Resource)
    }

    /// A page of a resource at an earlier revision, from etcd itself: for what [`Resource::snapshot_at`] calls `Expired`.
    /// The snapshot holds only objects that match.
    ///
    /// `Compacted` when etcd has forgotten the revision, too.
    pub async fn past_page(
        &self,
        resource: &Resource,
        past: Past<'_>,
        matches: impl Fn(&Object) -> bool,
    ) -> Result<Snapshot> {
        crate::past::page(&self.0.core.pool, resource, past, matches).await
    }

    /// Applies a transaction, or fails with [`Error::Conflict`] and what etcd has instead.
    /// [`Error::OutcomeUnknown`] says that it may have been applied.
    pub async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.0.core.commit(txn).await
    }

    /// A linearizable read of one key from etcd itself, for keys outside the cache.
    pub async fn read(&self, key: &str) -> Result<Option<KeyValue>> {
        let get = |client: &Client| {
            let (mut kv, key) = (client.kv_client(), key.to_owned());
            async move { kv.get(key, None).await }
        };
        let response = self.0.core.pool.call("get", Kind::Read, get).await?;
        Ok(response.kvs().first().map(key_value))
    }

    /// A revision at least as new as every write that finished before this call.
    /// Concurrent callers share one question to etcd; a server that is alone ([`Member`]) asks none.
    pub async fn read_revision(&self) -> Result<i64> {
        match self.0.core.servers.revision_if_alone() {
            Some(revision) => Ok(revision),
            None => self.0.core.read_index.revision().await,
        }
    }

    /// Waits until the cache has reached `revision`.
    /// If it does not in time: `Unavailable` while etcd is away, `TooLargeRevision` if etcd has not got there either.
    pub async fn wait_for(&self, revision: i64) -> Result<()> {
        self.0.core.wait_for(revision).await
    }

    /// Revision the cache has reached.
    pub fn revision(&self) -> i64 {
        self.0.core.cache.progress.applied()
    }

    /// State of the cache, for readyz.
    pub fn readiness(&self) -> Readiness {
        let reason = match self.0.core.cache.link() {
            Link::Up => None,
            Link::Down(reason) => Some(reason),
            Link::Closed => Some("storage is shut down".into()),
        };
        Readiness { ready: reason.is_none(), reason, revision: self.revision() }
    }

    /// Registers this crate's metrics (upstream's names where it has them; the registry should add no prefix).
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.0.core.pool.metrics.register(registry);
    }

    /// Ends the tasks and all watchers, and tells other servers that this one writes no more: they need not wait for that.
    pub async fn leave(&self) {
        self.shutdown();
        let Some(member) = &self.0.member else { return };
        if let Err(error) = servers::leave(&self.0.core.pool, member).await {
            tracing::warn!(%error, "other API servers will notice only later that this one has ended");
        }
    }

    /// Ends the tasks and all watchers (they get `Closed`).
    pub fn shutdown(&self) {
        self.0.stop.cancel();
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("readiness", &self.readiness()).finish()
    }
}

impl Core {
    async fn commit(&self, txn: Txn) -> Result<Committed> {
        let (mut leases_renewed, mut admitted_anew) = (false, false);
        loop {
            let admission = self.servers.admission(ADMISSION_LIMIT).await?;
            match self.try_commit(&txn, admission).await {
                // etcd refused it, so nothing was written and it may be sent again.
                Err(error) if lease_not_found(&error) && !leases_renewed => {
                    leases_renewed = true;
                    self.leases.forget().await;
                }
                Ok(None) if !admitted_anew => {
                    admitted_anew = true;
                    self.pool.metrics.fenced_writes.inc();
                    admission.inspect(|admission| self.servers.lost(*admission));
                }
                Ok(None) => {
                    return Err(Error::Unavailable("this server is losing its place in etcd again and again".into()));
                }
                Ok(Some(committed)) => return Ok(committed),
                Err(error) => return Err(error),
            }
        }
    }

    /// `None`: refused because the admission is no longer valid.
    async fn try_commit(&self, txn: &Txn, admission: Option<i64>) -> Result<Option<Committed>> {
        let mut leases = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            leases.push(match op {
                Op::Put { ttl: Some(ttl), .. } => Some(self.leases.get(&self.pool, *ttl).await?),
                _ => None,
            });
        }
        let place = admission.zip(self.place.as_deref());
        let send = |client: &Client| {
            let (mut kv, request) = (client.kv_client(), etcd_txn(txn, &leases, place));
            async move { kv.txn(request).await }
        };
        let response = self.pool.call("txn", Kind::Write, send).await?;
        let revision = response.header().map_or(0, |header| header.revision());
        self.servers.tell(revision);
        if response.succeeded() {
            return Ok(Some(Committed { revision }));
        }
        let current: Vec<_> = response.op_responses().into_iter().map(read).collect();
        if let Some((created, _)) = place
            && current.last().and_then(Option::as_ref).map(|kv| kv.create_revision) != Some(created)
        {
            return Ok(None);
        }
        Err(refused(txn, current, revision))
    }

    pub(crate) async fn wait_for(&self, revision: i64) -> Result<()> {
        let progress = &self.cache.progress;
        if progress.applied() >= revision {
            return Ok(());
        }
        let start = Instant::now();
        let waited = tokio::time::timeout(self.cache.tuning.freshness_timeout, async {
            if tokio::time::timeout(GRACE, progress.reached(revision)).await.is_err() {
                tokio::select! {
                    () = progress.reached(revision) => {}
                    () = async { self.make_progress(revision).await; std::future::pending().await } => {}
                }
            }
        })
        .await;
        self.cache.metrics.read_wait.observe(start.elapsed().as_secs_f64());
        match (waited, self.cache.link()) {
            (Ok(()), _) => Ok(()),
            (Err(_), Link::Closed) => Err(Error::Closed),
            (Err(_), Link::Down(reason)) => Err(Error::Unavailable(format!("the watch is down: {reason}"))),
            (Err(_), Link::Up) => Err(Error::TooLargeRevision { requested: revision, current: progress.applied() }),
        }
    }

    /// Makes sure that a revision etcd has reached will come by in the watch. One marker serves everybody who waits.
    async fn make_progress(&self, revision: i64) {
        let _one_at_a_time = self.marking.lock().await;
        let progress = &self.cache.progress;
        if progress.applied() >= revision {
            return;
        }
        // A revision that etcd itself has not reached (a client may ask for any) must not cost writes.
        match self.read_index.revision().await {
            Ok(now) if now >= revision && progress.applied() < revision => {}
            _ => return,
        }
        self.pool.metrics.progress_markers.inc();
        let put = |client: &Client| {
            let mut kv = client.kv_client();
            async move { kv.put(MARKER, "", None).await }
        };
        // The marker has no meaning but its revision, so it may be sent again.
        if self.pool.call("progressMarker", Kind::Read, put).await.is_ok() {
            progress.reached(revision).await;
        }
    }
}

fn check_prefix(schema: &ResourceSchema) -> Result<()> {
    if valid_prefix(&schema.prefix) {
        return Ok(());
    }
    Err(Error::Invalid(format!("resource prefix {:?} is not of the form /registry/.../", schema.prefix)))
}

/// The transaction in etcd's terms; one that fails reads the compared keys instead, that of the server's `place` last.
fn etcd_txn(txn: &Txn, leases: &[Option<i64>], place: Option<(i64, &str)>) -> etcd_client::Txn {
    let compares = txn.compares.iter().map(|compare| match compare {
        Compare::Absent(key) => etcd_client::Compare::mod_revision(key.as_str(), CompareOp::Equal, 0),
        Compare::AtRevision(key, at) => etcd_client::Compare::mod_revision(key.as_str(), CompareOp::Equal, *at),
    });
    let ops = txn.ops.iter().zip(leases).map(|(op, lease)| match op {
        Op::Put { key, value, .. } => {
            TxnOp::put(key.as_str(), value.as_ref(), lease.map(|id| PutOptions::new().with_lease(id)))
        }
        Op::Delete { key } => TxnOp::delete(key.as_str(), None),
    });
    let compares = compares
        .chain(place.map(|(created, key)| etcd_client::Compare::create_revision(key, CompareOp::Equal, created)));
    let reads = txn.compares.iter().map(Compare::key).chain(place.map(|(_, key)| key)).map(|key| TxnOp::get(key, None));
    etcd_client::Txn::new()
        .when(compares.collect::<Vec<_>>())
        .and_then(ops.collect::<Vec<_>>())
        .or_else(reads.collect::<Vec<_>>())
}

/// Which compares failed: etcd only says that one did, so they are judged again by what it read in the same transaction.
fn refused(txn: &Txn, current: Vec<Option<KeyValue>>, revision: i64) -> Error {
    let failed = txn.compares.iter().zip(current).filter_map(|(compare, current)| {
        let holds = match (compare, &current) {
            (Compare::Absent(_), current) => current.is_none(),
            (Compare::AtRevision(_, at), current) => current.as_ref().is_some_and(|kv| kv.mod_revision == *at),
        };
        (!holds).then(|| FailedCompare { compare: compare.clone(), current })
    });
    Error::Conflict(Box::new(Conflict { failed: failed.collect(), revision }))
}

/// The key that one operation of a transaction has read.
fn read(op: TxnOpResponse) -> Option<KeyValue> {
    match op {
        TxnOpResponse::Get(get) => get.kvs().first().map(key_value),
        _ => None,
    }
}

fn key_value(kv: &etcd_client::KeyValue) -> KeyValue {
    KeyValue {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: Bytes::copy_from_slice(kv.value()),
        mod_revision: kv.mod_revision(),
        create_revision: kv.create_revision(),
    }
}

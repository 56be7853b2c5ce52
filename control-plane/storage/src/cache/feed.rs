//! The one task that writes the cache: it follows a single etcd watch over `/registry/`.

use super::list::{decode, load_all, load_one};
use super::{Cache, Link, ROOT, ROOT_END, resource_of};
use crate::error::{Error, Result};
use crate::etcd::{Kind, Pool, typed};
use crate::resource::{Change, Resource, Shared};
use crate::schema::ResourceSchema;
use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use rand::Rng;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Between looks for an etcd that has not started yet.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Short, because a cluster has few API servers and all its consistent reads wait for this.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Something only the writer of the cache may do.
pub(crate) enum Command {
    /// Load a resource (anew) at the revision the cache stands at.
    Add(ResourceSchema, oneshot::Sender<Result<Resource>>),
}

pub(crate) struct Feed {
    pool: Arc<Pool>,
    cache: Arc<Cache>,
    commands: mpsc::Receiver<Command>,
    stop: CancellationToken,
    /// Everything up to here is in the cache.
    revision: i64,
    backoff: Duration,
}

/// Why a watch ended.
enum Ended {
    /// The connection, or etcd's will to serve it, was lost.
    Lost(String),
    /// etcd no longer has the events that come next.
    Gap(String),
}

impl Feed {
    /// Loads the cache. An etcd that is not there yet is waited for as long as one request may take: after a reboot both
    /// start at once.
    pub(crate) async fn load(
        pool: Arc<Pool>,
        cache: Arc<Cache>,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Result<Self> {
        let until = Instant::now() + pool.timeout;
        let revision = loop {
            match load_all(&pool, &cache).await {
                Err(error @ Error::Unavailable(_)) if Instant::now() + BACKOFF_FIRST < until => {
                    info!(%error, "waiting for etcd");
                    tokio::time::sleep(BACKOFF_FIRST).await;
                }
                loaded => break loaded?,
            }
        };
        Ok(Self { pool, cache, commands, stop, revision, backoff: BACKOFF_MIN })
    }

    /// Follows etcd until told to stop. `started` is told when the first watch stands.
    pub(crate) async fn run(mut self, started: oneshot::Sender<()>) {
        let stop = self.stop.clone();
        let mut started = Some(started);
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow_forever(&mut started) => {}
        }
        self.cache.close();
    }

    async fn follow_forever(&mut self, started: &mut Option<oneshot::Sender<()>>) {
        loop {
            let ended = match self.follow(started).await {
                Ok(never) => match never {},
                Err(ended) => ended,
            };
            self.cache.metrics.watch_restarts.inc();
            let (reason, relist) = match ended {
                Ended::Lost(reason) => (reason, false),
                Ended::Gap(reason) => (reason, true),
            };
            warn!(revision = self.revision, relist, %reason, "lost the etcd watch");
            self.cache.set_link(Link::Down(reason));
            if relist {
                self.relist().await;
            } else {
                self.pause().await;
            }
        }
    }

    async fn relist(&mut self) {
        loop {
            match load_all(&self.pool, &self.cache).await {
                Ok(revision) => {
                    info!(revision, "loaded the cache anew; present watchers have expired");
                    self.revision = revision;
                    return;
                }
                Err(error) => {
                    self.cache.set_link(Link::Down(error.to_string()));
                    self.pause().await;
                }
            }
        }
    }

    async fn pause(&mut self) {
        let jitter = rand::rng().random_range(0.5..1.5);
        tokio::time::sleep(self.backoff.mul_f64(jitter)).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    async fn follow(&mut self, started: &mut Option<oneshot::Sender<()>>) -> Result<std::convert::Infallible, Ended> {
        let mut stream = tokio::time::timeout(self.pool.timeout, self.open())
            .await
            .map_err(|_| Ended::Lost(format!("no watch within {:?}", self.pool.timeout)))?
            .map_err(|error| Ended::Lost(typed(&error).to_string()))?;
        self.check_history().await?;
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(response)) => {
                        self.judge(&response)?;
                        if response.created() {
                            self.backoff = BACKOFF_MIN;
                            self.cache.set_link(Link::Up);
                            info!(revision = self.revision, "following etcd");
                            if let Some(started) = started.take() {
                                let _ = started.send(());
                            }
                        }
                        self.apply(&response);
                    }
                    Ok(None) => return Err(Ended::Lost("etcd ended the watch stream".into())),
                    Err(error) => return Err(Ended::Lost(typed(&error).to_string())),
                },
                Some(command) = self.commands.recv() => self.execute(command).await,
            }
        }
    }

    async fn open(&self) -> Result<WatchStream, etcd_client::Error> {
        let options = WatchOptions::new().with_range(ROOT_END).with_start_revision(self.revision + 1);
        let mut client = self.pool.watch_client().watch_client().max_decoding_message_size(usize::MAX);
        client.watch(ROOT, Some(options)).await
    }

    /// A watch from a revision that etcd has not reached would wait in silence: etcd was restored from a backup.
    async fn check_history(&self) -> Result<(), Ended> {
        let now = etcd_revision(&self.pool).await.map_err(|error| Ended::Lost(error.to_string()))?;
        if now < self.revision {
            return Err(Ended::Gap(format!("etcd went back to revision {now}")));
        }
        Ok(())
    }

    fn judge(&self, response: &WatchResponse) -> Result<(), Ended> {
        if response.compact_revision() > 0 {
            return Err(Ended::Gap(format!("etcd has compacted revision {}", response.compact_revision())));
        }
        if response.canceled() {
            return Err(Ended::Lost(format!("etcd cancelled the watch: {}", response.cancel_reason())));
        }
        Ok(())
    }

    /// Brings one response's events into the cache. Without fragments, etcd never splits a revision over two responses.
    fn apply(&mut self, response: &WatchResponse) {
        let table = self.cache.table();
        let mut batches: Vec<(&Arc<Shared>, Vec<Change>)> = Vec::new();
        let mut newest = self.revision;
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = kv.mod_revision();
            if revision <= self.revision {
                continue;
            }
            newest = newest.max(revision);
            let Ok(key) = std::str::from_utf8(kv.key()) else { continue };
            let Some(shared) = resource_of(&table, key) else { continue };
            let deletion = || Change::Delete(key.into(), revision);
            let change = match event.event_type() {
                EventType::Delete => deletion(),
                // An object that can no longer be read is gone as far as watchers are concerned.
                EventType::Put => {
                    let revisions = (revision, kv.create_revision());
                    let object = decode(&self.cache, shared, key, kv.value(), revisions, &shared.reader());
                    object.map_or_else(deletion, Change::Put)
                }
            };
            match batches.iter_mut().find(|(known, _)| Arc::ptr_eq(known, shared)) {
                Some((_, changes)) => changes.push(change),
                None => batches.push((shared, vec![change])),
            }
        }
        for (shared, changes) in batches {
            shared.apply(changes);
        }
        if newest > self.revision {
            self.revision = newest;
            self.cache.metrics.cache_revision.set(newest);
            self.cache.progress.reach(newest);
        }
    }

    async fn execute(&mut self, command: Command) {
        let Command::Add(schema, reply) = command;
        let result = load_one(&self.pool, &self.cache, &schema, self.revision).await;
        let _ = reply.send(result.map(Resource));
    }
}

/// etcd's present revision, read linearizably.
pub(crate) async fn etcd_revision(pool: &Pool) -> Result<i64> {
    let response = pool
        .call("readIndex", Kind::Read, |client: &Client| {
            let mut kv = client.kv_client();
            async move { kv.get("/registry/health", Some(GetOptions::new().with_count_only())).await }
        })
        .await?;
    response.header().map(|header| header.revision()).ok_or_else(|| Error::Etcd("an answer without a header".into()))
}

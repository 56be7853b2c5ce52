//! Connections to etcd: a pool over all endpoints, failover, timeouts, typed errors.

mod classify;

use crate::config::EtcdConfig;
use crate::error::{Error, Result};
use crate::metrics::{Metrics, Operation};
use classify::Failure;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(crate) use classify::{compacted, lease_not_found, typed};

/// An endpoint that refused a connection is not asked again for this long, unless no other is left.
const AVOID_FOR: Duration = Duration::from_secs(1);

/// Connections to every endpoint; requests go round among them.
pub(crate) struct Pool {
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
    pub(crate) timeout: Duration,
    pub(crate) metrics: Metrics,
}

struct Endpoint {
    clients: Vec<Client>,
    /// A connection of its own for the watch, so that large requests cannot hold up events.
    watch: Client,
    next: AtomicUsize,
    avoid_until: Mutex<Option<Instant>>,
}

/// Whether a request may be sent again when its fate is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

impl Pool {
    /// Prepares connections; they are made on first use.
    pub(crate) async fn new(config: &EtcdConfig, metrics: Metrics) -> Result<Self> {
        if config.endpoints.is_empty() {
            return Err(Error::Invalid("no etcd endpoint was given".into()));
        }
        let options = options(config).await?;
        let mut endpoints = Vec::new();
        for url in &config.endpoints {
            // One endpoint to a client: a balanced channel prefers the endpoint that fails fastest.
            let connect = || async {
                let client = Client::connect([url], Some(options.clone())).await;
                client.map_err(|e| Error::Invalid(format!("etcd endpoint {url}: {e}")))
            };
            let mut clients = Vec::new();
            for _ in 0..config.tuning.connections.max(1) {
                clients.push(connect().await?);
            }
            let watch = connect().await?;
            endpoints.push(Endpoint { clients, watch, next: AtomicUsize::new(0), avoid_until: Mutex::new(None) });
        }
        Ok(Self { endpoints, next: AtomicUsize::new(0), timeout: config.tuning.request_timeout, metrics })
    }

    /// Sends a request, with the part of the client it needs: to clone a whole [`Client`] is to clone nine.
    ///
    /// An endpoint that cannot be connected to is passed over; a read whose answer was lost is sent again.
    pub(crate) async fn call<T, F, R>(&self, operation: &'static str, kind: Kind, request: F) -> Result<T>
    where
        F: Fn(&Client) -> R,
        R: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let label = Operation { operation };
        let start = Instant::now();
        let result = self.call_within(operation, kind, start + self.timeout, request).await;
        self.metrics.request_duration.get_or_create(&label).observe(start.elapsed().as_secs_f64());
        self.metrics.requests.get_or_create(&label).inc();
        if result.is_err() {
            self.metrics.request_errors.get_or_create(&label).inc();
        }
        result
    }

    async fn call_within<T, F, R>(&self, operation: &'static str, kind: Kind, until: Instant, request: F) -> Result<T>
    where
        F: Fn(&Client) -> R,
        R: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let endpoint = self.pick();
            let client = &endpoint.clients[endpoint.next.fetch_add(1, Ordering::Relaxed) % endpoint.clients.len()];
            let Ok(answer) = tokio::time::timeout_at(until.into(), request(client)).await else {
                endpoint.avoid();
                return Err(match kind {
                    Kind::Read => Error::Timeout { operation, after: self.timeout },
                    Kind::Write => Error::OutcomeUnknown(format!("no answer to {operation} within {:?}", self.timeout)),
                });
            };
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // Every endpoint gets its chance, and a lone one gets two (its connection may just have gone stale).
            let last = attempts > self.endpoints.len();
            match (classify::failure(&error), kind) {
                (Failure::NotSent, _) => {
                    endpoint.avoid();
                    if attempts >= self.endpoints.len() {
                        return Err(Error::Unavailable(classify::describe(&error)));
                    }
                }
                (Failure::Refused, Kind::Read) | (Failure::Lost, Kind::Read) if !last => endpoint.avoid(),
                (Failure::Refused, _) | (Failure::Lost, Kind::Read) => {
                    return Err(Error::Unavailable(classify::describe(&error)));
                }
                (Failure::Lost, Kind::Write) => {
                    endpoint.avoid();
                    return Err(Error::OutcomeUnknown(classify::describe(&error)));
                }
                (Failure::Answer, _) => return Err(typed(&error)),
            }
        }
    }

    /// The connection for a watch, at another endpoint than the last one that failed.
    pub(crate) fn watch_client(&self) -> Client {
        self.pick().watch.clone()
    }

    fn pick(&self) -> &Endpoint {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let n = self.endpoints.len();
        let up = (0..n).map(|i| &self.endpoints[(first + i) % n]).find(|e| !e.avoided(now));
        up.unwrap_or(&self.endpoints[first % n])
    }
}

impl Endpoint {
    fn avoid(&self) {
        *self.avoid_until.lock() = Some(Instant::now() + AVOID_FOR);
    }

    fn avoided(&self, now: Instant) -> bool {
        self.avoid_until.lock().is_some_and(|until| until > now)
    }
}

async fn options(config: &EtcdConfig) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    let mut tls = None;
    if let Some(ca) = &config.ca_file {
        tls = Some(tls.unwrap_or_else(TlsOptions::new).ca_certificate(Certificate::from_pem(read(ca).await?)));
    }
    match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => {
            let identity = Identity::from_pem(read(cert).await?, read(key).await?);
            tls = Some(tls.unwrap_or_else(TlsOptions::new).identity(identity));
        }
        (None, None) => {}
        _ => {
            return Err(Error::Invalid(
                "an etcd client certificate needs both the certificate and the key file".into(),
            ));
        }
    }
    if let Some(tls) = tls {
        options = options.with_tls(tls);
    }
    Ok(options)
}

async fn read(path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|e| Error::Invalid(format!("cannot read {}: {e}", path.display())))
}

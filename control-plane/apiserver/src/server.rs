//! The server: wires the pipeline and serves it over TLS.

mod connection;
mod idle;

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use skep_storage::ResourceSchema;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Error,
    admission::{Admission, Policies, Webhooks, World},
    aggregation::{self, Aggregator},
    authn::Authenticator,
    authz::Authorizer,
    bootstrap,
    dispatch::Registries,
    error::Result,
    flowcontrol::{self, FlowControl},
    health::Health,
    kubelet_proxy::KubeletProxy,
    metrics::Metrics,
    published::Published,
    registry::{custom::definitions::Definitions, generic::Registry, table},
    service::{ApiService, Shared},
    subresource::proxy::Reach,
    user::UserInfo,
    webhook::WebhookClient,
};

/// How long it may take to tell the others that this server is gone.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long requests under way may take to end once the server is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The API server.
pub struct ApiServer {
    shared: Arc<Shared>,
    max_connections: usize,
    shutdown_delay: Duration,
    stop_bootstrap: CancellationToken,
    bootstrap: Option<JoinHandle<()>>,
    repair: Option<JoinHandle<()>>,
    definitions: Option<JoinHandle<()>>,
}

/// What storage should be connected with, so that every resource is loaded at once.
pub fn resource_schemas() -> Vec<ResourceSchema> {
    table::strategies(None).iter().map(|strategy| schema(&**strategy)).chain(further_schemas()).collect()
}

/// What the cache holds besides resources.
fn further_schemas() -> impl Iterator<Item = ResourceSchema> {
    table::allocation_schemas().into_iter().chain([bootstrap::masters::schema()])
}

fn schema(strategy: &dyn crate::registry::erased::AnyStrategy) -> ResourceSchema {
    let schema = ResourceSchema::new(strategy.prefix()).with_fields(strategy.selectable_fields());
    // An upstream API server may have stored objects in a version that is only served here.
    let others = table::versions().into_iter().filter(|(other, _)| other.prefix() == strategy.prefix());
    others.fold(schema, |schema, (other, version)| {
        let api_version = version.info().api_version();
        let convert = move |json: &[u8]| {
            let mut object = version.decode(json, &mut Vec::new()).map_err(|error| error.to_string())?;
            other.default(&mut *object);
            object.to_json().map_err(|error| error.to_string())
        };
        schema.with_conversion(api_version, Arc::new(convert))
    })
}

impl ApiServer {
    /// Prepares to serve: opens the registries and creates what every cluster has.
    ///
    /// # Errors
    /// When storage does not answer, or the configuration makes no sense.
    pub async fn new(config: Config) -> Result<Self> {
        let storage = &config.storage;
        for schema in further_schemas() {
            open(&config, schema).await?;
        }
        let allocators = table::Allocators::new(&config)?;
        let strategies = table::strategies(Some(&allocators));
        let mut opened = Vec::new();
        for strategy in strategies {
            let cache = open(&config, schema(&*strategy)).await?;
            opened.push((strategy, None, cache));
        }
        for (strategy, version) in table::versions() {
            let cache = open(&config, schema(&*strategy)).await?;
            opened.push((strategy, Some(version), cache));
        }
        let authorizer = Arc::new(Authorizer::new(storage));
        let world = Arc::new(World::new(storage));
        let webhooks = Arc::new(WebhookClient::new(storage));
        let admission = Admission::new(storage, Arc::clone(&authorizer))
            .with(Arc::new(Policies::new(storage, Arc::clone(&world))))
            .with(Arc::new(Webhooks::new(storage, Arc::clone(&world), Arc::clone(&webhooks))));
        let admission = Arc::new(admission);
        let registries: Vec<_> = opened
            .into_iter()
            .map(|(strategy, version, cache)| Registry {
                strategy,
                version,
                conversion: None,
                cache,
                storage: storage.clone(),
                admission: Arc::clone(&admission),
            })
            .collect();
        let (shutdown, draining) = (CancellationToken::new(), CancellationToken::new());
        let metrics = Metrics::new(storage);
        let front_proxy = config.front_proxy.as_ref().map(|proxy| proxy.client.clone());
        let seats = config.max_reads_in_flight.saturating_add(config.max_writes_in_flight);
        let shared = Arc::new(Shared {
            registries: Registries::new(registries),
            authorizer,
            authenticator: Authenticator::new(&config, &authority(&config))?,
            published: Published::new(authority(&config)),
            health: Health::new(storage.clone(), draining.clone()),
            aggregator: Aggregator::new(front_proxy)?,
            flow: FlowControl::new(seats, metrics.flow.clone()),
            metrics,
            reach: Reach {
                kubelet: KubeletProxy::new(Arc::clone(&config.kubelet_client)),
                unverified: TlsConnector::from(Arc::new(skep_pki::unverified_client_config(None)?)),
                proxyable: config.proxyable,
            },
            shutdown,
            draining,
        });
        bootstrap::adopt::run(storage).await?;
        world.attach(Arc::downgrade(&shared));
        bootstrap::run(&shared.registries, &config).await?;
        bootstrap::rbac::run(&shared.registries, &UserInfo::master("system:apiserver")).await?;
        // Who comes first must find the roles.
        let revision = storage.read_revision().await?;
        storage.wait_for(revision).await?;
        let stop_bootstrap = CancellationToken::new();
        flowcontrol::keep(&shared, stop_bootstrap.clone());
        aggregation::keep(&shared, stop_bootstrap.clone());
        let stop = stop_bootstrap.clone();
        let repair = bootstrap::repair::keep(Arc::downgrade(&shared), storage.clone(), config.repair_interval, stop);
        let mut definitions = None;
        if let Some(mut followed) = Definitions::new(&shared.registries, webhooks, shared.shutdown.clone()) {
            let weak = Arc::downgrade(&shared);
            followed.reconcile(&shared, &weak).await;
            definitions = Some(followed.keep(weak, stop_bootstrap.clone()));
        }
        let bootstrap = bootstrap::keep(Arc::downgrade(&shared), config.clone(), stop_bootstrap.clone());
        Ok(Self {
            shared,
            max_connections: config.max_connections,
            shutdown_delay: config.shutdown_delay,
            stop_bootstrap,
            bootstrap: Some(bootstrap),
            repair: Some(repair),
            definitions,
        })
    }

    /// The pipeline, for clients inside the process.
    pub fn service(&self) -> ApiService {
        ApiService::new(Arc::clone(&self.shared))
    }

    /// Serves TLS connections until `shutdown`, then says that it is not ready, waits for [`Config::shutdown_delay`], and
    /// lets requests under way end; watches are ended.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let acceptor = TlsAcceptor::from(with_alpn(tls));
        let stopping = self.drain(shutdown);
        let connections = TaskTracker::new();
        let room = Arc::new(Semaphore::new(self.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let service = self.service();
        loop {
            let permit = tokio::select! {
                () = stopping.cancelled() => break,
                permit = Arc::clone(&room).acquire_owned() => permit.map_err(|error| Error::Config(error.to_string()))?,
            };
            let (stream, peer) = tokio::select! {
                () = stopping.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) if is_passing(&error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                },
            };
            let service = service.clone().on_connection(Arc::new(permit), peer);
            connections.spawn(connection::serve(stream, acceptor.clone(), service, stopping.clone()));
        }
        drop(listener);
        self.stop();
        connections.close();
        if timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
            tracing::warn!("requests were still under way when the server stopped");
        }
        // Without etcd this server cannot be taken off the list; its lease will run out.
        for task in [self.bootstrap.take(), self.repair.take(), self.definitions.take()].into_iter().flatten() {
            let _ = timeout(LEAVE_TIMEOUT, task).await;
        }
        Ok(())
    }

    /// Once the server is told to stop it is not ready, and a while later it stops.
    fn drain(&self, shutdown: CancellationToken) -> CancellationToken {
        let stopping = CancellationToken::new();
        let (draining, stop, delay) = (self.shared.draining.clone(), stopping.clone(), self.shutdown_delay);
        tokio::spawn(async move {
            shutdown.cancelled().await;
            draining.cancel();
            tokio::time::sleep(delay).await;
            stop.cancel();
        });
        stopping
    }

    /// Ends watches and the server's own tasks. Requests of clients inside the process go on being answered.
    pub fn stop(&self) {
        self.shared.draining.cancel();
        self.shared.shutdown.cancel();
        self.stop_bootstrap.cancel();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop_bootstrap.cancel();
    }
}

async fn open(config: &Config, schema: ResourceSchema) -> Result<skep_storage::Resource> {
    match config.storage.resource(&schema.prefix) {
        Some(resource) => Ok(resource),
        None => Ok(config.storage.add_resource(schema).await?),
    }
}

/// `host:port` as clients write it.
fn authority(config: &Config) -> String {
    std::net::SocketAddr::new(config.advertise_address, config.secure_port).to_string()
}

/// The TLS configuration, offering both versions of HTTP if it offers none.
fn with_alpn(tls: Arc<ServerConfig>) -> Arc<ServerConfig> {
    if !tls.alpn_protocols.is_empty() {
        return tls;
    }
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(tls)
}

/// Errors of one connection or of a moment, not of the listener.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
        || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

//! `skep-server run`: starts the parts in order, watches over them, and ends them in the opposite order.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use kube::Client;
use nix::unistd::{AccessFlags, access};
use skep_apiserver::{ApiServer, FrontProxy, ServiceAccountKeys, UserInfo, nth_address};
use skep_pki::jwt::Signer;
use skep_pki::{Pki, ReloadableIdentity};
use skep_storage::supervisor::{Supervisor, SupervisorConfig};
use skep_storage::{EtcdConfig, Storage};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::components::{Components, Keys};
use crate::member::member;
use crate::settings::{Component, Settings};
use crate::signals::Signals;
use crate::{clients, credentials};

/// The longest the components, and then the API server, get to finish what they are at.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// The longest etcd gets to note that this server writes no more.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);
/// How often the serving certificate is looked at; it is replaced long before its end.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(12 * 60 * 60);

/// Runs until a signal comes or a part fails.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("cannot install signal handlers")?;
    let started = tokio::select! {
        biased;
        signal = signals.next() => {
            // The half-started server is dropped, and its etcd with it.
            tracing::info!(signal, "stopped while starting");
            return Ok(());
        }
        started = Server::start(settings) => started,
    };
    let mut server = started?;
    let outcome = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "shutting down; a second signal hurries it");
            Ok(())
        }
        failure = server.failure() => Err(failure),
    };
    server.stop(&mut signals).await;
    outcome
}

/// Everything that runs. Dropping it ends it, without grace.
struct Server {
    components: Components,
    api: Option<Api>,
}

/// The API server and what is below it.
struct Api {
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
    certificates: JoinHandle<()>,
    storage: Storage,
    etcd: Option<Supervisor>,
    /// The lock on the data directory; given up last.
    _data_dir: File,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
        self.certificates.abort();
    }
}

impl Server {
    async fn start(settings: Settings) -> anyhow::Result<Self> {
        let mut components = Components::new();
        if !settings.runs(Component::Apiserver) {
            // Settings::resolve has seen to it that there is one.
            let kubeconfig = settings.kubeconfig.as_deref().context("--kubeconfig is missing")?;
            let remote = clients::remote(kubeconfig).await?;
            let keys = Keys { root_ca: remote.ca, ..Keys::default() };
            components.start(&settings, keys, |_| remote.client.clone());
            tracing::info!(kubeconfig = %kubeconfig.display(), "skep-server runs without an API server");
            return Ok(Self { components, api: None });
        }
        // These first: nothing is touched that belongs to another server.
        let data_dir = claim_data_dir(&settings.data_dir)?;
        let listener = listen(&settings).await?;
        let pki = credentials::prepare(&settings)?;
        let (etcd, mut etcd_config) = etcd(&settings).await?;
        etcd_config.member = Some(member(&settings)?);
        let storage = Storage::connect(etcd_config, skep_apiserver::resource_schemas())
            .await
            .context("cannot load the cluster's state from etcd")?;
        let identity = ReloadableIdentity::new(pki.apiserver())?;
        let tls = Arc::new(skep_pki::server_config(Arc::clone(&identity), Some(&client_authorities(&pki)))?);
        let server = ApiServer::new(api_config(&settings, &pki, storage.clone())?).await.context("API server")?;
        let service = server.service();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { server.serve(listener, tls, shutdown).await.context("API server") }
        });
        // No socket, no TLS, no serialised identity between these and the API server.
        let keys = Keys {
            root_ca: Some(pki.ca().certificate().to_owned()),
            signing_ca: Some(Arc::clone(pki.ca())),
            service_account_signer: Some(Arc::new(Signer::from_pem("sa.key", pki.service_account_key())?)),
        };
        components.start(&settings, keys, |user| Client::new(service.with_user(UserInfo::component(user)), "default"));
        let address = SocketAddr::new(settings.bind_address, settings.secure_port);
        let admin = settings.data_dir.join("admin.conf");
        tracing::info!(%address, kubeconfig = %admin.display(), "skep-server is serving");
        let certificates = tokio::spawn(keep_certificate_fresh(settings, identity));
        Ok(Self { components, api: Some(Api { task, shutdown, certificates, storage, etcd, _data_dir: data_dir }) })
    }

    /// Waits for the first part that ends by itself: none should.
    async fn failure(&mut self) -> anyhow::Error {
        let api = async {
            match &mut self.api {
                Some(api) => match (&mut api.task).await {
                    Ok(Ok(())) => anyhow!("the API server stopped by itself"),
                    Ok(Err(error)) => error,
                    Err(died) => anyhow!(died).context("the API server crashed"),
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            failure = api => failure,
            failure = self.components.failure() => failure,
        }
    }

    /// Ends everything, the clients of the API server before it, etcd last. A further signal cuts the waiting short.
    async fn stop(mut self, signals: &mut Signals) {
        let drain = async {
            if tokio::time::timeout(DRAIN_LIMIT, self.components.stop()).await.is_err() {
                tracing::warn!(limit = ?DRAIN_LIMIT, "components did not stop in time");
            }
            if let Some(api) = &mut self.api {
                api.shutdown.cancel();
                if !api.task.is_finished() && tokio::time::timeout(DRAIN_LIMIT, &mut api.task).await.is_err() {
                    tracing::warn!(limit = ?DRAIN_LIMIT, "requests did not end in time");
                }
            }
        };
        tokio::select! {
            () = drain => {}
            signal = signals.next() => tracing::warn!(signal, "hurrying"),
        }
        if let Some(mut api) = self.api.take() {
            if tokio::time::timeout(LEAVE_LIMIT, api.storage.leave()).await.is_err() {
                tracing::warn!(limit = ?LEAVE_LIMIT, "etcd was not told that this server ends");
            }
            if let Some(etcd) = api.etcd.take() {
                etcd.stop().await;
            }
        }
        tracing::info!("stopped");
    }
}

/// Makes the data directory, if need be, and keeps other servers out of it as long as the file is open.
fn claim_data_dir(dir: &Path) -> anyhow::Result<File> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        format!("cannot create the data directory {} (choose another with --data-dir)", dir.display())
    })?;
    access(dir, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).with_context(|| {
        let user = nix::unistd::geteuid();
        format!("the data directory {} is not writable by user {user} (choose another with --data-dir)", dir.display())
    })?;
    let path = dir.join("server.lock");
    let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("another skep-server uses the data directory {} (choose another with --data-dir)", dir.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

async fn listen(settings: &Settings) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(settings.bind_address, settings.secure_port);
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => ": another server has the port; choose another with --secure-port",
            std::io::ErrorKind::AddrNotAvailable => ": this host has no such address; see --bind-address",
            std::io::ErrorKind::PermissionDenied => ": ports below 1024 need privileges; see --secure-port",
            _ => "",
        };
        anyhow!(error).context(format!("cannot listen on {address}{hint}"))
    })
}

/// Whose certificates clients may show: the cluster's authority's, and the front proxies'.
fn client_authorities(pki: &Pki) -> String {
    format!("{}\n{}", pki.ca().certificate(), pki.front_proxy_ca().certificate())
}

fn api_config(settings: &Settings, pki: &Pki, storage: Storage) -> anyhow::Result<skep_apiserver::Config> {
    let kubelet_client = match &settings.kubelet_certificate_authority {
        Some(path) => {
            let ca = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            skep_pki::client_config(&ca, Some(pki.apiserver_kubelet_client()))
                .with_context(|| format!("--kubelet-certificate-authority {}", path.display()))?
        }
        None => skep_pki::unverified_client_config(Some(pki.apiserver_kubelet_client()))?,
    };
    let mut config = skep_apiserver::Config::new(
        storage,
        settings.service_cluster_ip_range.primary,
        settings.advertise_address,
        settings.secure_port,
        Arc::new(kubelet_client),
    );
    config.client_ca = Some(pki.ca().certificate().to_owned());
    config.front_proxy = Some(FrontProxy {
        client: pki.front_proxy_client().clone(),
        ca: pki.front_proxy_ca().certificate().to_owned(),
        name: "front-proxy-client".to_owned(),
    });
    // The convention of kubeadm, and the nodes' default.
    config.secondary_service_cidr = settings.service_cluster_ip_range.secondary;
    config.cluster_dns = settings.service_cluster_ip_range.iter().filter_map(|range| nth_address(range, 10)).collect();
    config.node_port_range = settings.service_node_port_range.clone();
    config.service_accounts =
        Some(ServiceAccountKeys::new(pki.service_account_key(), pki.service_account_public_key()));
    Ok(config)
}

/// The etcd to use: the one named, or one of our own.
async fn etcd(settings: &Settings) -> anyhow::Result<(Option<Supervisor>, EtcdConfig)> {
    if let Some(config) = &settings.etcd {
        return Ok((None, config.clone()));
    }
    let mut config = SupervisorConfig::new(settings.data_dir.join("etcd"));
    config.client_port = settings.etcd_client_port;
    let supervisor = Supervisor::start(config).await?;
    let config = supervisor.etcd_config();
    Ok((Some(supervisor), config))
}

/// Puts a new serving certificate into use when the old one nears its end.
async fn keep_certificate_fresh(settings: Settings, identity: Arc<ReloadableIdentity>) {
    let settings = Arc::new(settings);
    loop {
        tokio::time::sleep(CERTIFICATE_CHECK).await;
        let prepared = tokio::task::spawn_blocking({
            let settings = Arc::clone(&settings);
            move || credentials::prepare(&settings)
        });
        let replaced = match prepared.await {
            Ok(pki) => pki.and_then(|pki| Ok(identity.replace(pki.apiserver())?)),
            Err(died) => Err(died.into()),
        };
        if let Err(error) = replaced {
            tracing::warn!(error = %format!("{error:#}"), "cannot look after the certificates");
        }
    }
}

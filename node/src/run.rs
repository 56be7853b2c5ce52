//! Wiring: the API, containerd, the kubelet, the pod network once the node has its pod CIDRs, the service data plane.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::wait::await_condition;
use skep_cri::Cri;
use skep_network::{Network, Peers, PeersConfig};
use skep_policy::Enforcer;
use skep_proxy::Proxy;
use skep_proxy::direct::HostRouting;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster;
use crate::devices::{self, Ground};
use crate::dns;
use crate::drift;
use crate::health::{HealthServer, serve_services};
use crate::host;
use crate::metrics::{Metrics, MetricsServer, NetworkMetrics};
use crate::peers;
use crate::policy;
use crate::service_ranges;
use crate::settings::Settings;
use crate::web;

pub(crate) const FIRST_RETRY: Duration = Duration::from_millis(200);
pub(crate) const LAST_RETRY: Duration = Duration::from_secs(5);
pub(crate) const RECONCILE_NETWORK: Duration = Duration::from_secs(60);

/// Between a change of devices or routes and a look at the pod network.
const SETTLE_NETWORK: Duration = Duration::from_secs(2);

/// How long after its own changes the kernel may still tell of them.
const ECHO: Duration = Duration::from_millis(100);

/// Runs the node until a signal; its pods and Services outlive it.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let cluster = cluster::access(&settings.access).await?;
    let mut node_ips = settings.node_ips.clone();
    if node_ips.is_empty() {
        node_ips.push(host::address_towards(&cluster.url)?);
    }
    let network_ips = node_ips.clone();
    let client_ca = match &settings.client_ca_file {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?),
        None => cluster.ca.clone(),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let Some(cri) = shutdown_or(&mut terminate, &mut interrupt, containerd(&settings.containerd)).await else {
        return Ok(());
    };
    // Before any pod: an address of a Service that nobody serves must never leave the node.
    let proxy = Proxy::load(skep_proxy::Config {
        bpf_root: settings.bpf_root.clone(),
        cgroup_root: service_cgroup(&settings.cgroup_root)?,
        node_name: Some(settings.node_name.clone()),
        maglev: settings.maglev,
        maps: devices::map_sizes(&settings),
        ..Default::default()
    })
    .context("the service data plane")?;

    let (dns_metrics, network_metrics) = (skep_dns::Metrics::default(), NetworkMetrics::default());
    let direct = HostRouting::new(&settings.bpf_root, settings.direct);
    let policies = policy::enforcer(&settings, &direct);
    let servers = servers(&settings, &node_ips, &proxy, &dns_metrics, &network_metrics, policies.metrics());

    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let stop = shutdown.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(servers).await;
        Ok(())
    });
    let client = cluster.client.clone();
    let stop = shutdown.clone();
    tasks.spawn(async move { proxy.run(client, stop).await.context("the service data plane") });
    let kubelet = kubelet_config(&settings, node_ips, client_ca);
    let (client, stop) = (cluster.client.clone(), shutdown.clone());
    tasks.spawn(async move { skep_kubelet::run(client, kubelet, cri, stop).await.context("the kubelet") });
    let settings = Arc::new(settings);
    let (client, names, stop) = (cluster.client.clone(), settings.clone(), shutdown.clone());
    tasks.spawn(async move { dns::run(client, &names, dns_metrics, stop).await.context("cluster DNS") });
    let (client, stop) = (cluster.client, shutdown.clone());
    tasks.spawn(async move {
        stop.run_until_cancelled(pod_network(client, &settings, &network_ips, &network_metrics, &policies, &direct))
            .await
            .unwrap_or(Ok(()))
            .context("the pod network")
    });

    let mut result = Ok(());
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping, pods keep running"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping, pods keep running"),
        ended = ended(&mut tasks) => result = ended,
    }
    shutdown.cancel();
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|error| Err(error.into()));
        result = result.and(ended);
    }
    result
}

/// The servers of metrics and health, until dropped.
fn servers(
    settings: &Settings,
    node_ips: &[IpAddr],
    proxy: &Proxy,
    dns: &skep_dns::Metrics,
    network: &NetworkMetrics,
    policy: skep_policy::Metrics,
) -> impl Future<Output = ()> + Send + use<> {
    let (health, answers) = (proxy.health(), crate::health::Metrics::default());
    let metrics = Metrics::new(proxy.metrics(), policy, dns, network, &answers, settings.bpf_root.clone());
    let metrics_server = (settings.metrics_bind_address, Arc::new(MetricsServer(Arc::new(metrics))));
    let everywhere = host::everywhere(IpAddr::from([0; 4]), node_ips);
    let at = |address: SocketAddr| SocketAddr::new(host::everywhere(address.ip(), node_ips), address.port());
    let health_server =
        (settings.healthz_bind_address.map(at), Arc::new(HealthServer { health: health.clone(), metrics: answers }));
    async move {
        let metrics = async {
            if let (Some(address), server) = metrics_server {
                web::serve(address, "metrics", server).await;
            }
        };
        let healthz = async {
            if let (Some(address), server) = health_server {
                web::serve(address, "health", server).await;
            }
        };
        tokio::join!(metrics, healthz, serve_services(everywhere, health));
        std::future::pending().await
    }
}

/// Why the first part that ends has ended: none does before it is told to.
async fn ended(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    if let Some(ended) = tasks.join_next().await {
        ended??;
    }
    bail!("a part of the node ended without being told to; restart skep-node and report this as a bug")
}

async fn shutdown_or<T>(
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        done = work => Some(done),
    }
}

/// Connects and puts the pause image in place; containerd may start after us.
async fn containerd(address: &str) -> Cri {
    let mut pause = FIRST_RETRY;
    loop {
        match try_containerd(address).await {
            Ok(cri) => return cri,
            Err(error) => tracing::warn!("{error:#}; trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}

async fn try_containerd(address: &str) -> anyhow::Result<Cri> {
    let cri = Cri::connect(address).await?;
    cri.import_pause().await.context("importing the pause image")?;
    let used = cri.sandbox_image().await?.unwrap_or_default();
    let ours = skep_cri::pause::IMAGE;
    if used != ours && cri.image_status(&used).await?.is_none() {
        tracing::warn!(
            "containerd starts pods from {used:?}, which is not on this node and has to be pulled; \
             to need no registry, set sandbox_image = {ours:?} below [plugins.\"io.containerd.grpc.v1.cri\"] in its configuration"
        );
    }
    Ok(cri)
}

fn kubelet_config(settings: &Settings, node_ips: Vec<IpAddr>, client_ca: Option<String>) -> skep_kubelet::Config {
    let primary = node_ips.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    skep_kubelet::Config {
        hostname: settings.hostname.clone(),
        bind_address: host::everywhere(settings.address, &node_ips),
        node_ips,
        pod_logs_dir: settings.pod_logs_dir.clone(),
        cgroup_root: settings.cgroup_root.clone(),
        register_node: settings.register_node,
        register_with_taints: settings.taints.clone(),
        node_labels: settings.labels.clone(),
        cloud_provider: settings.cloud_provider.clone(),
        cluster_dns: settings.cluster_dns.clone(),
        cluster_domain: settings.cluster_domain.clone(),
        resolv_conf: settings.resolv_conf.clone(),
        port: settings.port,
        client_ca,
        max_pods: settings.max_pods,
        eviction_hard: settings.eviction_hard.clone(),
        node_status_update_frequency: settings.node_status_update_frequency,
        ..skep_kubelet::Config::new(&settings.node_name, primary, &settings.data_dir)
    }
}

/// The folder of the cgroup whose processes see Services; `None` is the root, which the proxy finds.
fn service_cgroup(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    let below = root.strip_prefix("/").context("--cgroup-root must begin with /")?;
    if below.as_os_str().is_empty() {
        return Ok(None);
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let unified = mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        source.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4))?
    });
    let dir = Path::new(unified.context("cgroup2 is not mounted; mount it on /sys/fs/cgroup")?).join(below);
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(Some(dir))
}

/// Waits for the node's pod CIDRs, sets the pod network up, and keeps it, the ways to other nodes and the programs on devices
/// whole.
async fn pod_network(
    client: kube::Client,
    settings: &Settings,
    node_ips: &[IpAddr],
    metrics: &NetworkMetrics,
    policies: &Enforcer,
    direct: &HostRouting,
) -> anyhow::Result<()> {
    let policy_client = client.clone();
    let pod_cidrs = pod_cidrs(client.clone(), &settings.node_name).await;
    // `cleanup` must know them when nobody answers any more.
    let note = pod_cidr_file(settings);
    std::fs::create_dir_all(&settings.data_dir).with_context(|| format!("creating {}", settings.data_dir.display()))?;
    let lines: String = pod_cidrs.iter().map(|cidr| format!("{cidr}\n")).collect();
    std::fs::write(&note, lines).with_context(|| format!("writing {}", note.display()))?;
    let peers = Peers::new(PeersConfig {
        routing: settings.node_routing,
        node_ips: node_ips.to_vec(),
        pod_cidrs: pod_cidrs.clone(),
        vxlan_id: settings.vxlan_id,
        vxlan_port: settings.vxlan_port,
    })?;
    // The first pods are to have the right MTU.
    let overhead = peers::first_overhead(&client, &settings.node_name, &peers).await;
    let config = network_config(settings, pod_cidrs.clone(), node_ips, overhead);
    let network = Arc::new(tokio::task::spawn_blocking(move || Network::setup(config)).await??);
    let drift = drift::watch()?;
    let (tell_addresses, addresses) = watch::channel(None);
    let ground = Ground { settings, node_ips, pod_cidrs: &pod_cidrs, direct };
    let ways = peers::Ways { own: &settings.node_name, peers, network: network.clone(), metrics };
    tokio::try_join!(
        repair(network.clone(), metrics, drift.clone()),
        service_ranges::follow(policy_client.clone(), network),
        peers::follow(client, ways, drift.clone(), tell_addresses),
        devices::follow(ground, drift.clone(), addresses),
        policy::follow(policy_client, settings, policies, direct, drift),
    )
    .map(drop)
}

/// Repairs the pod network when devices, addresses or routes have changed, and from time to time.
async fn repair(network: Arc<Network>, metrics: &NetworkMetrics, mut drift: watch::Receiver<()>) -> anyhow::Result<()> {
    loop {
        let worker = network.clone();
        match tokio::task::spawn_blocking(move || worker.reconcile()).await? {
            Ok(done) => {
                metrics.reconciled(&done);
                tracing::debug!(?done, "pod network is as it should be");
            }
            Err(error) => tracing::warn!(%error, "could not put the pod network right"),
        }
        // Its own writes are news, too.
        tokio::time::sleep(ECHO).await;
        drift.mark_unchanged();
        tokio::select! {
            // Every pod that comes or goes is such a change: those that come close together share one look.
            () = drift::changed(&mut drift) => tokio::time::sleep(SETTLE_NETWORK).await,
            () = tokio::time::sleep(RECONCILE_NETWORK) => {}
        }
    }
}

/// The settings of the pod network for the node's pod CIDRs.
pub(crate) fn network_config(
    settings: &Settings,
    pod_cidrs: Vec<IpNet>,
    node_ips: &[IpAddr],
    overhead: u32,
) -> skep_network::Config {
    skep_network::Config {
        pod_cidrs,
        service_cidrs: settings.service_cidrs.clone(),
        awaits_more_ranges: true,
        node_ips: node_ips.to_vec(),
        mtu: settings.pod_mtu,
        overhead,
        cni_bin_dir: settings.cni_bin_dir.clone(),
        cni_conf_dir: settings.cni_conf_dir.clone(),
        data_dir: settings.data_dir.join("network"),
        plugin: None,
    }
}

/// Where the node's pod CIDRs are noted, one a line.
pub(crate) fn pod_cidr_file(settings: &Settings) -> PathBuf {
    settings.data_dir.join("pod-cidr")
}

/// The node's pod CIDRs, once it has them: the controller gives all at once.
async fn pod_cidrs(client: kube::Client, node: &str) -> Vec<IpNet> {
    let nodes: Api<Node> = Api::all(client);
    let given = |node: Option<&Node>| node.map(peers::pod_cidrs).filter(|cidrs| !cidrs.is_empty());
    loop {
        match await_condition(nodes.clone(), node, |node: Option<&Node>| given(node).is_some()).await {
            Ok(found) => {
                if let Some(cidrs) = given(found.as_ref()) {
                    return cidrs;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "waiting for the node's pod CIDR");
                tokio::time::sleep(FIRST_RETRY).await;
            }
        }
    }
}

//! The kubelet's work: the Node and its lease, pods in the container runtime, their statuses, the node's HTTPS endpoint.
//!
//! Every pod has one worker task ([`worker`](self)) that owns its state machine. The API's watch and containerd's event stream
//! bring news to it; a slow relist only repairs. A kubelet that stops leaves its pods running and finds them again by their
//! labels when it comes back.
#![forbid(unsafe_code)]

mod addresses;
mod backoff;
mod cgroups;
mod config;
mod container_config;
mod context;
mod dns;
mod downward;
mod env;
mod error;
mod eviction;
mod expansion;
mod images;
mod labels;
mod lease;
mod logs;
mod machine;
mod node_status;
mod objects;
mod plan;
mod pod_manager;
mod podext;
mod probes;
mod quantity;
mod resources;
mod sandbox_config;
mod security;
mod server;
mod services;
mod status;
mod status_sender;
mod tokens;
mod view;
mod volumes;
mod worker;

use std::time::Duration;

use skep_cri::Cri;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::Error;
pub use eviction::{Signal, ThresholdError, Thresholds};

/// The API level this node speaks, as nodeInfo tells it.
pub const KUBERNETES_VERSION: &str = "v1.35.0+skep";

/// Runs one node's kubelet until `shutdown`. Pods keep running after it returns.
///
/// The API server and the runtime may come and go; only a wrong setting of this node is an error.
pub async fn run(client: kube::Client, config: Config, cri: Cri, shutdown: CancellationToken) -> Result<(), Error> {
    for dir in [&config.data_dir, &config.pod_logs_dir] {
        std::fs::create_dir_all(dir).map_err(Error::file(dir))?;
    }
    let cgroups = cgroups::Cgroups::discover(&config.cgroup_root)?;
    let Some(version) = shutdown.run_until_cancelled(runtime_version(&cri)).await else { return Ok(()) };
    let runtime = format!("{}://{}", version.runtime_name, version.runtime_version);
    let machine = machine::Machine::read(&config.data_dir, runtime);
    let (services, watch_services) = services::Services::watch(client.clone());
    let node = config.node_name.clone();
    let capacity = (machine.cpus, machine.memory);
    let context = context::Context::new(client.clone(), cri, config, cgroups, services, capacity);
    let server = server::Server::bind(context.clone()).await?;

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(watch_services);
    tasks.spawn(server.serve());
    let registration = async {
        let mut pause = Duration::from_millis(100);
        while let Err(error) = node_status::register(&context, &machine).await {
            tracing::warn!(%error, "could not register the node, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(7));
        }
    };
    if shutdown.run_until_cancelled(registration).await.is_none() {
        return Ok(());
    }
    tasks.spawn(lease::renew_forever(client, node));
    tasks.spawn(node_status::report_forever(context.clone(), machine));
    let result = tokio::select! {
        () = pod_manager::PodManager::new(context).run(shutdown) => Ok(()),
        // None of them ends by itself: one that did has panicked, and the node must not seem healthy without it.
        Some(ended) = tasks.join_next() => Err(Error::Task(ended.err())),
    };
    tasks.shutdown().await;
    result
}

/// Asks until the runtime answers.
async fn runtime_version(cri: &Cri) -> skep_cri::api::VersionResponse {
    let mut pause = Duration::from_millis(100);
    loop {
        match cri.version().await {
            Ok(version) => return version,
            Err(error) => tracing::warn!(%error, "the container runtime does not tell its version, trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// Removes what this node's pods left in the runtime and on disk: every sandbox, volume and cgroup. For taking a node down.
pub async fn cleanup(config: &Config, cri: &Cri) -> Result<(), Error> {
    let cgroups = cgroups::Cgroups::discover(&config.cgroup_root)?;
    for (uid, pod) in view::survey(cri).await? {
        tracing::info!(pod = format!("{}/{}", pod.namespace, pod.name), "removing");
        worker::terminate::remove_from_runtime(cri, &uid).await?;
    }
    let pods = config.data_dir.join("pods");
    if let Ok(entries) = std::fs::read_dir(&pods) {
        for entry in entries.flatten() {
            volumes::tear_down(&entry.path())?;
        }
    }
    cgroups.remove_root().await
}

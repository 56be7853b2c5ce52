//! An API server over an etcd of its own and the controller manager, all in this process; everything goes with the value.

use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_apiserver::{ApiServer, UserInfo, resource_schemas};
use skep_controllers::{Config, Error};
use skep_storage::Storage;
use skep_storage::supervisor::{Supervisor, SupervisorConfig};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Asks until there is an answer. The limit only keeps a broken run from hanging.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < limit, "still waiting for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) struct Cluster {
    pub(crate) client: Client,
    shutdown: CancellationToken,
    manager: Option<JoinHandle<Result<(), Error>>>,
    kubelet: Option<JoinHandle<()>>,
    server: ApiServer,
    _etcd: Supervisor,
    _dir: TempDir,
}

impl Cluster {
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_with(config, None).await
    }

    /// With addresses of a second family for Services and pods.
    pub(crate) async fn start_dual_stack(config: Config) -> Self {
        Self::start_with(config, Some("fd00:96::/112")).await
    }

    async fn start_with(config: Config, second: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Supervisor::start(SupervisorConfig::new(dir.path().join("etcd"))).await.unwrap();
        let storage = Storage::connect(etcd.etcd_config(), resource_schemas()).await.unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let kubelet = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        // Endpoints may not be loopback addresses; nobody connects to this one (RFC 5737).
        let advertised = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let services = "10.96.0.0/16".parse().unwrap();
        let mut server_config = skep_apiserver::Config::new(storage, services, advertised, 6443, Arc::new(kubelet));
        server_config.secondary_service_cidr = second.map(|range| range.parse().unwrap());
        let server = ApiServer::new(server_config).await.unwrap();
        let client = Client::new(server.service().with_user(UserInfo::master("test")), "default");
        let shutdown = CancellationToken::new();
        let manager = tokio::spawn(skep_controllers::run(client.clone(), config, shutdown.clone()));
        let mut cluster =
            Self { client, shutdown, manager: Some(manager), kubelet: None, server, _etcd: etcd, _dir: dir };
        let accounts = cluster.api::<k8s_openapi::api::core::v1::ServiceAccount>("default");
        eventually("the default service account", || async { accounts.get_opt("default").await.unwrap() }).await;
        cluster.kubelet =
            Some(tokio::spawn(run_pods(cluster.client.clone(), second.is_some(), cluster.shutdown.clone())));
        cluster
    }

    /// Ends the controllers and says how they ended.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(manager) = self.manager.take() {
            manager.await.unwrap().unwrap();
        }
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn namespace(&self, name: &str) -> Api<Namespace> {
        let api = Api::all(self.client.clone());
        create(&api, json!({"metadata": {"name": name}})).await;
        let accounts = self.api::<k8s_openapi::api::core::v1::ServiceAccount>(name);
        eventually("a service account", || async { accounts.get_opt("default").await.unwrap() }).await;
        api
    }

    pub(crate) async fn pods(&self, namespace: &str) -> Vec<Pod> {
        let list = self.api::<Pod>(namespace).list(&ListParams::default()).await.unwrap();
        list.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        for task in [self.kubelet.take()].into_iter().flatten() {
            task.abort();
        }
        if let Some(manager) = self.manager.take() {
            manager.abort();
        }
        self.server.stop();
    }
}

pub(crate) async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Serialize + DeserializeOwned + Clone + Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

pub(crate) async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> K
where
    K: DeserializeOwned + Clone + Debug,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
}

/// What kubelets would report: every pod runs and is ready, unless its annotation `test/ready` says otherwise.
async fn run_pods(client: Client, dual_stack: bool, shutdown: CancellationToken) {
    let all: Api<Pod> = Api::all(client.clone());
    let mut number = 0_u32;
    while !shutdown.is_cancelled() {
        let Ok(pods) = all.list(&ListParams::default()).await else { continue };
        for pod in pods.items {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let held =
                pod.metadata.annotations.iter().flatten().any(|(key, value)| key == "test/ready" && value == "false");
            let reported = pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
            if held || reported || pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            number += 1;
            let ip = Ipv4Addr::from_bits(0x0a10_0000 + number).to_string();
            let mut ips = vec![json!({"ip": ip})];
            if dual_stack {
                ips.push(json!({"ip": format!("fd00:16::{number:x}")}));
            }
            let now = k8s_openapi::jiff::Timestamp::now().to_string();
            let status = json!({"status": {
                "phase": "Running", "podIP": ip, "podIPs": ips,
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
            }});
            let api: Api<Pod> = Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
            // The pod may be gone already.
            let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

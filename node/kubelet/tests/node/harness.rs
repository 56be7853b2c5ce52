//! One machine: API server, etcd and kubelet in this process, a containerd of its own beside it.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_apiserver::{ApiServer, UserInfo, resource_schemas};
use skep_cri::Cri;
use skep_kubelet::Config;
use skep_storage::Storage;
use skep_storage::supervisor::{Supervisor, SupervisorConfig};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::containerd::Containerd;

pub(crate) const NODE: &str = "machine";
const NAMESPACE: &str = "test";

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

pub(crate) async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Serialize + DeserializeOwned + Clone + Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

pub(crate) struct Machine {
    pub(crate) client: Client,
    pub(crate) cri: Cri,
    kubelet: Option<(CancellationToken, JoinHandle<Result<(), skep_kubelet::Error>>)>,
    server: ApiServer,
    // In this order: the pods end before their files go.
    containerd: Containerd,
    _etcd: Supervisor,
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Supervisor::start(SupervisorConfig::new(dir.path().join("etcd"))).await.unwrap();
        let storage = Storage::connect(etcd.etcd_config(), resource_schemas()).await.unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        // Endpoints may not be loopback addresses; nobody connects to this one (RFC 5737).
        let advertised = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let services = "10.96.0.0/16".parse().unwrap();
        let config = skep_apiserver::Config::new(storage, services, advertised, 6443, Arc::new(tls));
        let server = ApiServer::new(config).await.unwrap();
        let client = Client::new(server.service().with_user(UserInfo::master("test")), "default");
        let containerd = Containerd::start().unwrap();
        let cri = Cri::connect(&containerd.socket()).await.unwrap();
        cri.import_pause().await.unwrap();
        let mut machine = Self { client, cri, kubelet: None, server, containerd, _etcd: etcd, dir };
        machine.prepare().await;
        machine.start_kubelet();
        machine
    }

    /// What controllers would have made.
    async fn prepare(&mut self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        create(&namespaces, json!({"metadata": {"name": NAMESPACE}})).await;
        let leases = json!({"metadata": {"name": "kube-node-lease"}});
        // The API server may make it by itself.
        let _ = namespaces.create(&PostParams::default(), &serde_json::from_value(leases).unwrap()).await;
        let accounts: Api<ServiceAccount> = self.api();
        // No controller publishes the authority that a token's volume shows beside it.
        let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
        create(&accounts, account).await;
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    pub(crate) fn logs_dir(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    pub(crate) fn start_kubelet(&mut self) {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let config = Config {
            cgroup_root: PathBuf::from(&self.containerd.cgroup),
            pod_logs_dir: self.logs_dir(),
            bind_address: Ipv4Addr::LOCALHOST.into(),
            port: free,
            ..Config::new(NODE, Ipv4Addr::new(192, 0, 2, 10).into(), self.data_dir())
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(skep_kubelet::run(self.client.clone(), config, self.cri.clone(), shutdown.clone()));
        self.kubelet = Some((shutdown, task));
    }

    pub(crate) async fn stop_kubelet(&mut self) {
        if let Some((shutdown, task)) = self.kubelet.take() {
            shutdown.cancel();
            task.await.unwrap().unwrap();
        }
    }

    /// Ends containerd as a crash would; its pods go on.
    pub(crate) fn kill_containerd(&mut self) {
        self.containerd.kill();
    }

    pub(crate) fn start_containerd(&mut self) {
        self.containerd.spawn().unwrap();
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        self.api()
    }

    /// Pods' cgroups that exist, in any hierarchy.
    pub(crate) fn pod_cgroups(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut found = Vec::new();
        for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
            let mount = Path::new(line.split(' ').nth(4).unwrap());
            for class in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
                let dir = mount.join(self.containerd.cgroup.trim_start_matches('/')).join(class);
                let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
                found.extend(entries.filter(|e| e.file_name().to_string_lossy().starts_with("pod")).map(|e| e.path()));
            }
        }
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some((shutdown, task)) = self.kubelet.take() {
            shutdown.cancel();
            task.abort();
        }
        self.server.stop();
    }
}

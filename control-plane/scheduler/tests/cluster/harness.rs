//! An API server over an etcd of its own, in this process; everything goes with the value.

use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Namespace, Node, Pod, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use skep_apiserver::{ApiServer, UserInfo, resource_schemas};
use skep_scheduler::{Config, Error};
use skep_storage::{
    Storage,
    supervisor::{Supervisor, SupervisorConfig},
};
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Asks until there is an answer. The limit only keeps a broken run from hanging.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let limit = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < limit, "still waiting for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) struct Cluster {
    client: Client,
    server: ApiServer,
    _etcd: Supervisor,
    _dir: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Supervisor::start(SupervisorConfig::new(dir.path().join("etcd"))).await.unwrap();
        let storage = Storage::connect(etcd.etcd_config(), resource_schemas()).await.unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let kubelet = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let services = "10.96.0.0/16".parse().unwrap();
        let config = skep_apiserver::Config::new(storage, services, loopback, 6443, Arc::new(kubelet));
        let server = ApiServer::new(config).await.unwrap();
        let client = Client::new(server.service().with_user(UserInfo::master("test")), "default");
        let cluster = Self { client, server, _etcd: etcd, _dir: dir };
        cluster.prepare().await;
        cluster
    }

    /// What controllers would have made.
    async fn prepare(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        eventually("the default namespace", || async { namespaces.get_opt("default").await.unwrap() }).await;
        let accounts: Api<ServiceAccount> = Api::default_namespaced(self.client.clone());
        if accounts.get_opt("default").await.unwrap().is_none() {
            self.create(&accounts, json!({ "metadata": { "name": "default" } })).await;
        }
    }

    async fn create<K>(&self, api: &Api<K>, object: Value) -> K
    where
        K: Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    pub(crate) async fn node(&self, name: &str, mut allocatable: Value, spec: Value) {
        let api: Api<Node> = Api::all(self.client.clone());
        allocatable["pods"] = json!("110");
        let status = json!({ "allocatable": allocatable, "capacity": allocatable });
        self.create(&api, json!({ "metadata": { "name": name }, "spec": spec, "status": status })).await;
        // A new node is tainted until a controller, which does not run here, has seen it ready.
        let patch = json!({ "spec": { "taints": spec["taints"] } });
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let patch = json!({ "status": status });
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    pub(crate) async fn pod(&self, name: &str, requests: Value, mut spec: Value) {
        spec["containers"] = json!([{ "name": "c", "image": "pause", "resources": { "requests": requests } }]);
        self.create(&self.pods(), json!({ "metadata": { "name": name }, "spec": spec })).await;
    }

    pub(crate) async fn get(&self, name: &str) -> Pod {
        self.pods().get(name).await.unwrap()
    }

    pub(crate) async fn patch(&self, name: &str, patch: Value) {
        self.pods().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Deletes at once, as a kubelet's last word would.
    pub(crate) async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    pub(crate) async fn until_bound(&self, name: &str) -> Pod {
        eventually(name, || async {
            let pod = self.get(name).await;
            let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            bound.then_some(pod)
        })
        .await
    }

    /// The bound pods and their nodes.
    pub(crate) async fn nodes_of_pods(&self) -> BTreeMap<String, String> {
        let pods = self.pods().list(&ListParams::default()).await.unwrap();
        pods.items.into_iter().filter_map(|pod| Some((pod.name_any(), pod.spec?.node_name?))).collect()
    }

    pub(crate) async fn events(&self, reason: &str) -> Vec<Event> {
        let api: Api<Event> = Api::default_namespaced(self.client.clone());
        let events = api.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().filter(|event| event.reason.as_deref() == Some(reason)).collect()
    }

    pub(crate) async fn leader(&self) -> Option<String> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-system");
        api.get_opt("kube-scheduler").await.unwrap()?.spec?.holder_identity
    }

    /// Runs a scheduler under its own identity.
    pub(crate) fn schedule(&self, config: Config) -> Running {
        let user = UserInfo::component("system:kube-scheduler");
        let client = Client::new(self.server.service().with_user(user), "default");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(skep_scheduler::run(client, config, shutdown.clone()));
        Running { shutdown, task: Some(task) }
    }
}

/// A running scheduler; dropping it ends it.
pub(crate) struct Running {
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<(), Error>>>,
}

impl Running {
    /// Ends it as a signal would.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            task.await.unwrap().unwrap();
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

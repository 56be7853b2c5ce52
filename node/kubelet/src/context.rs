//! What every pod worker shares.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use kube::Client;
use parking_lot::{Mutex, RwLock};
use skep_client::Recorder;
use skep_cri::Cri;

use crate::Config;
use crate::addresses;
use crate::cgroups::Cgroups;
use crate::downward::Facts;
use crate::objects::Objects;
use crate::podext::PodExt;
use crate::services::Services;
use crate::tokens::Tokens;
use crate::view::PodView;

/// Handles and facts, shared by all workers.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) cri: Cri,
    pub(crate) config: Config,
    pub(crate) recorder: Recorder,
    pub(crate) cgroups: Cgroups,
    pub(crate) services: Services,
    pub(crate) config_maps: Objects<ConfigMap>,
    pub(crate) secrets: Objects<Secret>,
    pub(crate) tokens: Tokens,
    pub(crate) memory_capacity: i64,
    pub(crate) cpus: i64,
    /// Which pod a sandbox or container belongs to: the runtime's events name only the latter.
    owners: Mutex<HashMap<String, String>>,
    /// What the workers last knew, for the node server, by uid.
    snapshots: RwLock<HashMap<String, Arc<Snapshot>>>,
}

/// A pod as its worker last saw it.
pub(crate) struct Snapshot {
    pub(crate) pod: Arc<Pod>,
    pub(crate) status: Arc<PodStatus>,
    pub(crate) view: PodView,
}

impl Context {
    pub(crate) fn new(
        client: Client,
        cri: Cri,
        config: Config,
        cgroups: Cgroups,
        services: Services,
        (cpus, memory_capacity): (i64, i64),
    ) -> Arc<Self> {
        let recorder = Recorder::new(client.clone(), "kubelet", &config.node_name);
        Arc::new(Self {
            recorder,
            cri,
            config,
            cgroups,
            services,
            config_maps: Objects::new(client.clone()),
            secrets: Objects::new(client.clone()),
            tokens: Tokens::default(),
            client,
            memory_capacity,
            cpus,
            owners: Mutex::default(),
            snapshots: RwLock::default(),
        })
    }

    /// Remembers whose `id` is.
    pub(crate) fn own(&self, id: &str, uid: &str) {
        self.owners.lock().insert(id.to_owned(), uid.to_owned());
    }

    /// Whose `id` is.
    pub(crate) fn owner(&self, id: &str) -> Option<String> {
        self.owners.lock().get(id).cloned()
    }

    /// Forgets a removed `id`.
    pub(crate) fn disown(&self, id: &str) {
        self.owners.lock().remove(id);
    }

    /// Publishes what a worker knows.
    pub(crate) fn publish(&self, uid: &str, snapshot: Snapshot) {
        self.snapshots.write().insert(uid.to_owned(), Arc::new(snapshot));
    }

    /// Forgets a pod that is gone.
    pub(crate) fn withdraw(&self, uid: &str) {
        self.snapshots.write().remove(uid);
        self.owners.lock().retain(|_, owner| owner != uid);
        self.tokens.forget(uid);
    }

    /// All pods of this node.
    pub(crate) fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.snapshots.read().values().cloned().collect()
    }

    /// The pod of a name; of several with that name, the one that is not being deleted.
    pub(crate) fn snapshot(&self, namespace: &str, name: &str) -> Option<Arc<Snapshot>> {
        let snapshots = self.snapshots.read();
        let of_name = snapshots.values().filter(|known| known.pod.ns() == namespace && known.pod.pod_name() == name);
        of_name.min_by_key(|known| known.pod.deleting().is_some()).cloned()
    }

    /// What the runtime shows of a pod, with the addresses in the order in which they are told; see [`PodView::load`].
    pub(crate) async fn view(&self, uid: &str, known: &PodView) -> Result<PodView, skep_cri::Error> {
        let mut view = PodView::load(&self.cri, uid, known).await?;
        for sandbox in &mut view.sandboxes {
            sandbox.ips = addresses::sorted(&sandbox.ips, &self.config.node_ips);
        }
        Ok(view)
    }

    /// What a pod with these addresses may learn about itself.
    pub(crate) fn facts(&self, pod: &Pod, pod_ips: &[String]) -> Facts {
        let host_ips = self.host_ips();
        let pod_ips = if pod.host_network() { host_ips.clone() } else { pod_ips.to_vec() };
        Facts { host_ips, pod_ips, allocatable: (self.cpus * 1000, self.memory_capacity) }
    }

    /// Where probes and hooks find a pod whose sandbox has these addresses.
    pub(crate) fn pod_ip(&self, pod: &Pod, of_sandbox: &[String]) -> String {
        let ip = if pod.host_network() { self.host_ips().into_iter().next() } else { of_sandbox.first().cloned() };
        ip.unwrap_or_default()
    }

    /// The node's addresses as text.
    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    /// The pod's directory: volumes, hosts file, termination messages.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.data_dir.join("pods").join(uid)
    }

    /// The pod's log directory.
    pub(crate) fn log_dir(&self, pod: &Pod) -> PathBuf {
        self.config.pod_logs_dir.join(format!("{}_{}_{}", pod.ns(), pod.pod_name(), pod.uid()))
    }
}

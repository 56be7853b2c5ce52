//! The informers all controllers share: one watch per type.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::informer::{BY_CONTROLLER, Informer, Object};
use crate::{meta, pod};

/// Index of pods by the node they are bound to.
pub const BY_NODE: &str = "node";
/// Index of EndpointSlices by `namespace/service`.
pub const BY_SERVICE: &str = "service";

/// The value under which [`BY_CONTROLLER`] files the pods of a namespace that nobody controls.
pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// One informer per watched type.
#[derive(Clone)]
pub struct Informers {
    /// Pods, without the parts of the spec that no controller reads.
    pub pods: Informer<Pod>,
    /// Nodes.
    pub nodes: Informer<Node>,
    /// Leases of nodes (namespace kube-node-lease).
    pub node_leases: Informer<Lease>,
    /// Namespaces.
    pub namespaces: Informer<Namespace>,
    /// Services.
    pub services: Informer<Service>,
    /// ServiceAccounts.
    pub service_accounts: Informer<ServiceAccount>,
    /// The ConfigMaps that carry the cluster's CA, one a namespace.
    pub root_ca_maps: Informer<ConfigMap>,
    /// Endpoints.
    pub endpoints: Informer<Endpoints>,
    /// EndpointSlices.
    pub endpoint_slices: Informer<EndpointSlice>,
    /// ReplicaSets.
    pub replica_sets: Informer<ReplicaSet>,
    /// ReplicationControllers.
    pub replication_controllers: Informer<ReplicationController>,
    /// Deployments.
    pub deployments: Informer<Deployment>,
    /// ClusterRoles.
    pub cluster_roles: Informer<ClusterRole>,
    /// Secrets with service accounts' tokens.
    pub token_secrets: Informer<Secret>,
    /// CertificateSigningRequests.
    pub signing_requests: Informer<CertificateSigningRequest>,
    /// PodDisruptionBudgets.
    pub budgets: Informer<PodDisruptionBudget>,
    /// ResourceQuotas.
    pub quotas: Informer<ResourceQuota>,
    /// PersistentVolumeClaims.
    pub claims: Informer<PersistentVolumeClaim>,
    /// PersistentVolumes.
    pub volumes: Informer<PersistentVolume>,
    /// ServiceCIDRs.
    pub service_cidrs: Informer<ServiceCIDR>,
    /// IPAddresses, without what holds them.
    pub ip_addresses: Informer<IPAddress>,
}

impl Informers {
    /// Informers over the whole cluster; they start with [`Informers::run`].
    pub fn new(client: &Client) -> Self {
        let pod_indices = vec![
            (BY_CONTROLLER, pod_controller as fn(&Pod) -> Vec<String>),
            Informer::<Pod>::label_index(),
            (BY_NODE, pod_node),
        ];
        let slice_indices = vec![(BY_SERVICE, slice_service as fn(&EndpointSlice) -> Vec<String>)];
        Self {
            pods: Informer::build(Api::all(client.clone()), pod_indices, trim_pod),
            nodes: Informer::build(Api::all(client.clone()), Vec::new(), trim_node),
            node_leases: Informer::new(Api::namespaced(client.clone(), "kube-node-lease")),
            namespaces: Informer::new(Api::all(client.clone())),
            services: Informer::build(Api::all(client.clone()), Vec::new(), |_| {}),
            service_accounts: Informer::new(Api::all(client.clone())),
            root_ca_maps: Informer::filtered(
                Api::all(client.clone()),
                Vec::new(),
                |_| {},
                Some(crate::root_ca::FIELD_SELECTOR),
            ),
            endpoints: Informer::build(Api::all(client.clone()), Vec::new(), |_| {}),
            endpoint_slices: Informer::build(Api::all(client.clone()), slice_indices, |_| {}),
            replica_sets: Informer::build(
                Api::all(client.clone()),
                vec![Informer::controller_index(), Informer::label_index()],
                |_| {},
            ),
            replication_controllers: Informer::new(Api::all(client.clone())),
            deployments: Informer::new(Api::all(client.clone())),
            cluster_roles: Informer::new(Api::all(client.clone())),
            token_secrets: Informer::filtered(
                Api::all(client.clone()),
                Vec::new(),
                |_| {},
                Some(crate::token_secrets::FIELD_SELECTOR),
            ),
            signing_requests: Informer::new(Api::all(client.clone())),
            budgets: Informer::new(Api::all(client.clone())),
            quotas: Informer::new(Api::all(client.clone())),
            claims: Informer::new(Api::all(client.clone())),
            volumes: Informer::new(Api::all(client.clone())),
            service_cidrs: Informer::build(Api::all(client.clone()), Vec::new(), |_| {}),
            ip_addresses: Informer::build(Api::all(client.clone()), Vec::new(), |address| address.spec = None),
        }
    }

    /// Starts every watch in `tasks`.
    pub fn run(&self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        fn start<K: Object>(informer: &Informer<K>, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
            let (informer, shutdown) = (informer.clone(), shutdown.clone());
            tasks.spawn(async move { informer.run(shutdown).await });
        }
        start(&self.pods, tasks, shutdown);
        start(&self.nodes, tasks, shutdown);
        start(&self.node_leases, tasks, shutdown);
        start(&self.namespaces, tasks, shutdown);
        start(&self.services, tasks, shutdown);
        start(&self.service_accounts, tasks, shutdown);
        start(&self.root_ca_maps, tasks, shutdown);
        start(&self.endpoints, tasks, shutdown);
        start(&self.endpoint_slices, tasks, shutdown);
        start(&self.replica_sets, tasks, shutdown);
        start(&self.replication_controllers, tasks, shutdown);
        start(&self.deployments, tasks, shutdown);
        start(&self.cluster_roles, tasks, shutdown);
        start(&self.token_secrets, tasks, shutdown);
        start(&self.signing_requests, tasks, shutdown);
        start(&self.budgets, tasks, shutdown);
        start(&self.quotas, tasks, shutdown);
        start(&self.claims, tasks, shutdown);
        start(&self.volumes, tasks, shutdown);
        start(&self.service_cidrs, tasks, shutdown);
        start(&self.ip_addresses, tasks, shutdown);
    }

    /// Waits until every store is filled. False if `shutdown` came first.
    pub async fn synced(&self, shutdown: &CancellationToken) -> bool {
        self.pods.synced(shutdown).await
            && self.nodes.synced(shutdown).await
            && self.node_leases.synced(shutdown).await
            && self.namespaces.synced(shutdown).await
            && self.services.synced(shutdown).await
            && self.service_accounts.synced(shutdown).await
            && self.root_ca_maps.synced(shutdown).await
            && self.endpoints.synced(shutdown).await
            && self.endpoint_slices.synced(shutdown).await
            && self.replica_sets.synced(shutdown).await
            && self.replication_controllers.synced(shutdown).await
            && self.deployments.synced(shutdown).await
            && self.cluster_roles.synced(shutdown).await
            && self.token_secrets.synced(shutdown).await
            && self.signing_requests.synced(shutdown).await
            && self.budgets.synced(shutdown).await
            && self.quotas.synced(shutdown).await
            && self.claims.synced(shutdown).await
            && self.volumes.synced(shutdown).await
            && self.service_cidrs.synced(shutdown).await
            && self.ip_addresses.synced(shutdown).await
    }
}

fn pod_controller(pod: &Pod) -> Vec<String> {
    vec![match meta::controller_of(&pod.metadata) {
        Some(owner) => owner.uid.clone(),
        None => orphans_of(meta::namespace(&pod.metadata)),
    }]
}

fn pod_node(pod: &Pod) -> Vec<String> {
    let node = pod::node_name(pod);
    if node.is_empty() { Vec::new() } else { vec![node.to_owned()] }
}

fn slice_service(slice: &EndpointSlice) -> Vec<String> {
    let service = meta::label(&slice.metadata, crate::endpoint_slice::SERVICE_NAME_LABEL);
    service.map(|name| format!("{}/{name}", meta::namespace(&slice.metadata))).into_iter().collect()
}

/// Controllers never send a cached pod back, so what they do not read need not be kept.
fn trim_pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    // Only what may keep a claim in use.
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
    }
    spec.volumes = spec.volumes.take().filter(|volumes| !volumes.is_empty());
    spec.affinity = None;
    spec.ephemeral_containers = None;
    spec.topology_spread_constraints = None;
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.env = None;
        container.env_from = None;
        container.command = None;
        container.args = None;
        container.volume_mounts = None;
        container.liveness_probe = None;
        container.readiness_probe = None;
        container.startup_probe = None;
        container.lifecycle = None;
    }
}

fn trim_node(node: &mut Node) {
    if let Some(status) = &mut node.status {
        status.images = None;
    }
}

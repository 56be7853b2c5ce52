//! Every resource and its strategy.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use skep_storage::{ResourceSchema, Storage};

use crate::{Config, error::Result};

use super::{
    admissionregistration::{
        MutatingWebhookConfigurations, ValidatingAdmissionPolicies, ValidatingAdmissionPolicyBindings,
        ValidatingWebhookConfigurations,
    },
    api_service::ApiServices,
    autoscaling::{HorizontalPodAutoscalers, HorizontalPodAutoscalersV1},
    batch::{CronJobs, Jobs},
    certificate_signing_request::CertificateSigningRequests,
    config_map::ConfigMaps,
    controller_revision::ControllerRevisions,
    custom::CustomResourceDefinitions,
    daemon_set::DaemonSets,
    deployment::Deployments,
    dynamic_resource::{DeviceClasses, ResourceClaimTemplates, ResourceClaims, ResourceSlices},
    endpoint_slice::EndpointSlices,
    endpoints::EndpointsStrategy,
    erased::{AnyStrategy, Erased},
    event::{Events, EventsV1},
    flowcontrol::{FlowSchemas, PriorityLevelConfigurations},
    ip_address::IpAddresses,
    lease::Leases,
    limit_range::LimitRanges,
    namespace::Namespaces,
    networking::{IngressClasses, Ingresses, NetworkPolicies, ServiceCidrs},
    node::Nodes,
    persistent_volume::PersistentVolumes,
    persistent_volume_claim::PersistentVolumeClaims,
    pod::Pods,
    pod_disruption_budget::PodDisruptionBudgets,
    pod_template::PodTemplates,
    priority_class::PriorityClasses,
    rbac::{ClusterRoleBindings, ClusterRoles, RoleBindings, Roles},
    replica_set::ReplicaSets,
    replication_controller::ReplicationControllers,
    resource_quota::ResourceQuotas,
    runtime_class::RuntimeClasses,
    secret::Secrets,
    service::{self, NODE_PORT_PREFIX, Services},
    service_account::ServiceAccounts,
    stateful_set::StatefulSets,
    storage::{CsiDrivers, CsiNodes, CsiStorageCapacities, StorageClasses, VolumeAttachments, VolumeAttributesClasses},
    strategy::Strategy,
    version::{AnyVersion, ErasedVersion},
};

/// What Services allocate from.
pub(crate) struct Allocators(Arc<service::Allocators>);

impl Allocators {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let caches: Vec<_> =
            [service::ADDRESS_PREFIX, NODE_PORT_PREFIX].iter().filter_map(|p| config.storage.resource(p)).collect();
        let is_taken = Box::new(move |key: &str| caches.iter().any(|cache| cache.get(key).is_some()));
        let configured: Vec<_> = std::iter::once(config.service_cidr).chain(config.secondary_service_cidr).collect();
        let networks = networks(config.storage.clone(), configured.clone());
        let allocators = service::Allocators::new(&configured, networks, config.node_port_range.clone(), is_taken);
        Ok(Self(Arc::new(allocators)))
    }
}

/// The ranges of the ServiceCIDRs there are. Their cache opens later than the allocators are made.
fn networks(storage: Storage, configured: Vec<IpNet>) -> service::Networks {
    Box::new(move || {
        let objects = storage.resource(ServiceCidrs.prefix()).map(|cache| cache.snapshot());
        let objects: Vec<ServiceCIDR> = objects
            .iter()
            .flat_map(|all| all.iter())
            .filter_map(|one| serde_json::from_slice(one.json()).ok())
            .collect();
        service::usable(&objects, &configured)
    })
}

/// Keys the cache must hold before services can allocate.
pub(crate) fn allocation_schemas() -> Vec<ResourceSchema> {
    vec![ResourceSchema::new(NODE_PORT_PREFIX), ResourceSchema::new(service::ADDRESS_PREFIX)]
}

/// The strategies of all built-in resources.
pub(crate) fn strategies(allocators: Option<&Allocators>) -> Vec<Box<dyn AnyStrategy>> {
    let mut table = Table(Vec::new());
    table.add(ConfigMaps);
    table.add(Namespaces);
    table.add(Pods);
    table.add(Nodes);
    table.add(Secrets);
    table.add(Services::new(allocators.map(|a| Arc::clone(&a.0))));
    table.add(EndpointsStrategy);
    table.add(ServiceAccounts);
    table.add(Events);
    table.add(Deployments);
    table.add(ReplicaSets);
    table.add(Leases);
    table.add(EndpointSlices);
    table.add(IpAddresses);
    table.add(LimitRanges);
    table.add(PersistentVolumeClaims);
    table.add(PersistentVolumes);
    table.add(PodTemplates);
    table.add(ReplicationControllers);
    table.add(ResourceQuotas);
    table.add(ControllerRevisions);
    table.add(DaemonSets);
    table.add(StatefulSets);
    table.add(CronJobs);
    table.add(Jobs);
    table.add(ApiServices);
    table.add(ClusterRoleBindings);
    table.add(ClusterRoles);
    table.add(RoleBindings);
    table.add(Roles);
    table.add(PodDisruptionBudgets);
    table.add(PriorityClasses);
    table.add(IngressClasses);
    table.add(Ingresses);
    table.add(NetworkPolicies);
    table.add(ServiceCidrs);
    table.add(RuntimeClasses);
    table.add(HorizontalPodAutoscalers);
    table.add(CertificateSigningRequests);
    table.add(MutatingWebhookConfigurations);
    table.add(ValidatingWebhookConfigurations);
    table.add(ValidatingAdmissionPolicies);
    table.add(ValidatingAdmissionPolicyBindings);
    table.add(FlowSchemas);
    table.add(PriorityLevelConfigurations);
    table.add(DeviceClasses);
    table.add(ResourceClaims);
    table.add(ResourceClaimTemplates);
    table.add(ResourceSlices);
    table.add(CsiDrivers);
    table.add(CsiNodes);
    table.add(CsiStorageCapacities);
    table.add(StorageClasses);
    table.add(VolumeAttachments);
    table.add(VolumeAttributesClasses);
    table.add(CustomResourceDefinitions);
    table.0
}

/// What is served in further versions than the one stored: the strategy again, and the version.
pub(crate) fn versions() -> Vec<(Box<dyn AnyStrategy>, Box<dyn AnyVersion>)> {
    vec![
        (Box::new(Erased(HorizontalPodAutoscalers)), Box::new(ErasedVersion(HorizontalPodAutoscalersV1))),
        (Box::new(Erased(Events)), Box::new(ErasedVersion(EventsV1))),
    ]
}

struct Table(Vec<Box<dyn AnyStrategy>>);

impl Table {
    fn add(&mut self, strategy: impl Strategy) {
        self.0.push(Box::new(Erased(strategy)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_of_the_table_has_one_strategy() {
        let name = |info: &skep_api::ResourceInfo| (info.group_resource(), info.version.clone());
        let mut have: Vec<_> = strategies(None).iter().map(|s| name(s.info())).collect();
        have.extend(versions().iter().map(|(_, version)| name(version.info())));
        let mut want: Vec<_> = skep_api::built_in().iter().map(name).collect();
        have.sort();
        want.sort();
        assert_eq!(have, want);
    }

    #[test]
    fn every_row_has_a_cell_for_each_column() {
        for strategy in strategies(None) {
            let mut unknown = Vec::new();
            let object = strategy.decode(b"{}", &mut unknown).unwrap();
            let cells = strategy.row(&*object, jiff::Timestamp::UNIX_EPOCH);
            let columns = strategy.column_definitions();
            assert_eq!(Some(cells.len()), columns.as_array().map(Vec::len), "{}", strategy.info().plural);
        }
    }
}

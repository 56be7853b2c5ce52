//! Every resource and its strategy.

use std::sync::Arc;

use skep_storage::ResourceSchema;

use crate::{Config, error::Result};

use super::{
    batch::{CronJobs, Jobs},
    config_map::ConfigMaps,
    controller_revision::ControllerRevisions,
    daemon_set::DaemonSets,
    deployment::Deployments,
    endpoint_slice::EndpointSlices,
    endpoints::EndpointsStrategy,
    erased::{AnyStrategy, Erased},
    event::Events,
    ip_address::IpAddresses,
    lease::Leases,
    limit_range::LimitRanges,
    namespace::Namespaces,
    node::Nodes,
    persistent_volume::PersistentVolumes,
    persistent_volume_claim::PersistentVolumeClaims,
    pod::Pods,
    pod_template::PodTemplates,
    replica_set::ReplicaSets,
    replication_controller::ReplicationControllers,
    resource_quota::ResourceQuotas,
    secret::Secrets,
    service::{self, NODE_PORT_PREFIX, Services},
    service_account::ServiceAccounts,
    stateful_set::StatefulSets,
    strategy::Strategy,
};

/// What Services allocate from.
pub(crate) struct Allocators(Arc<service::Allocators>);

impl Allocators {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let caches: Vec<_> =
            [service::ADDRESS_PREFIX, NODE_PORT_PREFIX].iter().filter_map(|p| config.storage.resource(p)).collect();
        let is_taken = Box::new(move |key: &str| caches.iter().any(|cache| cache.get(key).is_some()));
        let allocators = service::Allocators::new(config.service_cidr, config.node_port_range.clone(), is_taken);
        Ok(Self(Arc::new(allocators)))
    }
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
    table.0
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
        let mut have: Vec<_> = strategies(None).iter().map(|s| s.info().group_resource()).collect();
        let mut want: Vec<_> = skep_api::built_in().iter().map(|info| info.group_resource()).collect();
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
            assert_eq!(cells.len(), strategy.columns().len(), "{}", strategy.info().plural);
        }
    }
}

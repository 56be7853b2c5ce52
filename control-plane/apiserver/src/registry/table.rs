//! Every resource and its strategy.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use skep_api::{meta::ApiObject, resource::find};
use skep_storage::ResourceSchema;

use crate::{Config, error::Result};

use super::{
    basic::Basic,
    erased::{AnyStrategy, Erased},
    strategy::Strategy,
};

/// What Services allocate from.
pub(crate) struct Allocators;

impl Allocators {
    pub(crate) fn new(_config: &Config) -> Result<Self> {
        Ok(Self)
    }
}

/// Keys that are no resource of the API, but kept in the cache.
pub(crate) fn allocation_schemas() -> Vec<ResourceSchema> {
    Vec::new()
}

/// The strategies of all built-in resources.
pub(crate) fn strategies(_allocators: Option<&Allocators>) -> Vec<Box<dyn AnyStrategy>> {
    let mut table = Table(Vec::new());
    table.basic::<ConfigMap>("", "configmaps", "/registry/configmaps/");
    table.basic::<Namespace>("", "namespaces", "/registry/namespaces/");
    table.basic::<Pod>("", "pods", "/registry/pods/");
    table.basic::<Node>("", "nodes", "/registry/minions/");
    table.basic::<Secret>("", "secrets", "/registry/secrets/");
    table.basic::<Service>("", "services", "/registry/services/specs/");
    table.basic::<Endpoints>("", "endpoints", "/registry/services/endpoints/");
    table.basic::<ServiceAccount>("", "serviceaccounts", "/registry/serviceaccounts/");
    table.basic::<Event>("", "events", "/registry/events/");
    table.basic::<Deployment>("apps", "deployments", "/registry/deployments/");
    table.basic::<ReplicaSet>("apps", "replicasets", "/registry/replicasets/");
    table.basic::<Lease>("coordination.k8s.io", "leases", "/registry/leases/");
    table.basic::<EndpointSlice>("discovery.k8s.io", "endpointslices", "/registry/endpointslices/");
    table.0
}

struct Table(Vec<Box<dyn AnyStrategy>>);

impl Table {
    fn add(&mut self, strategy: impl Strategy) {
        self.0.push(Box::new(Erased(strategy)));
    }

    fn basic<O: ApiObject>(&mut self, group: &str, plural: &str, prefix: &'static str) {
        if let Some(info) = find(group, "v1", plural) {
            self.add(Basic::<O>::new(info, prefix));
        }
    }
}

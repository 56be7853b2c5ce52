//! Services.

mod allocate;
mod defaults;
mod families;
mod table;
#[cfg(test)]
mod tests;
mod update;
mod validate;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::Value;
use skep_api::field::Errors;
use skep_api::name::{self, Validator};
use skep_api::resource::ResourceInfo;
use skep_api::status::StatusError;
use skep_storage::SelectableField;

use super::checks::text;
use super::strategy::{Change, Column, Context, Reservation, Strategy};
use super::table_info::info;

pub(crate) use allocate::{ADDRESS_PREFIX, Allocators, DEFAULT_RANGE, NODE_PORT_PREFIX, Networks, holdings, usable};
pub(crate) use families::of_first_family;

/// Where services are stored.
pub(crate) const PREFIX: &str = "/registry/services/specs/";

/// The strategy of services.
pub(crate) struct Services {
    allocators: Option<Arc<Allocators>>,
}

impl Services {
    /// Services that get addresses and ports from `allocators`; without them none can be written.
    pub(crate) fn new(allocators: Option<Arc<Allocators>>) -> Self {
        Services { allocators }
    }

    fn families(&self) -> &[&'static str] {
        self.allocators.as_ref().map_or(&[families::IPV4], |allocators| allocators.families())
    }
}

impl Strategy for Services {
    type Object = Service;

    fn info(&self) -> &'static ResourceInfo {
        info("", "services")
    }

    fn prefix(&self) -> &'static str {
        PREFIX
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::new("spec.clusterIP"), SelectableField::new("spec.type")]
    }

    fn name_validator(&self) -> Validator {
        name::dns1035_label
    }

    fn default(&self, service: &mut Service) {
        defaults::set(service.spec.get_or_insert_default());
        defaults::set_status(service);
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, service: &mut Service) {
        service.status = None;
        defaults::set_status(service);
        let spec = service.spec.get_or_insert_default();
        defaults::cluster_ips(spec, None);
        // What is wrong is said by `validate` and `validate_create`.
        families::settle(spec, None, self.families());
    }

    fn validate(&self, service: &Service) -> Errors {
        validate::validate(service)
    }

    fn validate_create(&self, service: &Service) -> Errors {
        let mut spec = service.spec.clone().unwrap_or_default();
        families::settle(&mut spec, None, self.families())
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, service: &mut Service, old: &Service) {
        service.status.clone_from(&old.status);
        let spec = service.spec.get_or_insert_default();
        let empty = ServiceSpec::default();
        let old = old.spec.as_ref().unwrap_or(&empty);
        update::keep_allocations(spec, old);
        defaults::cluster_ips(spec, Some(old));
        update::drop_by_type(spec, old);
        families::settle(spec, Some(old), self.families());
    }

    fn validate_update(&self, service: &Service, old: &Service) -> Errors {
        update::validate(service, old, self.families())
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, service: &mut Service, old: &Service) {
        service.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, service: &Service, _old: &Service) -> Errors {
        validate::validate_status(service)
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn reserves(&self) -> bool {
        true
    }

    fn reserve(&self, change: Change<'_, Service>, reservation: &mut Reservation) -> Result<(), StatusError> {
        match &self.allocators {
            Some(allocators) => allocators.reserve(change, reservation),
            None => Err(StatusError::internal_error("no addresses to give to services")),
        }
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn row(&self, service: &Service, now: Timestamp) -> Vec<Value> {
        table::row(service, now)
    }
}

/// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
fn kind(spec: &ServiceSpec) -> &str {
    text(&spec.type_)
}

fn is_headless(spec: &ServiceSpec) -> bool {
    text(&spec.cluster_ip) == "None"
        || spec.cluster_ips.as_ref().and_then(|ips| ips.first()).is_some_and(|ip| ip == "None")
}

/// Every type but ExternalName has a cluster IP, be it `None`.
fn needs_cluster_ip(spec: &ServiceSpec) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &ServiceSpec) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// The port on which a node tells a load balancer whether it has endpoints of its own.
fn needs_health_check_port(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

/// Whether traffic from outside the cluster may come in.
fn takes_external_traffic(spec: &ServiceSpec) -> bool {
    match kind(spec) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

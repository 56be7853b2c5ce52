//! From a Service to one of the servers behind it.

use std::sync::Arc;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use rand::Rng as _;
use serde::de::DeserializeOwned;
use skep_storage::Object;

use crate::{dispatch::Registries, registry::service::of_first_family};

/// What stands in the way of a Service, as the condition's reason and message.
#[derive(Debug)]
pub(super) struct Obstacle {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The Service, if it is there.
pub(super) fn service(registries: &Registries, namespace: &str, name: &str) -> Option<Service> {
    let registry = registries.get("", "v1", "services")?;
    parse(&registry.cache.get(&registry.key(Some(namespace), name)?)?)
}

/// The EndpointSlices of a Service.
fn slices(registries: &Registries, namespace: &str, name: &str) -> Vec<EndpointSlice> {
    let Some(registry) = registries.get("discovery.k8s.io", "v1", "endpointslices") else { return Vec::new() };
    let snapshot = registry.cache.snapshot();
    let scope = registry.key_scope(Some(namespace));
    let own = snapshot.range(&scope, "").filter(|slice| slice.label("kubernetes.io/service-name") == Some(name));
    own.filter_map(parse).collect()
}

fn parse<T: DeserializeOwned>(object: &Arc<Object>) -> Option<T> {
    serde_json::from_slice(object.json()).ok()
}

/// Address and port of one of a Service's ready endpoints.
pub(super) fn endpoint(
    registries: &Registries,
    namespace: &str,
    name: &str,
    port: i32,
) -> Result<(String, u16), String> {
    let found = service(registries, namespace, name).ok_or_else(|| format!("service {name:?} not found"))?;
    let spec = found.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let port = u16::try_from(port).map_err(|error| error.to_string())?;
        return Ok((spec.external_name.unwrap_or_default(), port));
    }
    let named = spec.ports.iter().flatten().find(|own| own.port == port);
    let named = named.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let named = named.name.clone().unwrap_or_default();
    let ready = slices(registries, namespace, name).iter().flat_map(|slice| addresses(slice, &named)).collect();
    let ready = of_first_family(&spec, ready);
    if ready.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    Ok(ready[rand::rng().random_range(0..ready.len())].clone())
}

/// The ready addresses of a slice, with the port of that name.
fn addresses(slice: &EndpointSlice, port: &str) -> Vec<(String, u16)> {
    let own = slice.ports.iter().flatten().find(|own| own.name.as_deref().unwrap_or_default() == port);
    let Some(port) = own.and_then(|own| own.port).and_then(|port| u16::try_from(port).ok()) else { return Vec::new() };
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    ready.filter_map(|endpoint| Some((endpoint.addresses.first()?.clone(), port))).collect()
}

/// Whether a Service can be reached at all, judged by the objects alone.
pub(super) fn check(registries: &Registries, namespace: &str, name: &str, port: i32) -> Result<(), Obstacle> {
    let obstacle = |reason, message| Err(Obstacle { reason, message });
    let Some(service) = service(registries, namespace, name) else {
        return obstacle("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    let spec = service.spec.unwrap_or_default();
    if spec.type_.as_deref().unwrap_or("ClusterIP") != "ClusterIP" {
        return Ok(());
    }
    let Some(found) = spec.ports.iter().flatten().find(|own| own.port == port) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return obstacle("ServicePortError", message);
    };
    let port_name = found.name.as_deref().unwrap_or_default();
    let slices = slices(registries, namespace, name);
    if slices.is_empty() {
        return obstacle(
            "EndpointsNotFound",
            format!("cannot find endpointslices for service/{name} in {namespace:?}"),
        );
    }
    if slices.iter().all(|slice| addresses(slice, port_name).is_empty()) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return obstacle("MissingEndpoints", message);
    }
    Ok(())
}

//! From a Service to an address that answers for it.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use rand::seq::IndexedRandom as _;
use skep_storage::{Resource, Storage};

use crate::registry::service::of_first_family;

/// The Services and EndpointSlices of the cluster.
pub(super) struct Services {
    services: Option<Resource>,
    slices: Option<Resource>,
}

impl Services {
    pub(super) fn new(storage: &Storage) -> Self {
        Self {
            services: storage.resource("/registry/services/specs/"),
            slices: storage.resource("/registry/endpointslices/"),
        }
    }

    /// A host and a port at which a port of a Service is served now; errors in upstream's words.
    pub(super) fn address(&self, namespace: &str, name: &str, port: u16) -> Result<(String, u16), String> {
        let key = format!("/registry/services/specs/{namespace}/{name}");
        let cached = self.services.as_ref().and_then(|services| services.get(&key));
        let service: Service = match cached {
            Some(cached) => serde_json::from_slice(cached.json()).map_err(|error| error.to_string())?,
            None => return Err(format!("service {name:?} not found")),
        };
        let spec = service.spec.unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return Ok((spec.external_name.unwrap_or_default(), port));
        }
        let asked = i32::from(port);
        let Some(served) = spec.ports.iter().flatten().find(|served| served.port == asked) else {
            return Err(format!("no service port {port} found for service {name:?}"));
        };
        let port_name = served.name.as_deref().unwrap_or_default();
        let ready = of_first_family(&spec, self.ready(namespace, name, port_name));
        match ready.choose(&mut rand::rng()) {
            Some(found) => Ok(found.clone()),
            None => Err(format!("no endpoints available for service {name:?}")),
        }
    }

    fn ready(&self, namespace: &str, name: &str, port_name: &str) -> Vec<(String, u16)> {
        let Some(slices) = &self.slices else { return Vec::new() };
        let snapshot = slices.snapshot();
        let scope = format!("/registry/endpointslices/{namespace}/");
        let mut out = Vec::new();
        for cached in snapshot.range(&scope, "") {
            if cached.label("kubernetes.io/service-name") != Some(name) {
                continue;
            }
            let Ok(slice) = serde_json::from_slice::<EndpointSlice>(cached.json()) else { continue };
            let port = slice.ports.iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == port_name);
            let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else { continue };
            for endpoint in slice.endpoints {
                let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
                if let Some(address) = endpoint.addresses.first().filter(|_| ready) {
                    out.push((address.clone(), port));
                }
            }
        }
        out
    }
}

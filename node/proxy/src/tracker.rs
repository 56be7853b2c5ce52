//! From Services and EndpointSlices to the service ports that are to be programmed. No I/O.

mod endpoints;

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::service::{Frontend, Protocol, Service, ServicePortName};
use endpoints::Slice;

/// Label by which a Service asks for another proxy; such Services, and their slices, are not ours.
pub(crate) const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of headless Services and their slices.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name, of a Service or (where that is said) of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// What matters of a Service.
#[derive(Debug, PartialEq, Eq)]
struct Virtual {
    ports: Vec<(Frontend, Arc<str>)>,
    local_only: bool,
}

/// The known Services and slices.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    node_name: Option<String>,
    services: HashMap<ServiceKey, Virtual>,
    slices: HashMap<ServiceKey, BTreeMap<Arc<str>, Slice>>,
    /// Namespace and name of a slice -> the Service that holds it.
    holders: HashMap<ServiceKey, ServiceKey>,
}

impl Tracker {
    pub(crate) fn new(node_name: Option<String>) -> Self {
        Self { node_name, ..Self::default() }
    }

    /// Notes a Service. Returns its key if anything that matters changed.
    pub(crate) fn apply_service(&mut self, service: &core::Service) -> Option<ServiceKey> {
        let key = key_of(&service.metadata)?;
        match read_service(service) {
            Some(new) if self.services.get(&key) == Some(&new) => None,
            Some(new) => {
                self.services.insert(key.clone(), new);
                Some(key)
            }
            None => self.services.remove(&key).map(|_| key),
        }
    }

    /// Forgets a Service. Returns whether it was known.
    pub(crate) fn delete_service(&mut self, key: &ServiceKey) -> bool {
        self.services.remove(key).is_some()
    }

    /// Notes a slice. Returns the keys of the Services it matters to: its own, and the one it left, if it changed hands.
    pub(crate) fn apply_slice(&mut self, slice: &EndpointSlice) -> Vec<ServiceKey> {
        let Some(itself) = key_of(&slice.metadata) else { return Vec::new() };
        let owner = slice_owner(slice);
        let mut changed = Vec::new();
        if self.holders.get(&itself).is_some_and(|former| Some(former) != owner.as_ref()) {
            changed.extend(self.delete_slice(&itself));
        }
        if let Some(owner) = owner {
            let new = Slice::read(slice);
            let slices = self.slices.entry(owner.clone()).or_default();
            if slices.get(&itself.name) != Some(&new) {
                slices.insert(itself.name.clone(), new);
                changed.push(owner.clone());
            }
            self.holders.insert(itself, owner);
        }
        changed
    }

    /// Forgets a slice, by its own namespace and name. Returns the Service that held it, whatever the slice says by now.
    pub(crate) fn delete_slice(&mut self, slice: &ServiceKey) -> Option<ServiceKey> {
        let owner = self.holders.remove(slice)?;
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(&*slice.name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        Some(owner)
    }

    /// Keys of the known Services.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// Namespaces and names of the known slices.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &ServiceKey> {
        self.holders.keys()
    }

    /// What is to be programmed for a Service; nothing if it is unknown.
    pub(crate) fn desired(&self, key: &ServiceKey) -> Vec<(Frontend, Service)> {
        let Some(service) = self.services.get(key) else { return Vec::new() };
        let local = service.local_only.then_some(self.node_name.as_deref().unwrap_or_default());
        let slices = self.slices.get(key);
        service
            .ports
            .iter()
            .map(|(frontend, port)| {
                let slices = slices.into_iter().flat_map(BTreeMap::values);
                let backends = endpoints::usable(slices, port, frontend.protocol, local);
                let name =
                    ServicePortName { namespace: key.namespace.clone(), name: key.name.clone(), port: port.clone() };
                (*frontend, Service::new(name, backends))
            })
            .collect()
    }
}

/// Namespace and name of an object; `None` if it lacks one.
pub(crate) fn key_of(meta: &ObjectMeta) -> Option<ServiceKey> {
    Some(ServiceKey { namespace: meta.namespace.as_deref()?.into(), name: meta.name.as_deref()?.into() })
}

/// The Service a slice belongs to; `None` if it names none.
fn slice_owner(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(ServiceKey { namespace: slice.metadata.namespace.as_deref()?.into(), name: name.as_str().into() })
}

/// `None` for Services without an IPv4 cluster address: headless, ExternalName, or not yet given one.
fn read_service(service: &core::Service) -> Option<Virtual> {
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(SERVICE_PROXY_NAME) || labels.contains_key(HEADLESS)) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let vip: Ipv4Addr =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).find_map(|address| address.parse().ok())?;
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = Protocol::from_api(port.protocol.as_deref())?;
            let number = u16::try_from(port.port).ok().filter(|number| *number != 0)?;
            Some((Frontend { vip, port: number, protocol }, port.name.as_deref().unwrap_or_default().into()))
        })
        .collect();
    Some(Virtual { ports, local_only: spec.internal_traffic_policy.as_deref() == Some("Local") })
}

#[cfg(test)]
mod tests;

//! From Services and EndpointSlices, and pods with host ports, to the service ports that are to be programmed. No I/O.

mod annotations;
mod endpoints;
mod host_ports;
mod zones;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::health::ServiceHealth;
use crate::service::{Family, Frontend, Kind, Protocol, Service, ServicePort, ServicePortName};
use annotations::Wishes;
use endpoints::{Place, Slice};

pub(crate) use host_ports::HostPorts;

/// Label by which a Service asks for another proxy; such Services, and their slices, are not ours.
pub(crate) const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of headless Services and their slices.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// How long `sessionAffinity: ClientIP` holds if the Service does not say it, seconds.
const AFFINITY_SECONDS: u32 = 10_800;
/// Label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name, of a Service or (where that is said) of a slice or a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServiceKey {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// Who has frontends. Where both want one, a Service has it and a pod's host port waits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    /// A pod of this node, for its host ports.
    Pod(ServiceKey),
    /// A Service.
    Service(ServiceKey),
}

/// What matters of a Service.
#[derive(Debug, PartialEq, Eq)]
struct Virtual {
    ports: Vec<Port>,
    /// Its own addresses, at most one of each family.
    cluster: Vec<IpAddr>,
    external: Vec<IpAddr>,
    balancer: Vec<IpAddr>,
    internal_local: bool,
    external_local: bool,
    affinity: Option<u32>,
    source_ranges: Vec<(IpAddr, u8)>,
    /// Where balancers ask this node about it.
    health_port: Option<u16>,
    wishes: Wishes,
}

#[derive(Debug, PartialEq, Eq)]
struct Port {
    name: Arc<str>,
    protocol: Protocol,
    number: u16,
    node_port: Option<u16>,
}

/// The known Services and slices.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    here: Place,
    maglev: u32,
    services: HashMap<ServiceKey, Virtual>,
    slices: HashMap<ServiceKey, BTreeMap<Arc<str>, Slice>>,
    /// Namespace and name of a slice -> the Service that holds it.
    holders: HashMap<ServiceKey, ServiceKey>,
}

impl Tracker {
    /// For a node of that name. `maglev` as [`Service::maglev`].
    pub(crate) fn new(node_name: Option<String>, maglev: u32) -> Self {
        Self { here: Place { node: node_name, zone: None }, maglev, ..Self::default() }
    }

    /// Notes the zone the node is in. Returns whether that is news, for all Services.
    pub(crate) fn set_zone(&mut self, zone: Option<String>) -> bool {
        let zone = zone.filter(|zone| !zone.is_empty());
        let news = self.here.zone != zone;
        self.here.zone = zone;
        news
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

    /// What a Service asks for in annotations that cannot be read.
    pub(crate) fn problems(&self, key: &ServiceKey) -> &[String] {
        self.services.get(key).map_or(&[], |service| &service.wishes.problems)
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
    pub(crate) fn desired(&self, key: &ServiceKey) -> Vec<(ServicePort, Service)> {
        let Some(service) = self.services.get(key) else { return Vec::new() };
        let slices = self.slices.get(key);
        let port = |port: &Port, address: IpAddr| {
            let name =
                ServicePortName { namespace: key.namespace.clone(), name: key.name.clone(), port: port.name.clone() };
            let slices = slices.into_iter().flat_map(BTreeMap::values);
            let family = Family::of(address);
            (ServicePort { name, family }, self.service(service, port, address, slices))
        };
        service
            .ports
            .iter()
            .flat_map(|number| service.cluster.iter().map(move |address| (number, *address)))
            .map(|(number, address)| port(number, address))
            .collect()
    }

    /// Does an endpoint of a Service still serve, whether or not it would be chosen?
    pub(crate) fn serves(&self, key: &ServiceKey, protocol: Protocol, endpoint: SocketAddr) -> bool {
        let slices = self.slices.get(key).filter(|_| self.services.contains_key(key));
        slices.into_iter().flat_map(BTreeMap::values).any(|slice| slice.serves(protocol, endpoint))
    }

    /// What balancers shall hear of a Service; `None` if they do not ask.
    pub(crate) fn health(&self, key: &ServiceKey) -> Option<ServiceHealth> {
        let port = self.services.get(key)?.health_port?;
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        Some(ServiceHealth { port, local: endpoints::ready_here(slices, &self.here) })
    }

    fn service<'a>(
        &'a self,
        service: &Virtual,
        port: &Port,
        address: IpAddr,
        slices: impl Iterator<Item = &'a Slice>,
    ) -> Service {
        let family = Family::of(address);
        let Port { protocol, number, .. } = *port;
        let of = |kind: Kind, addresses: &[IpAddr]| -> Vec<(Frontend, Kind)> {
            let addresses = addresses.iter().filter(|address| Family::of(**address) == family);
            addresses.map(|address| (Frontend { address: *address, port: number, protocol }, kind)).collect()
        };
        let node_port = port.node_port.map(|port| Frontend { address: family.unspecified(), port, protocol });
        // What is there twice is what it says last.
        let frontends: BTreeMap<Frontend, Kind> = node_port
            .map(|frontend| (frontend, Kind::NodePort))
            .into_iter()
            .chain(of(Kind::ExternalIP, &service.external))
            .chain(of(Kind::LoadBalancer, &service.balancer))
            .chain(of(Kind::ClusterIP, &[address]))
            .collect();
        let reached_from_outside = frontends.len() > 1;
        let external_local = service.external_local && reached_from_outside;
        let weights = &service.wishes.zone_weights;
        let choice = endpoints::categorize(slices, &port.name, protocol, family, &self.here, weights);
        let uses_local = service.internal_local || external_local;
        Service {
            frontends,
            cluster: choice.cluster,
            places: choice.places,
            local: if uses_local { choice.local } else { Vec::new() },
            internal_local: service.internal_local,
            external_local,
            affinity: service.affinity,
            source_ranges: {
                let ranges = service.source_ranges.iter().copied();
                ranges.filter(|(address, _)| Family::of(*address) == family).collect()
            },
            deny_ranges: service.wishes.deny_ranges,
            maglev: if reached_from_outside { self.maglev } else { 0 },
        }
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

/// `None` for Services without a cluster address: headless, ExternalName, or not yet given one.
fn read_service(service: &core::Service) -> Option<Virtual> {
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(SERVICE_PROXY_NAME) || labels.contains_key(HEADLESS)) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let mut cluster: Vec<IpAddr> = Vec::new();
    for address in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|address| address.parse().ok())
    {
        if !cluster.iter().any(|known| Family::of(*known) == Family::of(address)) {
            cluster.push(address);
        }
    }
    if cluster.is_empty() {
        return None;
    }
    let valid = |port: i32| u16::try_from(port).ok().filter(|number| *number != 0);
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(Port {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: Protocol::from_api(port.protocol.as_deref())?,
                number: valid(port.port)?,
                node_port: port.node_port.and_then(valid),
            })
        })
        .collect();
    let ingress = service.status.iter().flat_map(|status| &status.load_balancer).flat_map(|status| &status.ingress);
    let balancer = ingress
        .flatten()
        // A balancer that is a proxy of its own must be gone through even from here.
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect();
    let mut source_ranges: Vec<(IpAddr, u8)> =
        spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| read_range(range.trim())).collect();
    source_ranges.sort_unstable();
    source_ranges.dedup();
    let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let timeout = timeout.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS);
    Some(Virtual {
        ports,
        cluster,
        external: spec.external_ips.iter().flatten().filter_map(|address| address.parse().ok()).collect(),
        balancer,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        affinity: (spec.session_affinity.as_deref() == Some("ClientIP")).then_some(timeout),
        source_ranges,
        health_port: spec
            .health_check_node_port
            .and_then(valid)
            .filter(|_| spec.external_traffic_policy.as_deref() == Some("Local")),
        wishes: Wishes::read(service.metadata.annotations.as_ref()),
    })
}

/// `address/length`, with the bits behind the prefix cut off.
fn read_range(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    Some(match address {
        IpAddr::V4(address) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (IpAddr::V4((u32::from(address) & mask).into()), length)
        }
        IpAddr::V6(address) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (IpAddr::V6((u128::from(address) & mask).into()), length)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;

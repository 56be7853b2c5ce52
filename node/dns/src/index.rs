//! What the API says, as far as names need it: a few words a Service and an endpoint.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// Services with their endpoints, by name and by address.
#[derive(Debug, Default)]
pub struct Index {
    namespaces: HashMap<Arc<str>, HashMap<Arc<str>, Entry>>,
    /// Who may have an address; whether it still does, its entry says.
    addresses: HashMap<IpAddr, Vec<Key>>,
    /// The Service each slice was counted for.
    slices: HashMap<Key, Arc<str>>,
    services_known: bool,
    slices_known: bool,
}

/// What is known below one Service's name. A slice may come before its Service.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) service: Option<Service>,
    slices: BTreeMap<Arc<str>, Slice>,
}

/// A Service, as far as its names go.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) kind: Kind,
    pub(crate) ports: Box<[Port]>,
}

/// What a Service's name stands for.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Its ClusterIPs.
    Cluster(Box<[IpAddr]>),
    /// Its endpoints.
    Headless,
    /// Another name.
    External(Name),
}

/// A port of a Service or of endpoints.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Empty: none.
    pub(crate) name: Box<str>,
    /// In lower case, as names have it.
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn of(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    /// As in a name, without the underscore.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) ports: Box<[Port]>,
    pub(crate) endpoints: Box<[Endpoint]>,
}

/// A ready endpoint. The EndpointSlice controller says ready of all those of `publishNotReadyAddresses`.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    hostname: Option<Box<str>>,
}

impl Endpoint {
    /// Its label below its Service: its host name, or its address with dashes, as CoreDNS does.
    pub(crate) fn label(&self) -> String {
        match &self.hostname {
            Some(name) => name.to_string(),
            None => self.address.to_string().replace(['.', ':'], "-"),
        }
    }
}

impl Entry {
    pub(crate) fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.values()
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.slices.values().flat_map(|slice| slice.endpoints.iter())
    }

    /// The addresses whose reverse names lead to it.
    fn addresses(&self) -> HashSet<IpAddr> {
        match &self.service {
            Some(Service { kind: Kind::Cluster(ips), .. }) => ips.iter().copied().collect(),
            Some(Service { kind: Kind::Headless, .. }) => self.endpoints().map(|endpoint| endpoint.address).collect(),
            _ => HashSet::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }
}

impl Index {
    /// Whether both lists have been seen: before that the absence of a name says nothing.
    pub fn is_complete(&self) -> bool {
        self.services_known && self.slices_known
    }

    /// How many Services are known.
    pub fn services(&self) -> usize {
        self.namespaces.values().flat_map(HashMap::values).filter(|entry| entry.service.is_some()).count()
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|services| services.values().any(|entry| entry.service.is_some()))
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// Who has or had the address.
    pub(crate) fn by_address(&self, address: &IpAddr) -> &[Key] {
        self.addresses.get(address).map_or(&[], Vec::as_slice)
    }

    /// Takes in a Service, new or changed.
    pub fn apply_service(&mut self, service: &v1::Service) {
        let Some(key) = key_of(&service.metadata) else { return };
        let parsed = parse_service(service);
        self.change(&key, |entry| entry.service = parsed);
    }

    /// Forgets a Service.
    pub fn delete_service(&mut self, service: &v1::Service) {
        let Some(key) = key_of(&service.metadata) else { return };
        self.change(&key, |entry| entry.service = None);
    }

    /// Takes in an EndpointSlice, new or changed.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let Some(key) = key_of(&slice.metadata) else { return };
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if self.slices.get(&key).map(|known| known.as_ref()) != service.map(String::as_str) {
            self.forget_slice(&key);
        }
        let Some(service) = service else { return };
        let service: Arc<str> = service.as_str().into();
        self.slices.insert(key.clone(), service.clone());
        let parsed = parse_slice(slice);
        self.change(&(key.0, service), |entry| drop(entry.slices.insert(key.1, parsed)));
    }

    /// Forgets an EndpointSlice.
    pub fn delete_slice(&mut self, slice: &EndpointSlice) {
        if let Some(key) = key_of(&slice.metadata) {
            self.forget_slice(&key);
        }
    }

    /// Every Service has been told since the list began, and no other is there.
    pub(crate) fn services_listed(&mut self, listed: &HashSet<Key>) {
        let gone: Vec<Key> = self
            .namespaces
            .iter()
            .flat_map(|(namespace, services)| {
                let there = services.iter().filter(|(_, entry)| entry.service.is_some());
                there.map(|(name, _)| (namespace.clone(), name.clone()))
            })
            .filter(|key| !listed.contains(key))
            .collect();
        for key in gone {
            self.change(&key, |entry| entry.service = None);
        }
        self.services_known = true;
    }

    /// Every EndpointSlice has been told since the list began, and no other is there.
    pub(crate) fn slices_listed(&mut self, listed: &HashSet<Key>) {
        let gone: Vec<Key> = self.slices.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            self.forget_slice(&key);
        }
        self.slices_known = true;
    }

    /// Says that all there is has been taken in; for those who fill the index by hand.
    pub fn complete(&mut self) {
        self.services_known = true;
        self.slices_known = true;
    }

    fn forget_slice(&mut self, key: &Key) {
        if let Some(service) = self.slices.remove(key) {
            self.change(&(key.0.clone(), service), |entry| drop(entry.slices.remove(&key.1)));
        }
    }

    /// Changes an entry and what leads to it by address.
    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Entry)) {
        let services = self.namespaces.entry(key.0.clone()).or_default();
        let entry = services.entry(key.1.clone()).or_default();
        let before = entry.addresses();
        change(entry);
        let after = entry.addresses();
        if entry.is_empty() {
            services.remove(&key.1);
            if services.is_empty() {
                self.namespaces.remove(&key.0);
            }
        }
        for address in before.difference(&after) {
            if let Some(keys) = self.addresses.get_mut(address) {
                keys.retain(|known| known != key);
                if keys.is_empty() {
                    self.addresses.remove(address);
                }
            }
        }
        for address in after.difference(&before) {
            self.addresses.entry(*address).or_default().push(key.clone());
        }
    }
}

pub(crate) fn key_of(metadata: &ObjectMeta) -> Option<Key> {
    Some((metadata.namespace.as_deref()?.into(), metadata.name.as_deref()?.into()))
}

fn parse_service(service: &v1::Service) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    let kind = if spec.type_.as_deref() == Some("ExternalName") {
        let name = Name::from_ascii(spec.external_name.as_deref()?).ok()?;
        Kind::External(absolute(name))
    } else if spec.cluster_ip.as_deref() == Some("None") {
        Kind::Headless
    } else {
        let listed = spec.cluster_ips.iter().flatten();
        let ips: Vec<IpAddr> = listed.chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
        Kind::Cluster(ips.iter().enumerate().filter(|(at, ip)| !ips[..*at].contains(ip)).map(|(_, ip)| *ip).collect())
    };
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: Protocol::of(port.protocol.as_deref()),
            port: port.port.try_into().ok()?,
        })
    });
    Some(Service { kind, ports: ports.collect() })
}

fn parse_slice(slice: &EndpointSlice) -> Slice {
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: Protocol::of(port.protocol.as_deref()),
            port: port.port?.try_into().ok()?,
        })
    });
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    let endpoints = ready.flat_map(|endpoint| {
        endpoint.addresses.iter().filter_map(|address| {
            // A slice of FQDNs has no addresses to answer with.
            let address = address.parse().ok()?;
            let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty()).map(Box::from);
            Some(Endpoint { address, hostname })
        })
    });
    Slice { ports: ports.collect(), endpoints: endpoints.collect() }
}

fn absolute(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

//! Cluster IPs and node ports. Each is a key of its own, taken in the same transaction that writes the service, so no two
//! services can ever hold the same. A cluster IP's key is the `IPAddress` object upstream keeps for it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use rand::Rng;
use serde_json::json;
use skep_api::field::{Error, Path};
use skep_api::status::StatusError;
use uuid::Uuid;

use super::{needs_cluster_ip, needs_health_check_port, needs_node_port};
use crate::registry::checks::text;
use crate::registry::strategy::{Change, Reservation};

/// Where the addresses of services are kept.
pub(crate) const ADDRESS_PREFIX: &str = "/registry/ipaddresses/";
/// Where the node ports of services are kept, one key a port.
pub(crate) const NODE_PORT_PREFIX: &str = "/registry/ranges/servicenodeports/";

/// So many losses are taken for doubt about what is known to be taken; after them a range is full.
const MOST_DOUBTS: usize = 32;

/// Tells whether a key exists, as far as is known here. A wrong answer costs another attempt, nothing more.
pub(crate) type IsTaken = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// What services get their addresses and ports from.
pub(crate) struct Allocators {
    range: AddressRange,
    node_ports: RangeInclusive<u16>,
    is_taken: IsTaken,
}

impl Allocators {
    pub(crate) fn new(cidr: IpNet, node_ports: RangeInclusive<u16>, is_taken: IsTaken) -> Self {
        Allocators { range: AddressRange::new(cidr), node_ports, is_taken }
    }

    /// The address family of the cluster.
    pub(super) fn family(&self) -> &'static str {
        match self.range.cidr {
            IpNet::V4(_) => "IPv4",
            IpNet::V6(_) => "IPv6",
        }
    }

    pub(super) fn reserve(
        &self,
        change: Change<'_, Service>,
        reservation: &mut Reservation,
    ) -> Result<(), StatusError> {
        let had = match &change {
            Change::Create { .. } => Held::default(),
            Change::Update { old, .. } | Change::Delete { old } => Held::by(old),
        };
        let has = match change {
            Change::Create { object } | Change::Update { object, .. } => {
                self.allocate(object, &had, reservation)?;
                Held::by(object)
            }
            Change::Delete { .. } => Held::default(),
        };
        reservation.release.extend(had.addresses.difference(&has.addresses).map(address_key));
        reservation.release.extend(had.ports.difference(&has.ports).map(|port| port_key(*port)));
        Ok(())
    }

    /// Fills in what the service needs and takes what it did not have before.
    fn allocate(&self, service: &mut Service, had: &Held, reservation: &mut Reservation) -> Result<(), StatusError> {
        let owner = service.metadata.clone();
        let Some(spec) = &mut service.spec else { return Ok(()) };
        let path = Path::new("spec");
        let refuse = |error: Error| StatusError::invalid("", "Service", text(&owner.name), &[error]);
        if needs_cluster_ip(spec) && !super::is_headless(spec) {
            let wanted = spec.cluster_ips.as_ref().and_then(|ips| ips.first()).filter(|ip| !ip.is_empty());
            let address = match wanted {
                Some(ip) => {
                    let checked = self.check_address(ip, had, reservation);
                    let list = &spec.cluster_ips;
                    let at = path.child("clusterIPs");
                    checked.map_err(|why| {
                        refuse(Error::invalid(&at, list, format!("failed to allocate IP {ip}: {why}")))
                    })?
                }
                None => self
                    .free_address(reservation)
                    .ok_or_else(|| StatusError::internal_error("failed to allocate a serviceIP: range is full"))?,
            };
            if !had.addresses.contains(&address) {
                reservation.take.push((address_key(&address), address_object(address, &owner)?));
            }
            spec.cluster_ip = Some(address.to_string());
            spec.cluster_ips = Some(vec![address.to_string()]);
        }
        let mut taken: BTreeSet<u16> = BTreeSet::new();
        if needs_node_port(spec) {
            self.allocate_ports(spec, had, &mut taken, reservation).map_err(&refuse)?;
        }
        if needs_health_check_port(spec) {
            let wanted = spec.health_check_node_port.filter(|p| *p != 0);
            let at = path.child("healthCheckNodePort");
            let port = self.port(wanted, had, &taken, reservation, &at).map_err(&refuse)?;
            taken.insert(port);
            spec.health_check_node_port = Some(i32::from(port));
        }
        reservation.take.extend(taken.difference(&had.ports).map(|port| (port_key(*port), port_object(*port))));
        Ok(())
    }

    fn allocate_ports(
        &self,
        spec: &mut ServiceSpec,
        had: &Held,
        taken: &mut BTreeSet<u16>,
        reservation: &Reservation,
    ) -> Result<(), Error> {
        let list = Path::new("spec.ports");
        // Those asked for first, so that no free choice takes them.
        let asked = |p: &k8s_openapi::api::core::v1::ServicePort| p.node_port.filter(|n| *n != 0);
        for (i, port) in spec.ports.iter().flatten().enumerate() {
            if let Some(wanted) = asked(port) {
                let item = list.index(i);
                taken.insert(self.port(Some(wanted), had, &BTreeSet::new(), reservation, &item.child("nodePort"))?);
            }
        }
        for (i, port) in spec.ports.iter_mut().flatten().enumerate() {
            if asked(port).is_none() {
                let item = list.index(i);
                let number = self.port(None, had, taken, reservation, &item.child("nodePort"))?;
                taken.insert(number);
                port.node_port = Some(i32::from(number));
            }
        }
        Ok(())
    }

    fn check_address(&self, ip: &str, had: &Held, reservation: &Reservation) -> Result<IpAddr, String> {
        let address: IpAddr = ip.parse().map_err(|_| "not a valid IP address".to_owned())?;
        if had.addresses.contains(&address) {
            return Ok(address);
        }
        if !self.range.contains(address) {
            let range = self.range.cidr;
            return Err(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
            ));
        }
        if is_lost(reservation, &address_key(&address)) {
            return Err("provided IP is already allocated".to_owned());
        }
        Ok(address)
    }

    fn free_address(&self, reservation: &Reservation) -> Option<IpAddr> {
        self.first_free(reservation, || self.range.candidates(), address_key)
    }

    /// The first candidate nobody is known to hold. What is known may be old, so that when all seem taken some are tried
    /// nevertheless: the transaction finds out.
    fn first_free<T, I: Iterator<Item = T>>(
        &self,
        reservation: &Reservation,
        candidates: impl Fn() -> I,
        key: impl Fn(&T) -> String,
    ) -> Option<T> {
        let not_lost = |candidate: &T| !is_lost(reservation, &key(candidate));
        let free = candidates().find(|candidate| not_lost(candidate) && !(self.is_taken)(&key(candidate)));
        if free.is_some() || reservation.lost.len() >= MOST_DOUBTS {
            return free;
        }
        candidates().find(not_lost)
    }

    /// The port asked for, or any free one.
    fn port(
        &self,
        wanted: Option<i32>,
        had: &Held,
        taken: &BTreeSet<u16>,
        reservation: &Reservation,
        path: &Path<'_>,
    ) -> Result<u16, Error> {
        let lost = |port: u16| is_lost(reservation, &port_key(port));
        if let Some(wanted) = wanted {
            let port = u16::try_from(wanted).ok();
            if let Some(port) = port.filter(|p| had.ports.contains(p)) {
                return Ok(port);
            }
            let (low, high) = (self.node_ports.start(), self.node_ports.end());
            let port = port.filter(|p| self.node_ports.contains(p)).ok_or_else(|| {
                let why = format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
                Error::invalid(path, wanted, why)
            })?;
            if lost(port) || taken.contains(&port) {
                return Err(Error::invalid(path, wanted, "provided port is already allocated"));
            }
            return Ok(port);
        }
        let (low, high) = (*self.node_ports.start(), *self.node_ports.end());
        let start = rand::rng().random_range(low..=high.max(low));
        let usable = |port: &u16| !taken.contains(port) && !had.ports.contains(port);
        self.first_free(reservation, || (start..=high).chain(low..start).filter(usable), |port| port_key(*port))
            .ok_or_else(|| Error::internal(path, "failed to allocate a nodePort: range is full"))
    }
}

/// The keys of what a stored service holds, with what should lie there.
pub(crate) fn holdings(service: &Service) -> Vec<(String, Vec<u8>)> {
    let held = Held::by(service);
    let addresses = held.addresses.iter().filter_map(|address| {
        // An address and strings: they always serialise.
        Some((address_key(address), address_object(*address, &service.metadata).ok()?))
    });
    addresses.chain(held.ports.iter().map(|port| (port_key(*port), port_object(*port)))).collect()
}

fn is_lost(reservation: &Reservation, key: &str) -> bool {
    reservation.lost.iter().any(|lost| lost == key)
}

fn address_key(address: &IpAddr) -> String {
    format!("{ADDRESS_PREFIX}{address}")
}

fn port_key(port: u16) -> String {
    format!("{NODE_PORT_PREFIX}{port}")
}

/// The `IPAddress` that says which service an address belongs to.
fn address_object(address: IpAddr, owner: &ObjectMeta) -> Result<Vec<u8>, StatusError> {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let labels = [
        ("ipaddress.kubernetes.io/ip-family".to_owned(), family.to_owned()),
        ("ipaddress.kubernetes.io/managed-by".to_owned(), "ipallocator.k8s.io".to_owned()),
    ];
    let object = IPAddress {
        metadata: ObjectMeta {
            name: Some(address.to_string()),
            uid: Some(Uuid::new_v4().to_string()),
            creation_timestamp: Some(Time(owner.creation_timestamp.as_ref().map_or_else(Timestamp::now, |t| t.0))),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: Some(IPAddressSpec {
            parent_ref: ParentReference {
                group: Some(String::new()),
                resource: "services".to_owned(),
                namespace: owner.namespace.clone(),
                name: owner.name.clone().unwrap_or_default(),
            },
        }),
    };
    serde_json::to_vec(&object).map_err(StatusError::internal_error)
}

/// A range of the one port.
fn port_object(port: u16) -> Vec<u8> {
    let name = port.to_string();
    let object = json!({
        "kind": "RangeAllocation", "apiVersion": "v1", "metadata": {"name": name}, "range": name, "data": "AQ==",
    });
    object.to_string().into_bytes()
}

/// What a service holds.
#[derive(Debug, Default)]
struct Held {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Held {
    fn by(service: &Service) -> Held {
        let Some(spec) = &service.spec else { return Held::default() };
        let numbers = spec.ports.iter().flatten().filter_map(|p| p.node_port).chain(spec.health_check_node_port);
        Held {
            addresses: spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect(),
            ports: numbers.filter_map(|n| u16::try_from(n).ok()).filter(|n| *n != 0).collect(),
        }
    }
}

/// The addresses services may have.
struct AddressRange {
    cidr: IpNet,
    first: u128,
    /// How many addresses follow the first usable one, itself included.
    size: u128,
    /// The lower part that free choices leave to those who ask for an address by name (KEP-3070).
    reserved: u128,
}

/// More addresses than this are not looked through for a free one.
const MOST_TRIES: usize = 1 << 16;

impl AddressRange {
    fn new(cidr: IpNet) -> Self {
        let (bits, network) = match cidr.trunc() {
            IpNet::V4(net) => (32 - net.prefix_len(), u128::from(u32::from(net.network()))),
            IpNet::V6(net) => (128 - net.prefix_len(), u128::from(net.network())),
        };
        // The network's own address is never given out, nor is an IPv4 broadcast address.
        let all = 1_u128 << bits.min(64);
        let unusable = if matches!(cidr, IpNet::V4(_)) { 2 } else { 1 };
        let size = all.saturating_sub(unusable);
        let reserved = if size < 16 { 0 } else { (size / 16).clamp(16, 256).min(size / 2) };
        AddressRange { cidr, first: network + 1, size, reserved }
    }

    fn contains(&self, address: IpAddr) -> bool {
        let value = match (address, self.cidr) {
            (IpAddr::V4(ip), IpNet::V4(_)) => u128::from(u32::from(ip)),
            (IpAddr::V6(ip), IpNet::V6(_)) => u128::from(ip),
            _ => return false,
        };
        value >= self.first && value - self.first < self.size
    }

    /// Addresses to try: from a random one of the upper part around, then the lower part.
    fn candidates(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let (low, high) = (self.reserved, self.size);
        let start = if high > low { rand::rng().random_range(low..high) } else { low };
        let offsets = (start..high).chain(low..start).chain(0..low);
        offsets.take(MOST_TRIES).filter_map(|offset| self.nth(offset))
    }

    fn nth(&self, offset: u128) -> Option<IpAddr> {
        let value = self.first + offset;
        match self.cidr {
            IpNet::V4(_) => u32::try_from(value).ok().map(|v| IpAddr::V4(Ipv4Addr::from(v))),
            IpNet::V6(_) => Some(IpAddr::V6(Ipv6Addr::from(value))),
        }
    }
}

//! Cluster IPs and node ports. Each is a key of its own, taken in the same transaction that writes the service, so no two
//! services can ever hold the same. A cluster IP's key is the `IPAddress` object upstream keeps for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
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

use super::families::{self, family_of};
use super::{needs_cluster_ip, needs_health_check_port, needs_node_port};
use crate::registry::checks::text;
use crate::registry::strategy::{Change, Reservation};

mod ranges;

use ranges::AddressRange;
pub(crate) use ranges::{DEFAULT as DEFAULT_RANGE, usable};

/// Where the addresses of services are kept.
pub(crate) const ADDRESS_PREFIX: &str = "/registry/ipaddresses/";
/// Where the node ports of services are kept, one key a port.
pub(crate) const NODE_PORT_PREFIX: &str = "/registry/ranges/servicenodeports/";

/// So many losses are taken for doubt about what is known to be taken; after them a range is full.
const MOST_DOUBTS: usize = 32;

/// Tells whether a key exists, as far as is known here. A wrong answer costs another attempt, nothing more.
pub(crate) type IsTaken = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The networks addresses may come from at the moment, in the order in which they are tried.
pub(crate) type Networks = Box<dyn Fn() -> Vec<IpNet> + Send + Sync>;

/// What services get their addresses and ports from.
pub(crate) struct Allocators {
    families: Vec<&'static str>,
    networks: Networks,
    node_ports: RangeInclusive<u16>,
    is_taken: IsTaken,
}

impl Allocators {
    /// For a cluster with the families of these ranges, the primary one first.
    pub(crate) fn new(
        configured: &[IpNet],
        networks: Networks,
        node_ports: RangeInclusive<u16>,
        is_taken: IsTaken,
    ) -> Self {
        let families = configured.iter().map(|range| family_of(&range.addr())).collect();
        Allocators { families, networks, node_ports, is_taken }
    }

    /// The address families of the cluster, the primary one first.
    pub(super) fn families(&self) -> &[&'static str] {
        &self.families
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
            self.allocate_addresses(spec, &owner, had, reservation)?;
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

    /// An address for each family of the service: the one asked for, the one it has, or any.
    fn allocate_addresses(
        &self,
        spec: &mut ServiceSpec,
        owner: &ObjectMeta,
        had: &Held,
        reservation: &mut Reservation,
    ) -> Result<(), StatusError> {
        let mut ranges: Option<Vec<AddressRange>> = None;
        let mut ips = families::ips(spec).to_owned();
        for (i, family) in spec.ip_families.iter().flatten().enumerate() {
            let wanted = ips.get(i).filter(|ip| !ip.is_empty());
            let parsed = wanted.map(|ip| ip.parse::<IpAddr>());
            if matches!(&parsed, Some(Ok(address)) if had.addresses.contains(address)) {
                continue;
            }
            let ranges =
                ranges.get_or_insert_with(|| (self.networks)().into_iter().map(AddressRange::new).collect()).iter();
            let address = match parsed {
                Some(parsed) => {
                    let checked = parsed.map_err(|_| "not a valid IP address");
                    checked.and_then(|address| check_address(address, ranges, reservation)).map_err(|why| {
                        let why = format!("failed to allocate IP {}: {why}", ips[i]);
                        let error = Error::invalid(&Path::new("spec.clusterIPs"), &spec.cluster_ips, why);
                        StatusError::invalid("", "Service", text(&owner.name), &[error])
                    })?
                }
                None => {
                    let ranges: Vec<_> = ranges.filter(|range| range.family() == family).copied().collect();
                    let all = || ranges.iter().flat_map(|range| range.candidates());
                    let address = self
                        .first_free(reservation, all, address_key)
                        .ok_or_else(|| StatusError::internal_error("failed to allocate a serviceIP: range is full"))?;
                    ips.truncate(i);
                    ips.push(address.to_string());
                    address
                }
            };
            reservation.take.push((address_key(&address), address_object(address, owner)?));
        }
        spec.cluster_ip = ips.first().cloned();
        spec.cluster_ips = Some(ips);
        Ok(())
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

/// Whether an address that was asked for may be given.
fn check_address<'a>(
    address: IpAddr,
    mut ranges: impl Iterator<Item = &'a AddressRange>,
    reservation: &Reservation,
) -> Result<IpAddr, &'static str> {
    if !ranges.any(|range| range.contains(address)) {
        return Err("the provided network does not match the current range");
    }
    if is_lost(reservation, &address_key(&address)) {
        return Err("provided IP is already allocated");
    }
    Ok(address)
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
    let labels = [
        ("ipaddress.kubernetes.io/ip-family".to_owned(), family_of(&address).to_owned()),
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

//! Which records a name has: the Kubernetes DNS specification 1.1.0, and CoreDNS where it leaves a choice.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;
use rand::seq::SliceRandom;

use crate::index::{Endpoint, Entry, Index, Kind, Port, Service};
use crate::{Error, Result};

/// How long an answer may be kept, in seconds; also for names that do not exist. That of kubeadm's CoreDNS.
pub const TTL: u32 = 30;

/// The version of the specification, which `dns-version` tells.
const VERSION: &str = "1.1.0";

/// Most records of one answer: a name with more endpoints gets as many of them, others each time.
const MOST_RECORDS: usize = 1000;

/// The names this server is the authority for.
#[derive(Debug)]
pub struct Zone {
    domain: Name,
    reverse: Vec<IpNet>,
    /// What `ns.dns.<domain>` stands for.
    addresses: Vec<IpAddr>,
}

/// What there is to say about a name of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
    /// An alias led to this name, which is to be asked for next.
    pub(crate) next: Option<Name>,
}

impl Answer {
    pub(crate) fn failed(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }

    fn of(answers: Vec<Record>) -> Self {
        Self { answers, ..Self::default() }
    }
}

/// What a name is, before its type is looked at.
enum Found {
    /// It does not exist.
    Nothing,
    /// It exists; these are its records of the type asked for, if any.
    Records(Vec<Record>, Vec<Record>),
    /// It is another name.
    Alias(Name),
}

impl Found {
    fn records(records: Vec<Record>) -> Self {
        Self::Records(records, Vec::new())
    }

    /// It exists, without records of its own.
    fn bare() -> Self {
        Self::records(Vec::new())
    }
}

impl Zone {
    /// The authority for `domain` and the reverse names of some ranges; `addresses` are the server's own.
    ///
    /// # Errors
    /// When the domain is the root.
    pub fn new(mut domain: Name, reverse: Vec<IpNet>, addresses: Vec<IpAddr>) -> Result<Self> {
        domain.set_fqdn(true);
        if domain.is_root() {
            return Err(Error::Domain { domain: ".".to_owned(), reason: "it must have a label".to_owned() });
        }
        Ok(Self { domain: domain.to_lowercase(), reverse, addresses })
    }

    /// The cluster's domain, in lower case.
    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// Whether a name is below the cluster's domain.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    /// The answer, from what is known; `None` if the name is for somebody else to answer.
    pub(crate) fn answer(&self, index: &Index, name: &Name, kind: RecordType) -> Option<Answer> {
        if self.contains(name) {
            if !index.is_complete() {
                return Some(Answer::failed(ResponseCode::ServFail));
            }
            let found = self.find(index, name, kind);
            return Some(self.finish(name, kind, found, &self.domain));
        }
        self.reverse(index, name, kind)
    }

    fn finish(&self, name: &Name, kind: RecordType, found: Found, zone: &Name) -> Answer {
        match found {
            Found::Nothing => {
                Answer { code: ResponseCode::NXDomain, authorities: vec![self.soa(zone)], ..Answer::default() }
            }
            Found::Records(answers, _) if answers.is_empty() => {
                Answer { authorities: vec![self.soa(zone)], ..Answer::default() }
            }
            Found::Records(answers, additionals) => Answer { answers, additionals, ..Answer::default() },
            Found::Alias(target) => Answer {
                answers: vec![record(name, RData::CNAME(CNAME(target.clone())))],
                next: (kind != RecordType::CNAME).then_some(target),
                ..Answer::default()
            },
        }
    }

    fn find(&self, index: &Index, name: &Name, kind: RecordType) -> Found {
        let Some(labels) = self.labels(name) else { return Found::Nothing };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => Found::records(match kind {
                RecordType::SOA => vec![self.soa(name)],
                RecordType::NS => vec![record(name, RData::NS(NS(self.server())))],
                _ => Vec::new(),
            }),
            ["dns-version"] => Found::records(match kind {
                RecordType::TXT => vec![record(name, RData::TXT(TXT::new(vec![VERSION.to_owned()])))],
                _ => Vec::new(),
            }),
            ["ns", "dns"] => Found::records(addresses(name, kind, self.addresses.iter())),
            ["dns"] | ["svc"] | ["pod"] => Found::bare(),
            [namespace, "svc"] if index.has_namespace(namespace) => Found::bare(),
            // As CoreDNS's `pods insecure`: no pod is looked at.
            [address, _, "pod"] => match dashed(address) {
                Some(address) => Found::records(addresses(name, kind, std::iter::once(&address))),
                None => Found::Nothing,
            },
            [rest @ .., service, namespace, "svc"] => {
                let Some(entry) = index.get(namespace, service) else { return Found::Nothing };
                let Some(known) = &entry.service else { return Found::Nothing };
                let canonical = [service, *namespace, "svc"];
                self.service(entry, known, rest, &canonical, name, kind)
            }
            _ => Found::Nothing,
        }
    }

    fn service(
        &self,
        entry: &Entry,
        service: &Service,
        rest: &[&str],
        canonical: &[&str; 3],
        name: &Name,
        kind: RecordType,
    ) -> Found {
        if let Kind::External(target) = &service.kind {
            return if rest.is_empty() { Found::Alias(target.clone()) } else { Found::Nothing };
        }
        match rest {
            [] if kind == RecordType::SRV => self.srv(entry, service, canonical, name, |_| true),
            [] => match &service.kind {
                Kind::Cluster(ips) => Found::records(addresses(name, kind, ips.iter())),
                _ => Found::records(addresses(name, kind, entry.endpoints().map(|endpoint| &endpoint.address))),
            },
            [protocol] if protocol.starts_with('_') => {
                let named = |port: &Port| !port.name.is_empty() && port.protocol.label() == &protocol[1..];
                if service.ports.iter().any(named) { Found::bare() } else { Found::Nothing }
            }
            [label] => {
                let same: Vec<&Endpoint> = entry.endpoints().filter(|endpoint| endpoint.label() == *label).collect();
                if same.is_empty() {
                    return Found::Nothing;
                }
                Found::records(addresses(name, kind, same.into_iter().map(|endpoint| &endpoint.address)))
            }
            [port, protocol] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
                    return Found::Nothing;
                };
                let named = |known: &Port| &*known.name == port && known.protocol.label() == protocol;
                if port.is_empty() || !service.ports.iter().any(named) {
                    return Found::Nothing;
                }
                match kind {
                    RecordType::SRV => self.srv(entry, service, canonical, name, named),
                    _ => Found::bare(),
                }
            }
            _ => Found::Nothing,
        }
    }

    /// A Service's ports, and the addresses of where they are.
    fn srv(
        &self,
        entry: &Entry,
        service: &Service,
        canonical: &[&str; 3],
        name: &Name,
        wanted: impl Fn(&Port) -> bool,
    ) -> Found {
        let Some(base) = self.below(canonical) else { return Found::bare() };
        let (mut targets, mut extra) = (Vec::new(), Vec::new());
        match &service.kind {
            Kind::Cluster(ips) => {
                targets.extend(service.ports.iter().filter(|port| wanted(port)).map(|port| (base.clone(), port.port)));
                extra.extend(ips.iter().map(|ip| (base.clone(), *ip)));
            }
            _ => {
                for slice in entry.slices() {
                    let ports: Vec<u16> =
                        slice.ports.iter().filter(|port| wanted(port)).map(|port| port.port).collect();
                    for endpoint in slice.endpoints.iter().filter(|_| !ports.is_empty()) {
                        let Ok(target) = base.prepend_label(endpoint.label().as_str()) else { continue };
                        for port in &ports {
                            // An endpoint of two families has one name.
                            if !targets.contains(&(target.clone(), *port)) {
                                targets.push((target.clone(), *port));
                            }
                        }
                        extra.push((target, endpoint.address));
                        if targets.len() >= MOST_RECORDS {
                            break;
                        }
                    }
                }
            }
        }
        targets.shuffle(&mut rand::rng());
        // As CoreDNS: a hundred, shared.
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        let records =
            targets.into_iter().map(|(target, port)| record(name, RData::SRV(SRV::new(0, weight, port, target))));
        let extra = extra.into_iter().map(|(target, ip)| record(&target, ip.into()));
        Found::Records(records.collect(), extra.collect())
    }

    fn reverse(&self, index: &Index, name: &Name, kind: RecordType) -> Option<Answer> {
        let net = name.parse_arpa_name().ok()?;
        let single = net.prefix_len() == net.max_prefix_len();
        let zone =
            self.reverse.iter().find(|range| range.contains(&net.addr()) && range.prefix_len() <= net.prefix_len());
        if !index.is_complete() {
            // Whose it is, is known only later.
            return zone.map(|_| Answer::failed(ResponseCode::ServFail));
        }
        let mut names = Vec::new();
        for (namespace, service) in index.by_address(&net.addr()).iter().filter(|_| single) {
            let Some(entry) = index.get(namespace, service) else { continue };
            let Some(base) = self.below(&[service, namespace, "svc"]) else { continue };
            match entry.service.as_ref().map(|service| &service.kind) {
                Some(Kind::Cluster(_)) => names.push(base),
                Some(Kind::Headless) => {
                    let same = entry.endpoints().filter(|endpoint| endpoint.address == net.addr());
                    names.extend(same.filter_map(|endpoint| base.prepend_label(endpoint.label().as_str()).ok()));
                }
                _ => {}
            }
        }
        names.sort();
        names.dedup();
        names.truncate(MOST_RECORDS);
        let exists = !names.is_empty();
        if exists && kind == RecordType::PTR {
            return Some(Answer::of(names.into_iter().map(|target| record(name, RData::PTR(PTR(target)))).collect()));
        }
        // Absence is said only where nobody else could know.
        let zone = zone?;
        let apex = arpa(zone)?;
        let found = if exists || !single { Found::bare() } else { Found::Nothing };
        Some(self.finish(name, kind, found, &apex))
    }

    /// The labels in front of the domain, in lower case.
    fn labels(&self, name: &Name) -> Option<Vec<String>> {
        let count = usize::from(name.num_labels()).checked_sub(self.domain.num_labels().into())?;
        let text = |label: &[u8]| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
        name.iter().take(count).map(text).collect()
    }

    fn below(&self, labels: &[&str]) -> Option<Name> {
        labels.iter().rev().try_fold(self.domain.clone(), |name, label| name.prepend_label(*label)).ok()
    }

    fn server(&self) -> Name {
        self.below(&["ns", "dns"]).unwrap_or_else(|| self.domain.clone())
    }

    fn soa(&self, zone: &Name) -> Record {
        let mail = self.domain.prepend_label("hostmaster").unwrap_or_else(|_| self.domain.clone());
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        // Serial numbers wrap around.
        let serial = (seconds & u64::from(u32::MAX)) as u32;
        record(zone, RData::SOA(SOA::new(self.server(), mail, serial, 7200, 1800, 86400, TTL)))
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

/// Those of the family that the type asks for, each once, in another order each time.
fn addresses<'a>(name: &Name, kind: RecordType, ips: impl Iterator<Item = &'a IpAddr>) -> Vec<Record> {
    let wanted = |ip: &&IpAddr| match kind {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        _ => false,
    };
    let mut ips: Vec<IpAddr> = ips.filter(wanted).copied().collect();
    ips.sort_unstable();
    ips.dedup();
    ips.shuffle(&mut rand::rng());
    let data = |ip| match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    ips.into_iter().take(MOST_RECORDS).map(|ip| record(name, data(ip))).collect()
}

/// `10-0-0-1` or `2001-db8--1`.
fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = || label.replace('-', ".").parse().ok().map(IpAddr::V4);
    let v6 = || label.replace('-', ":").parse().ok().map(IpAddr::V6);
    v4().or_else(v6)
}

/// The reverse zone a range lies in: that of the whole labels of its prefix.
fn arpa(range: &IpNet) -> Option<Name> {
    let (labels, suffix): (Vec<String>, _) = match range {
        IpNet::V4(net) => {
            let count = usize::from(net.prefix_len() / 8);
            (net.network().octets().iter().take(count).rev().map(u8::to_string).collect(), "in-addr.arpa.")
        }
        IpNet::V6(net) => {
            let count = usize::from(net.prefix_len() / 4);
            let octets = net.network().octets();
            let nibbles: Vec<u8> = octets.iter().flat_map(|octet| [octet >> 4, octet & 15]).collect();
            (nibbles.iter().take(count).rev().map(|nibble| format!("{nibble:x}")).collect(), "ip6.arpa.")
        }
    };
    let text: String = labels.into_iter().map(|label| label + ".").collect();
    Name::from_ascii(text + suffix).ok()
}

#[cfg(test)]
mod tests;

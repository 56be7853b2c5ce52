//! From a frontend to the backends that may be chosen, as `ebpf/src/lookup.rs` does it.

use std::{collections::BTreeMap, time::Duration};

use aya::maps::{MapError, lpm_trie::Key};
use skep_ebpf_common::{
    Address, AffinityKey, BackendValue, FrontendKey, FrontendValue, Segment, ServiceValue, SlotKey, SourceRange,
    address_bits, kind, load::two_places, service_flags, unspecified,
};

use super::{Steps, kind_name, since_boot};
use crate::{
    Error, Result, loads,
    maps::{LOADS, Reader},
    service::{Frontend, from_map},
};

/// How often a lookup is tried when it meets a service in the middle of a change.
const ATTEMPTS: u32 = 4;

/// Why nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    NoPort,
    NoEndpoints,
    NoLocalEndpoints,
    SourceDenied,
    Torn,
}

/// Who asks.
pub(super) struct Asker {
    /// Does it come from outside of the cluster?
    external: bool,
    /// The client as affinity and source ranges know it; `None` if that is not known.
    address: Option<Address>,
    netns: u64,
    /// What spreads the choices; `None` if it is chance.
    hash: Option<u32>,
}

impl Asker {
    /// A socket in the network namespace with that cookie; zero if it is not known.
    pub(super) fn socket(netns: u64) -> Self {
        Self { external: false, address: (netns != 0).then(|| AffinityKey::netns(netns)), netns, hash: None }
    }

    pub(super) fn packet(source: Address, external: bool, hash: Option<u32>) -> Self {
        Self { external, address: Some(source), netns: 0, hash }
    }
}

/// A backend that may be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) id: u32,
    pub(super) backend: BackendValue,
    /// In how many places it stands.
    pub(super) places: u32,
}

/// What becomes of an address.
pub(super) enum Verdict {
    Pass,
    /// The service, if it is known.
    Refuse(Option<u32>, Reason),
    Backends {
        service: u32,
        kind: u32,
        choices: Vec<Choice>,
    },
}

/// What the maps say of one address and port.
#[derive(Clone, Copy)]
enum Found {
    Frontend(FrontendValue),
    Pass,
    NoPort,
    Torn,
}

impl Reader {
    /// All that may be chosen for `key`.
    pub(super) fn look_up(&self, key: &FrontendKey, asker: &Asker, steps: &mut Steps) -> Result<Verdict> {
        let mut reason = Reason::Torn;
        let before = steps.0.len();
        for _ in 0..ATTEMPTS {
            steps.0.truncate(before);
            let frontend = match self.find(key, asker, steps)? {
                Found::Frontend(frontend) => frontend,
                Found::Pass => return Ok(Verdict::Pass),
                Found::NoPort => {
                    reason = Reason::NoPort;
                    continue;
                }
                Found::Torn => {
                    reason = Reason::Torn;
                    continue;
                }
            };
            reason = Reason::Torn;
            if let Some(verdict) = self.serve(&frontend, asker, steps)? {
                return Ok(verdict);
            }
        }
        Ok(Verdict::Refuse(None, reason))
    }

    /// Whose is that address and port?
    fn find(&self, key: &FrontendKey, asker: &Asker, steps: &mut Steps) -> Result<Found> {
        let exact = self.frontend(key, steps)?;
        // A host port at one address counts only at this node's own, and after a Service's node port.
        let host_port = matches!(exact, Some(Found::Frontend(value)) if value.kind == kind::HOST_PORT);
        if let Some(found) = exact
            && !host_port
        {
            return Ok(found);
        }
        let address = from_map(key.address);
        let Some(known) = self.maps.addresses.get(&key.address)? else {
            steps.add("ADDRESSES", format_args!("{address} is no Service's and not this node's"));
            return Ok(Found::Pass);
        };
        if known.bits & address_bits::NODE != 0 {
            if known.netns == 0 || known.netns == asker.netns {
                steps.add("ADDRESSES", format_args!("{address} is this node's own: node ports are served there"));
                let any = FrontendKey { address: unspecified(&key.address), ..*key };
                match self.frontend(&any, steps)? {
                    Some(Found::Frontend(value)) if host_port && value.kind == kind::HOST_PORT => {}
                    Some(found) => return Ok(found),
                    None => {}
                }
                if let Some(found) = exact {
                    return Ok(found);
                }
            } else {
                steps.add("ADDRESSES", format_args!("{address} is this node's only in another network namespace"));
            }
        }
        if known.bits & address_bits::WHOLE != 0 {
            steps.add("ADDRESSES", format_args!("{address} is a Service's own, which has no such port"));
            return Ok(Found::NoPort);
        }
        if known.bits & address_bits::PARTIAL != 0 {
            steps.add("ADDRESSES", format_args!("{address} is a Service's, but not its alone: other ports pass"));
        }
        Ok(Found::Pass)
    }

    fn frontend(&self, key: &FrontendKey, steps: &mut Steps) -> Result<Option<Found>> {
        let shown = Frontend::from_key(key).map_or_else(|| "?".to_owned(), |frontend| frontend.to_string());
        let Some(value) = self.maps.frontends.get(key)? else {
            steps.add("FRONTENDS", format_args!("{shown} is no frontend"));
            return Ok(None);
        };
        if !value.is_sealed_for(key) {
            steps.add("FRONTENDS", format_args!("{shown} has a damaged entry"));
            return Ok(Some(Found::Torn));
        }
        let (kind, name) = (kind_name(value.kind), self.name(value.service)?);
        steps.add("FRONTENDS", format_args!("{shown} is the {kind} of {name} (id {})", value.service));
        Ok(Some(Found::Frontend(value)))
    }

    /// What the service port gives. `None`: the maps do not fit together.
    fn serve(&self, frontend: &FrontendValue, asker: &Asker, steps: &mut Steps) -> Result<Option<Verdict>> {
        let id = frontend.service;
        let service = self.maps.services.get(&id)?.filter(|service| service.is_sealed_for(id));
        let Some(service) = service else {
            steps.add("SERVICES", format_args!("service {id} is missing or damaged"));
            return Ok(None);
        };
        if asker.external && frontend.kind == kind::LOAD_BALANCER && service.flags & service_flags::SOURCE_RANGES != 0 {
            let inside = match asker.address {
                Some(address) => self.in_ranges(id, address)?,
                None => false,
            };
            let word = if inside { "in one of" } else { "in none of" };
            let denies = if service.flags & service_flags::DENY_RANGES != 0 { ", which deny" } else { "" };
            steps.add("SOURCE_RANGES", format_args!("the source is {word} loadBalancerSourceRanges{denies}"));
            if inside == (service.flags & service_flags::DENY_RANGES != 0) {
                return Ok(Some(Verdict::Refuse(Some(id), Reason::SourceDenied)));
            }
        }
        let (name, segment) = segment(&service, frontend.kind, asker.external);
        steps.add(
            "SERVICES",
            format_args!("{} place(s) {name}, generation {}{}", segment.count, service.generation, policies(&service)),
        );
        if segment.count == 0 {
            let any = service.flags & service_flags::HAS_ANY != 0;
            let reason = if any { Reason::NoLocalEndpoints } else { Reason::NoEndpoints };
            return Ok(Some(Verdict::Refuse(Some(id), reason)));
        }
        let choices = match self.remembered(id, &service, asker, steps)? {
            Some(choice) => vec![choice],
            None => self.pick(id, &service, segment, asker, steps)?,
        };
        Ok((!choices.is_empty()).then_some(Verdict::Backends { service: id, kind: frontend.kind, choices }))
    }

    fn in_ranges(&self, service: u32, address: Address) -> Result<bool> {
        match self.maps.source_ranges.get(&Key::new(32 + 128, SourceRange { service, address }), 0) {
            Ok(_) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(Error::map("SOURCE_RANGES")(error)),
        }
    }

    /// The backend that affinity gives the client, if it does.
    fn remembered(&self, id: u32, service: &ServiceValue, asker: &Asker, steps: &mut Steps) -> Result<Option<Choice>> {
        if service.flags & service_flags::AFFINITY == 0 {
            return Ok(None);
        }
        let limit = Duration::from_secs(service.affinity.into());
        let Some(client) = asker.address else {
            steps.add("AFFINITY", format_args!("a client that came in the last {limit:?} keeps its backend"));
            return Ok(None);
        };
        let Some(value) = self.flows.affinity.get(&AffinityKey { client, service: id })? else {
            steps.add("AFFINITY", "the client is new, and will keep its backend");
            return Ok(None);
        };
        let now = u32::try_from(since_boot()?.as_secs()).unwrap_or(u32::MAX);
        let silent = Duration::from_secs(now.saturating_sub(value.used).into());
        if silent >= limit {
            steps.add("AFFINITY", format_args!("the client was here {silent:?} ago, longer than {limit:?}"));
            return Ok(None);
        }
        let Some(backend) = self.backend(value.backend, id)? else {
            steps.add("AFFINITY", "the client's former backend is gone");
            return Ok(None);
        };
        steps.add("AFFINITY", format_args!("the client was here {silent:?} ago and keeps its backend"));
        Ok(Some(Choice { id: value.backend, backend, places: 0 }))
    }

    /// What the places of the segment hold, or the one place where the hash falls.
    fn pick(
        &self,
        id: u32,
        service: &ServiceValue,
        segment: Segment,
        asker: &Asker,
        steps: &mut Steps,
    ) -> Result<Vec<Choice>> {
        let counts = self.paths.maps.join(LOADS).exists() && segment.count > 1;
        let places: Vec<u32> = match asker.hash {
            None => (0..segment.count).collect(),
            Some(hash) if counts => {
                let [first, second] = two_places(hash, segment.count);
                steps.add("SLOTS", format_args!("the packet's hash falls on the places {first} and {second}"));
                vec![self.less_loaded(id, service, segment, [first, second], steps)?]
            }
            Some(hash) => {
                // Less than the count, which has 32 bits.
                let place = ((u64::from(hash) * u64::from(segment.count)) >> 32) as u32;
                steps.add("SLOTS", format_args!("the packet's hash falls on place {place}"));
                vec![place]
            }
        };
        if counts && asker.hash.is_none() {
            steps.add("LOADS", "of two places chosen by chance the one with fewer open connections is taken");
        }
        let mut choices: BTreeMap<u32, Choice> = BTreeMap::new();
        let mut holes = 0;
        for place in places {
            let Some((id, backend)) = self.at(id, service, segment, place)? else {
                holes += 1;
                continue;
            };
            choices.entry(id).or_insert(Choice { id, backend, places: 0 }).places += 1;
        }
        if holes > 0 {
            steps.add("SLOTS", format_args!("{holes} place(s) lead nowhere: a change is under way, or damage"));
        }
        Ok(choices.into_values().collect())
    }

    /// Of two places the one whose backend has fewer open connections.
    fn less_loaded(
        &self,
        id: u32,
        service: &ServiceValue,
        segment: Segment,
        [first, second]: [u32; 2],
        steps: &mut Steps,
    ) -> Result<u32> {
        let load = |place| -> Result<Option<u64>> {
            let Some((_, backend)) = self.at(id, service, segment, place)? else { return Ok(None) };
            loads::of(&self.paths.maps, &backend)
        };
        let (Some(one), other) = (load(first)?, load(second)?) else { return Ok(first) };
        // The second is not looked at when the first has none; a hole there is met only then.
        let Some(other) = other.filter(|_| one > 0) else { return Ok(if one > 0 { second } else { first }) };
        steps.add("LOADS", format_args!("their backends have {one} and {other} open connection(s)"));
        Ok(if other < one { second } else { first })
    }

    /// The backend in a place of the segment.
    fn at(&self, id: u32, service: &ServiceValue, segment: Segment, place: u32) -> Result<Option<(u32, BackendValue)>> {
        let key = SlotKey { service: id, generation: service.generation, slot: segment.start.wrapping_add(place) };
        let Some(slot) = self.maps.slots.get(&key)?.filter(|slot| slot.is_sealed_for(&key)) else { return Ok(None) };
        Ok(self.backend(slot.backend, id)?.map(|backend| (slot.backend, backend)))
    }

    /// The backend with that id, if it (still) belongs to that service.
    pub(super) fn backend(&self, id: u32, service: u32) -> Result<Option<BackendValue>> {
        let backend = self.maps.backends.get(&id)?;
        Ok(backend.filter(|backend| backend.is_sealed_for(id) && backend.service == service))
    }
}

/// What this traffic may use, in words and in places.
fn segment(service: &ServiceValue, kind: u32, external: bool) -> (&'static str, Segment) {
    if kind == kind::CLUSTER_IP {
        ("for clients at the ClusterIP", service.internal)
    } else if !external {
        ("for clients inside the cluster", service.cluster)
    } else if service.flags & service_flags::MAGLEV != 0 {
        ("in the Maglev table for clients outside", service.maglev)
    } else {
        ("for clients outside the cluster", service.external)
    }
}

fn policies(service: &ServiceValue) -> String {
    let mut text = String::new();
    for (flag, name) in [
        (service_flags::INTERNAL_LOCAL, "internalTrafficPolicy Local"),
        (service_flags::EXTERNAL_LOCAL, "externalTrafficPolicy Local"),
        (service_flags::AFFINITY, "sessionAffinity ClientIP"),
    ] {
        if service.flags & flag != 0 {
            text += ", ";
            text += name;
        }
    }
    text
}

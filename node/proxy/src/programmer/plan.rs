//! Which slots a service port has, and what each kind of traffic chooses from.

use std::collections::HashMap;

use skep_ebpf_common::{Segment, ServiceValue, service_flags};

use super::Placed;
use crate::service::{Backend, Service};

/// One generation, before it has its number.
#[derive(Debug)]
pub(super) struct Plan {
    /// The entry of the service port, without generation and seal.
    pub(super) value: ServiceValue,
    /// Backend ids in slot order.
    pub(super) slots: Vec<u32>,
}

impl Plan {
    /// How many slots a service port needs.
    pub(super) fn slots(service: &Service) -> usize {
        let table = if choice(service).is_empty() { 0 } else { service.maglev as usize };
        service.weighted().map(|(_, places)| places as usize).sum::<usize>() + local(service).len() + table
    }

    /// The backends of both lists, then the Maglev table. `placed` has every backend of `service`.
    pub(super) fn new(service: &Service, placed: &[Placed]) -> Self {
        let ids: HashMap<Backend, u32> = placed.iter().map(|placed| (placed.backend, placed.id)).collect();
        let mut slots = Vec::with_capacity(Self::slots(service));
        let mut segment = |backends: &mut dyn Iterator<Item = &Backend>| {
            let start = slots.len() as u32;
            slots.extend(backends.filter_map(|backend| ids.get(backend)));
            Segment { start, count: slots.len() as u32 - start }
        };
        let repeated = |(backend, places)| std::iter::repeat_n(backend, places as usize);
        let cluster = segment(&mut service.weighted().flat_map(repeated));
        let local = segment(&mut local(service).iter());
        let choice = choice(service);
        let table = if service.maglev == 0 {
            Vec::new()
        } else {
            crate::maglev::table(choice, places(service), service.maglev)
        };
        let maglev = segment(&mut table.iter().filter_map(|place| choice.get(*place as usize)));
        let mut flags = 0;
        for (set, flag) in [
            (service.affinity.is_some(), service_flags::AFFINITY),
            (!service.source_ranges.is_empty(), service_flags::SOURCE_RANGES),
            (service.deny_ranges, service_flags::DENY_RANGES),
            (service.maglev != 0, service_flags::MAGLEV),
            (service.external_local, service_flags::EXTERNAL_LOCAL),
            (service.internal_local, service_flags::INTERNAL_LOCAL),
            (!service.cluster.is_empty(), service_flags::HAS_ANY),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let value = ServiceValue {
            generation: 0,
            cluster,
            internal: if service.internal_local { local } else { cluster },
            external: if service.external_local { local } else { cluster },
            maglev,
            flags,
            affinity: service.affinity.unwrap_or_default(),
            seal: 0,
        };
        Self { value, slots }
    }
}

/// The backends of this node, if a policy asks for them.
fn local(service: &Service) -> &[Backend] {
    if service.internal_local || service.external_local { &service.local } else { &[] }
}

/// In how many places each of those stands; empty: in one.
fn places(service: &Service) -> &[u32] {
    if service.external_local { &[] } else { &service.places }
}

/// What external traffic chooses from.
fn choice(service: &Service) -> &[Backend] {
    if service.external_local { &service.local } else { &service.cluster }
}

//! What happened between two looks at the maps.

use std::{collections::HashMap, fmt, net::SocketAddr};

use anyhow::Result;
use serde::Serialize;
use skep_proxy::{
    Protocol,
    maps::{
        Reader,
        reader::{ServiceRecord, conntrack::FlowRecord, status::DropRecord},
    },
};

/// What the maps say at one time.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) flows: Vec<FlowRecord>,
    pub(crate) drops: Vec<DropRecord>,
    pub(crate) services: Vec<ServiceRecord>,
}

impl Look {
    pub(crate) fn take(reader: &Reader) -> Result<Self> {
        let reader = &reader.reopen()?;
        Ok(Self { flows: reader.flows()?, drops: reader.drops()?, services: reader.services()? })
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub(crate) enum Change {
    /// A connection of the per-packet path that was not there before.
    Opened(FlowRecord),
    /// It stands elsewhere.
    Moved(FlowRecord),
    /// Its entries are gone: over, or pushed out by newer ones.
    Forgotten(FlowRecord),
    /// Packets that ended in a program of a device.
    Dropped(DropRecord),
    /// A Service was chosen from, at sockets and by packets alike.
    #[serde(rename_all = "camelCase")]
    Served { service: ServiceName, connections: u64, backends: Vec<Chosen> },
    /// A Service had no backend to give.
    Refused { service: ServiceName, attempts: u64 },
}

/// Whose port it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceName {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port_name: String,
}

impl ServiceName {
    pub(crate) fn of(service: &ServiceRecord) -> Self {
        Self { namespace: service.namespace.clone(), name: service.name.clone(), port_name: service.port_name.clone() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port_name.is_empty() { Ok(()) } else { write!(f, ":{}", self.port_name) }
    }
}

/// A backend and how often it was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Chosen {
    pub(crate) address: SocketAddr,
    pub(crate) connections: u64,
}

/// Everything that happened from one look to the next.
pub(crate) fn between(before: &Look, after: &Look) -> Vec<Change> {
    let mut changes = flows(&before.flows, &after.flows);
    changes.extend(drops(&before.drops, &after.drops));
    changes.extend(services(&before.services, &after.services));
    changes
}

type Key = (Protocol, SocketAddr, SocketAddr, SocketAddr);

fn flows(before: &[FlowRecord], after: &[FlowRecord]) -> Vec<Change> {
    let key = |flow: &FlowRecord| -> Key { (flow.protocol, flow.client, flow.frontend, flow.backend) };
    let mut old: HashMap<Key, &FlowRecord> = before.iter().map(|flow| (key(flow), flow)).collect();
    let mut changes = Vec::new();
    for flow in after {
        match old.remove(&key(flow)) {
            // One that is over was so before anybody looked.
            None if !flow.over => changes.push(Change::Opened(flow.clone())),
            Some(known) if known.state != flow.state => changes.push(Change::Moved(flow.clone())),
            _ => {}
        }
    }
    // In the order of before.
    let gone = before.iter().filter(|flow| old.contains_key(&key(flow)));
    changes.extend(gone.cloned().map(Change::Forgotten));
    changes
}

fn drops(before: &[DropRecord], after: &[DropRecord]) -> Vec<Change> {
    let known = |reason: &str| before.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.packets);
    let new = after.iter().filter_map(|drop| {
        let packets = drop.packets.saturating_sub(known(drop.reason));
        (packets > 0).then_some(Change::Dropped(DropRecord { reason: drop.reason, packets }))
    });
    new.collect()
}

fn services(before: &[ServiceRecord], after: &[ServiceRecord]) -> Vec<Change> {
    let old: HashMap<u32, &ServiceRecord> = before.iter().map(|service| (service.id, service)).collect();
    let mut changes = Vec::new();
    for service in after {
        let known = old.get(&service.id);
        let connections = service.connections.saturating_sub(known.map_or(0, |known| known.connections));
        let attempts = service.refused.saturating_sub(known.map_or(0, |known| known.refused));
        if connections > 0 {
            let backends = chosen(known.copied(), service);
            changes.push(Change::Served { service: ServiceName::of(service), connections, backends });
        }
        if attempts > 0 {
            changes.push(Change::Refused { service: ServiceName::of(service), attempts });
        }
    }
    changes
}

fn chosen(before: Option<&ServiceRecord>, after: &ServiceRecord) -> Vec<Chosen> {
    let old: HashMap<u32, u64> =
        before.iter().flat_map(|service| &service.backends).map(|backend| (backend.id, backend.connections)).collect();
    let new = after.backends.iter().filter_map(|backend| {
        let connections = backend.connections.saturating_sub(old.get(&backend.id).copied().unwrap_or_default());
        (connections > 0).then_some(Chosen { address: backend.address, connections })
    });
    new.collect()
}

#[cfg(test)]
mod tests {
    use skep_proxy::maps::reader::BackendRecord;

    use super::*;

    fn flow(port: u16, state: &'static str) -> FlowRecord {
        FlowRecord {
            answers: "here",
            protocol: Protocol::Tcp,
            client: SocketAddr::new([192, 0, 2, 9].into(), port),
            frontend: "192.0.2.1:30080".parse().unwrap(),
            backend: "10.1.0.5:8080".parse().unwrap(),
            source: SocketAddr::new([192, 0, 2, 9].into(), port),
            service: None,
            state,
            idle_seconds: 0,
            remembered_seconds: 60,
            over: false,
            entries: "both",
        }
    }

    fn service(connections: u64, refused: u64, backends: &[(u32, u64)]) -> ServiceRecord {
        let backend = |(id, connections): &(u32, u64)| BackendRecord {
            id: *id,
            address: SocketAddr::new([10, 1, 0, *id as u8].into(), 80),
            local: true,
            connections: *connections,
        };
        ServiceRecord {
            namespace: "default".into(),
            name: "web".into(),
            port_name: String::new(),
            frontends: Vec::new(),
            id: 7,
            generation: 1,
            connections,
            refused,
            affinity_seconds: None,
            backends: backends.iter().map(backend).collect(),
        }
    }

    #[test]
    fn connections_open_move_on_and_are_forgotten() {
        let before =
            Look { flows: vec![flow(1, "opening"), flow(2, "established"), flow(3, "closed")], ..Look::default() };
        let now =
            vec![flow(1, "established"), FlowRecord { idle_seconds: 9, ..flow(2, "established") }, flow(4, "opening")];
        let over = FlowRecord { over: true, ..flow(5, "opening") };
        let after = Look { flows: [now, vec![over]].concat(), ..Look::default() };
        let wanted = [
            Change::Moved(flow(1, "established")),
            Change::Opened(flow(4, "opening")),
            Change::Forgotten(flow(3, "closed")),
        ];
        assert_eq!(between(&before, &after), wanted);
        assert_eq!(between(&after, &after), []);
    }

    #[test]
    fn counters_become_what_was_added_to_them() {
        let drop = |packets| vec![DropRecord { reason: "no-route", packets }];
        let before = Look { drops: drop(3), services: vec![service(10, 0, &[(1, 6), (2, 4)])], ..Look::default() };
        let after = Look { drops: drop(5), services: vec![service(12, 1, &[(2, 5), (3, 1)])], ..Look::default() };
        let name = ServiceName { namespace: "default".into(), name: "web".into(), port_name: String::new() };
        let chosen = |id: u8| Chosen { address: SocketAddr::new([10, 1, 0, id].into(), 80), connections: 1 };
        let wanted = [
            Change::Dropped(DropRecord { reason: "no-route", packets: 2 }),
            Change::Served { service: name.clone(), connections: 2, backends: vec![chosen(2), chosen(3)] },
            Change::Refused { service: name, attempts: 1 },
        ];
        assert_eq!(between(&before, &after), wanted);
        // A service whose number another one took over begins at zero: nothing is made up.
        let restarted = Look { services: vec![service(1, 0, &[])], ..Look::default() };
        assert_eq!(between(&Look { services: after.services, ..Look::default() }, &restarted), []);
    }
}

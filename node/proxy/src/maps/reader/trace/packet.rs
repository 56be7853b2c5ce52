//! Packets, as `ebpf/src/tc/track.rs` treats them. The routing of the kernel is not asked: what has no route is dropped
//! after all that is said here.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::maps::{Array, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use skep_ebpf_common::{
    Address, BackendValue, FrontendKey, SCTP, TCP, UDP,
    conntrack::{self, Flow, Node, Reply, Tuple, inside},
    kind,
    packet::Drop,
    port,
};

use super::{
    Candidate, Outcome, Question, Steps, key,
    lookup::{Asker, Choice, Reason, Verdict},
    since_boot,
};
use crate::{
    Error, Result,
    maps::{FLOWS, INSIDE, REPLIES, Reader, Table},
    service::{from_map, to_map},
};

/// The maps that only programs use that see packets.
struct PacketMaps {
    flows: Table<Tuple, Flow>,
    replies: Table<Tuple, Reply>,
    node: Array<MapData, Node>,
    inside: LpmTrie<MapData, Address, u32>,
}

impl PacketMaps {
    /// `None` where the node serves sockets only.
    fn open(folder: &Path) -> Result<Option<Self>> {
        if !folder.join(FLOWS).exists() {
            return Ok(None);
        }
        let open = |name: &'static str| {
            let data = MapData::from_pin(folder.join(name)).map_err(Error::map(name))?;
            Map::from_map_data(data).map_err(Error::map(name))
        };
        Ok(Some(Self {
            flows: Table::open(folder, FLOWS)?,
            replies: Table::open(folder, REPLIES)?,
            node: open("NODE")?.try_into().map_err(Error::map("NODE"))?,
            inside: open(INSIDE)?.try_into().map_err(Error::map(INSIDE))?,
        }))
    }

    fn is_inside(&self, address: Address) -> Result<bool> {
        Ok(self.known_as(address)?.is_some())
    }

    /// What the address is in the cluster: one of [`inside`].
    fn known_as(&self, address: Address) -> Result<Option<u32>> {
        match self.inside.get(&Key::new(128, address), 0) {
            Ok(what) => Ok(Some(what)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::map(INSIDE)(error)),
        }
    }

    /// Does a backend elsewhere answer that client itself?
    fn is_direct(&self, node: &Node, frontend: &FrontendKey, kind: u32, client: Address) -> Result<bool> {
        let bit = if frontend.protocol == TCP { Node::DSR_TCP } else { Node::DSR_UDP };
        let may_be_told = match kind {
            kind::LOAD_BALANCER | kind::EXTERNAL_IP => true,
            kind::NODE_PORT => self.known_as(frontend.address)? == Some(inside::NODE),
            _ => false,
        };
        let may_be_told = may_be_told && frontend.protocol != SCTP;
        let is_known = frontend.protocol != SCTP;
        Ok(is_known && node.dsr & bit != 0 && may_be_told && !self.is_inside(client)?)
    }
}

type Ended = (Option<u32>, Outcome);

impl Reader {
    /// The first packet of a connection from there, by a device of the node (`external`) or of a pod.
    pub(super) fn trace_packet(
        &self,
        question: &Question,
        (client, client_port): (IpAddr, Option<u16>),
        external: bool,
        steps: &mut Steps,
    ) -> Result<Ended> {
        if is_nobody(client) {
            steps.add("-", format_args!("nobody sends from {client}: left to the stack"));
            return Ok((None, Outcome::Passes));
        }
        let Some(maps) = PacketMaps::open(&self.paths.maps)? else {
            steps.add("-", "no program sees packets on this node: only sockets are served");
            return Ok((None, Outcome::Passes));
        };
        let source = to_map(client);
        let frontend = key(question);
        let tuple = client_port.map(|client_port| Tuple {
            source,
            destination: frontend.address,
            source_port: port(client_port),
            destination_port: frontend.port,
            protocol: frontend.protocol,
            pad: [0; 3],
        });
        if let Some(tuple) = &tuple
            && let Some(ended) = self.tracked(&maps, tuple, steps)?
        {
            return Ok(ended);
        }
        // All that has frontends is among the addresses; only what may leave the cluster is looked at further.
        let stays = external || node(&maps)?.masquerade == 0 || maps.is_inside(frontend.address)?;
        if self.maps.addresses.get(&frontend.address)?.is_none() && stays {
            steps.add("ADDRESSES", format_args!("{} is no Service's and not this node's", question.to.ip()));
            return Ok((None, Outcome::Passes));
        }
        let asker = Asker::packet(source, external, tuple.map(|tuple| tuple.hash()));
        Ok(match self.look_up(&frontend, &asker, steps)? {
            Verdict::Pass if !external => (None, leave(&maps, question, steps)?),
            Verdict::Pass => (None, Outcome::Passes),
            Verdict::Refuse(service, reason @ (Reason::NoPort | Reason::NoEndpoints)) => {
                (service, Outcome::Refused { reason: reason.name() })
            }
            Verdict::Refuse(service, reason) => (service, Outcome::Dropped { reason: reason.name() }),
            Verdict::Backends { service, kind, choices } => {
                let node = node(&maps)?;
                let direct = external && maps.is_direct(&node, &frontend, kind, source)?;
                if direct {
                    steps.add("NODE", "backends on other nodes answer the client themselves");
                }
                let mut candidates = Vec::new();
                for choice in &choices {
                    let taken = match tuple.as_ref().filter(|_| direct) {
                        Some(tuple) => is_taken(&maps, choice, tuple)?,
                        None => false,
                    };
                    if taken {
                        steps.add(REPLIES, "it answers another connection from that port of the client: not this one");
                    }
                    let external = external && (!direct || taken);
                    candidates.push(candidate(choice, question, &node, client, kind, external));
                }
                if candidates.iter().any(|candidate| candidate.source.is_some()) {
                    steps.add("NODE", "backends that would answer past this node see its address");
                }
                (Some(service), ended(candidates))
            }
        })
    }

    /// What connection tracking knows of a packet. `None`: the flow is new.
    fn tracked(&self, maps: &PacketMaps, tuple: &Tuple, steps: &mut Steps) -> Result<Option<Ended>> {
        let now = u64::try_from(since_boot()?.as_nanos()).unwrap_or(u64::MAX);
        let fresh = |used: u64, state: u32| now.saturating_sub(used) <= conntrack::timeout(tuple.protocol, state);
        if let Some(reply) = maps.replies.get(tuple)?.filter(|reply| reply.is_sealed_for(tuple)) {
            let flow = maps.flows.get(&reply.flow_key(tuple))?;
            if fresh(reply.used, reply.state) || flow.is_some_and(|flow| fresh(flow.used, reply.state)) {
                steps.add(REPLIES, "it answers a connection that is known");
                let from = SocketAddr::new(from_map(reply.frontend), u16::from_be(reply.frontend_port));
                let to = SocketAddr::new(from_map(reply.client), u16::from_be(reply.client_port));
                return Ok(Some((flow.map(|flow| flow.service), Outcome::Answer { from, to })));
            }
        }
        let Some(flow) = maps.flows.get(tuple)?.filter(|flow| flow.is_sealed_for(tuple)) else {
            steps.add(FLOWS, "the flow is new");
            return Ok(None);
        };
        let reply_key = flow.reply_key(tuple);
        let reply = maps.replies.get(&reply_key)?.filter(|reply| reply.is_sealed_for(&reply_key));
        let backend = self.backend(flow.backend, flow.service)?;
        let alive = fresh(flow.used, flow.state) || reply.is_some_and(|reply| fresh(reply.used, flow.state));
        if (tuple.protocol != UDP && conntrack::is_closing(flow.state))
            || (flow.service != 0 && backend.is_none())
            || !alive
        {
            steps.add(FLOWS, "a flow from that port is over, or its backend gone: the choice is made anew");
            return Ok(None);
        }
        steps.add(FLOWS, "the flow is known and goes on to its backend");
        let seen = *flow.source(tuple).0;
        let source = (seen != tuple.source).then(|| from_map(seen));
        if flow.service == 0 {
            return Ok(Some((None, Outcome::Masqueraded { source: from_map(flow.from) })));
        }
        let candidate = Candidate {
            id: flow.backend,
            address: SocketAddr::new(from_map(flow.to), u16::from_be(flow.to_port)),
            local: backend.is_some_and(|backend| backend.flags & BackendValue::LOCAL != 0),
            places: 0,
            source,
            tunnel_source: None,
            dropped: None,
        };
        Ok(Some((Some(flow.service), Outcome::Backends { candidates: vec![candidate] })))
    }
}

/// What becomes of a pod's packet to an address that is no Service's.
fn leave(maps: &PacketMaps, question: &Question, steps: &mut Steps) -> Result<Outcome> {
    let node = node(maps)?;
    if node.masquerade == 0 {
        return Ok(Outcome::Passes);
    }
    let to = question.to.ip();
    if maps.is_inside(to_map(to))? {
        steps.add(INSIDE, format_args!("{to} is the cluster's own: it goes there as it is"));
        return Ok(Outcome::Passes);
    }
    let own = if to.is_ipv4() { node.ip4 } else { node.ip6 };
    if own == [0; 4] {
        steps.add("NODE", "no address of this node is known for what leaves the cluster");
        return Ok(Outcome::Passes);
    }
    steps.add(INSIDE, format_args!("{to} is outside of the cluster"));
    Ok(Outcome::Masqueraded { source: from_map(own) })
}

/// Does that backend answer another connection from the very same port of the client?
fn is_taken(maps: &PacketMaps, choice: &Choice, tuple: &Tuple) -> Result<bool> {
    let answers = Tuple {
        source: choice.backend.address,
        source_port: choice.backend.port,
        destination: tuple.source,
        destination_port: tuple.source_port,
        ..*tuple
    };
    let Some(reply) = maps.replies.get(&answers)?.filter(|reply| reply.is_sealed_for(&answers)) else {
        return Ok(false);
    };
    let key = reply.flow_key(&answers);
    let used = maps.flows.get(&key)?.map_or(0, |flow| flow.used).max(reply.used);
    let now = u64::try_from(since_boot()?.as_nanos()).unwrap_or(u64::MAX);
    Ok(key != *tuple && now.saturating_sub(used) <= conntrack::timeout(tuple.protocol, reply.state))
}

/// A backend, and the source it sees: the client's, unless its answers must come back here.
fn candidate(
    choice: &Choice,
    question: &Question,
    node: &Node,
    client: IpAddr,
    kind: u32,
    external: bool,
) -> Candidate {
    let mut candidate = Candidate::new(choice.id, &choice.backend, choice.places);
    if candidate.address.ip() != client && (!external || candidate.local) {
        return candidate;
    }
    let (own, tunnel) = if client.is_ipv4() { (node.ip4, node.tunnel4) } else { (node.ip6, node.tunnel6) };
    candidate.source = if own != [0; 4] {
        Some(from_map(own))
    } else if matches!(kind, kind::NODE_PORT | kind::HOST_PORT) {
        Some(question.to.ip())
    } else {
        candidate.dropped = Some(Drop::NoNodeAddress.name());
        None
    };
    if candidate.source.is_some() && node.tunnel != 0 && tunnel != [0; 4] {
        candidate.tunnel_source = Some(from_map(tunnel));
    }
    candidate
}

/// Where every way ends in the same drop, that is the end.
fn ended(candidates: Vec<Candidate>) -> Outcome {
    match candidates.first().and_then(|candidate| candidate.dropped) {
        Some(reason) if candidates.iter().all(|candidate| candidate.dropped == Some(reason)) => {
            Outcome::Dropped { reason }
        }
        _ => Outcome::Backends { candidates },
    }
}

fn node(maps: &PacketMaps) -> Result<Node> {
    maps.node.get(&0, 0).map_err(Error::map("NODE"))
}

/// Sources that the programs leave to the stack.
fn is_nobody(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

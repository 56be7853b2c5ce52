//! The connections that the per-packet path knows: `FLOWS` and `REPLIES`, two entries of one thing.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Serialize;
use skep_ebpf_common::{
    Address, SCTP, TCP, UDP,
    conntrack::{self, Flow, Reply, Tuple, dsr, state},
    host_port,
};

use super::{Reader, trace::since_boot};
use crate::{
    Protocol, Result,
    maps::{FLOWS, REPLIES, Table},
    service::from_map,
};

/// One connection, or exchange of datagrams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRecord {
    /// The protocol.
    pub protocol: Protocol,
    /// Who opened it.
    pub client: SocketAddr,
    /// What it asked for.
    pub frontend: SocketAddr,
    /// Where its packets go.
    pub backend: SocketAddr,
    /// The client as the backend sees it.
    pub source: SocketAddr,
    /// The service port, `namespace/name[:port]`; `None` for what leaves the cluster, and where only answers are known.
    pub service: Option<String>,
    /// How its answers get to the client: `here`, the way it came; `directly`, past the node that was asked, which is not this
    /// one; `elsewhere`, from the backend's node, so that none is seen here.
    pub answers: &'static str,
    /// Where it stands: `opening`, `established`, `closing`, `closed` or `reset`; `unanswered` or `answered` for UDP.
    pub state: &'static str,
    /// How long neither side was heard of, seconds.
    pub idle_seconds: u64,
    /// For how long it will be remembered yet, seconds; zero if it is over.
    pub remembered_seconds: u64,
    /// Is it over, so that nothing but its entries is left?
    pub over: bool,
    /// Which of the two entries are there: `both`, `flow` or `reply`. The other was pushed out by newer ones.
    pub entries: &'static str,
}

impl FlowRecord {
    /// Is it an address of any of its ends?
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.ends().iter().any(|end| end.ip() == address)
    }

    /// Is it any of its ends?
    pub fn has_end(&self, end: SocketAddr) -> bool {
        self.ends().contains(&end)
    }

    fn ends(&self) -> [SocketAddr; 4] {
        [self.client, self.frontend, self.backend, self.source]
    }
}

impl Reader {
    /// Every connection of the per-packet path, sorted; none where only sockets are served (those need no tracking).
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn flows(&self) -> Result<Vec<FlowRecord>> {
        if !self.paths.maps.join(FLOWS).exists() {
            return Ok(Vec::new());
        }
        let flows = Table::<Tuple, Flow>::open(&self.paths.maps, FLOWS)?.entries()?;
        let replies = Table::<Tuple, Reply>::open(&self.paths.maps, REPLIES)?.entries()?;
        let mut replies: HashMap<Tuple, Reply> =
            replies.into_iter().filter(|(key, reply)| reply.is_sealed_for(key)).collect();
        let now = u64::try_from(since_boot()?.as_nanos()).unwrap_or(u64::MAX);
        let mut names = HashMap::new();
        let mut records = Vec::new();
        for (key, flow) in flows.into_iter().filter(|(key, flow)| flow.is_sealed_for(key)) {
            let reply_key = flow.reply_key(&key);
            // Of another flow from the same port: then this one's is gone.
            let own = |reply: &Reply| reply.flow_key(&reply_key) == key;
            let reply = replies.get(&reply_key).is_some_and(own).then(|| replies.remove(&reply_key)).flatten();
            let Some(mut record) = record(&key, &reply_key, Some(&flow), reply.as_ref(), now) else { continue };
            if flow.service != 0 {
                let name = match names.entry(flow.service) {
                    std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::hash_map::Entry::Vacant(entry) => entry.insert(self.name(flow.service)?),
                };
                record.service = Some(name.clone());
            }
            records.push(record);
        }
        let alone = |(key, reply): (Tuple, Reply)| record(&reply.flow_key(&key), &key, None, Some(&reply), now);
        records.extend(replies.into_iter().filter_map(alone));
        records.sort_by_key(|record| (record.frontend, record.client, record.protocol, record.backend));
        Ok(records)
    }
}

/// `None` for a protocol this version does not know.
fn record(key: &Tuple, reply_key: &Tuple, flow: Option<&Flow>, reply: Option<&Reply>, now: u64) -> Option<FlowRecord> {
    let bits = flow.map_or(0, |flow| flow.state) | reply.map_or(0, |reply| reply.state);
    let used = flow.map_or(0, |flow| flow.used).max(reply.map_or(0, |reply| reply.used));
    let (idle, limit) = (now.saturating_sub(used), conntrack::timeout(key.protocol, bits));
    let flags = flow.map(|flow| flow.flags).or(reply.map(|reply| reply.flags)).unwrap_or(0);
    let received = flags & dsr::RECEIVED != 0;
    // What the client asked, of a connection that another node handed over.
    let asked = (flow.filter(|_| received).map(|flow| end(flow.from, flow.from_port)))
        .or(reply.map(|reply| end(reply.frontend, reply.frontend_port)));
    Some(FlowRecord {
        protocol: Protocol::from_number(key.protocol)?,
        client: end(key.source, key.source_port),
        frontend: asked.filter(|_| received).unwrap_or_else(|| end(key.destination, key.destination_port)),
        backend: end(reply_key.source, reply_key.source_port),
        source: end(reply_key.destination, reply_key.destination_port),
        service: None,
        answers: match flags {
            flags if flags & dsr::SENT != 0 => "elsewhere",
            _ if received => "directly",
            _ => "here",
        },
        state: state_name(key.protocol, bits),
        idle_seconds: Duration::from_nanos(idle).as_secs(),
        remembered_seconds: Duration::from_nanos(limit.saturating_sub(idle)).as_secs(),
        over: idle > limit,
        entries: match (flow, reply) {
            (Some(_), Some(_)) => "both",
            (Some(_), None) => "flow",
            (None, _) => "reply",
        },
    })
}

fn end(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(from_map(address), host_port(port))
}

fn state_name(protocol: u8, bits: u32) -> &'static str {
    const FINS: u32 = state::CLIENT_FIN | state::BACKEND_FIN;
    let has = |bit: u32| bits & bit != 0;
    match protocol {
        UDP if has(state::REPLIED) => "answered",
        UDP => "unanswered",
        _ if has(state::RESET) => "reset",
        _ if bits & FINS == FINS => "closed",
        _ if has(FINS) => "closing",
        TCP if has(state::REPLIED) => "established",
        SCTP if has(state::STEADY) => "established",
        _ => "opening",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_names_of_what_was_seen() {
        assert_eq!(state_name(TCP, 0), "opening");
        assert_eq!(state_name(TCP, state::REPLIED), "established");
        assert_eq!(state_name(TCP, state::REPLIED | state::CLIENT_FIN), "closing");
        assert_eq!(state_name(TCP, state::REPLIED | state::CLIENT_FIN | state::BACKEND_FIN), "closed");
        assert_eq!(state_name(TCP, state::REPLIED | state::RESET | state::CLIENT_FIN), "reset");
        assert_eq!(state_name(UDP, 0), "unanswered");
        assert_eq!(state_name(UDP, state::REPLIED), "answered");
    }
}

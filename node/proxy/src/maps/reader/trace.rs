//! What would become of a new connection: the question of the kernel programs, put to the same maps in the same order.
//!
//! `lookup` mirrors `ebpf/src/lookup.rs`, `packet` mirrors `ebpf/src/tc/track.rs`. Where the kernel decides by chance or by
//! what the question leaves open (a source port), the answer names everything it may choose.

mod lookup;
mod packet;

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::Serialize;
use skep_ebpf_common::{BackendValue, FrontendKey, host_port};

use self::lookup::{Asker, Reason, Verdict};
use super::Reader;
use crate::{Error, Frontend, Kind, Protocol, Result, ServicePortName, service::from_map, sys};

/// Who opens the connection, and where the data plane meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A process of this node or of one of its pods, at its socket.
    Socket {
        /// Cookie of its network namespace; zero if it is not known.
        netns: u64,
    },
    /// A pod of this node whose packet comes past the socket hooks.
    Pod {
        /// Its address.
        address: IpAddr,
        /// Its port, if known: then the choice is certain.
        port: Option<u16>,
    },
    /// Anybody else, whose packet comes in by a device of the node.
    Outside {
        /// Its address.
        address: IpAddr,
        /// Its port, if known: then the choice is certain.
        port: Option<u16>,
    },
}

impl Client {
    /// A process in the network namespace of this one.
    pub fn this_process() -> Self {
        Self::Socket { netns: sys::netns_cookie() }
    }
}

/// What is asked: does a new connection (or a datagram) get there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who opens it.
    pub client: Client,
    /// The address it names.
    pub to: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
}

/// What becomes of it, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The service port it belongs to, if it is one's: `namespace/name[:port]`.
    pub service: Option<String>,
    /// What was asked, in order.
    pub steps: Vec<Step>,
    /// How it ends.
    pub outcome: Outcome,
}

/// One question to the maps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The map that was asked.
    pub map: &'static str,
    /// What it says, in words.
    pub finding: String,
}

/// How it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "camelCase")]
pub enum Outcome {
    /// Nothing of a Service: the stack gets it as it is.
    Passes,
    /// It leaves the cluster under this node's address.
    Masqueraded {
        /// The address.
        source: IpAddr,
    },
    /// The client is told that nobody answers: `ECONNREFUSED`, a TCP reset or "port unreachable".
    Refused {
        /// Why.
        reason: &'static str,
    },
    /// It ends without a word to the client.
    Dropped {
        /// Why, as metrics have it.
        reason: &'static str,
    },
    /// It goes to one of these.
    Backends {
        /// All that may be chosen; exactly one if the choice is certain.
        candidates: Vec<Candidate>,
    },
    /// It is no new connection but the answer of a backend.
    Answer {
        /// What the client sees as the sender.
        from: SocketAddr,
        /// The client.
        to: SocketAddr,
    },
}

/// A backend that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Number in the maps.
    pub id: u32,
    /// Where it is.
    pub address: SocketAddr,
    /// Is it on this node?
    pub local: bool,
    /// In how many of the places that are chosen from it stands. Zero if it is remembered, not chosen.
    pub places: u32,
    /// The address it sees in place of the client's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The address it sees if the way to it leads through the tunnel between nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_source: Option<IpAddr>,
    /// Why packets to it are dropped all the same, as metrics have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<&'static str>,
}

impl Candidate {
    fn new(id: u32, backend: &BackendValue, places: u32) -> Self {
        Self {
            id,
            address: SocketAddr::new(from_map(backend.address), host_port(backend.port)),
            local: backend.flags & BackendValue::LOCAL != 0,
            places,
            source: None,
            tunnel_source: None,
            dropped: None,
        }
    }
}

/// Steps while they are taken.
#[derive(Debug, Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, map: &'static str, finding: impl Display) {
        self.0.push(Step { map, finding: finding.to_string() });
    }
}

impl Reader {
    /// Answers a question from the maps as they are now.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn trace(&self, question: &Question) -> Result<Trace> {
        let mut steps = Steps::default();
        let (service, outcome) = match question.client {
            Client::Socket { netns } => self.trace_socket(question, netns, &mut steps)?,
            Client::Pod { address, port } => self.trace_packet(question, (address, port), false, &mut steps)?,
            Client::Outside { address, port } => self.trace_packet(question, (address, port), true, &mut steps)?,
        };
        let service = service.map(|id| self.name(id)).transpose()?;
        Ok(Trace { service, steps: steps.0, outcome })
    }

    fn trace_socket(&self, question: &Question, netns: u64, steps: &mut Steps) -> Result<(Option<u32>, Outcome)> {
        if question.protocol == Protocol::Sctp {
            steps.add("-", "sockets of SCTP are not translated: packets of pods are, where they leave the pod");
            return Ok((None, Outcome::Passes));
        }
        let asker = Asker::socket(netns);
        Ok(match self.look_up(&key(question), &asker, steps)? {
            Verdict::Pass => (None, Outcome::Passes),
            Verdict::Refuse(service, reason) => (service, Outcome::Refused { reason: reason.name() }),
            Verdict::Backends { service, choices, .. } => {
                if question.protocol == Protocol::Udp {
                    steps.add("STICKY", "an unconnected socket keeps the backend it had before, while that lives");
                }
                let candidates = choices.iter().map(|choice| Candidate::new(choice.id, &choice.backend, choice.places));
                (Some(service), Outcome::Backends { candidates: candidates.collect() })
            }
        })
    }

    /// The name of a service port, or its number if it has none.
    pub(super) fn name(&self, service: u32) -> Result<String> {
        let info = self.maps.info.get(&service)?;
        let (namespace, name, port) = info.as_ref().map(skep_ebpf_common::ServiceInfo::names).unwrap_or_default();
        if name.is_empty() {
            return Ok(format!("service {service}"));
        }
        Ok(ServicePortName { namespace: namespace.into(), name: name.into(), port: port.into() }.to_string())
    }
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::NoPort => "no-port",
            Self::NoEndpoints => "no-endpoints",
            Self::NoLocalEndpoints => "no-local-endpoints",
            Self::SourceDenied => "source-denied",
            Self::Torn => "torn",
        }
    }
}

fn key(question: &Question) -> FrontendKey {
    Frontend { address: question.to.ip(), port: question.to.port(), protocol: question.protocol }.key()
}

fn kind_name(kind: u32) -> String {
    Kind::from_number(kind).map_or_else(|| format!("kind {kind}"), |kind| format!("{kind:?}"))
}

/// Time since the node started, suspended time included, as the programs reckon.
pub(crate) fn since_boot() -> Result<Duration> {
    let path = "/proc/uptime";
    let text = std::fs::read_to_string(path).map_err(Error::io(format!("read {path}")))?;
    let seconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

//! `skepctl service trace`: what would become of a connection, and why, from the live maps.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use skep_policy::reader::{Reader as PolicyReader, Step as PolicyStep};
use skep_proxy::{
    Protocol,
    maps::{
        Reader,
        reader::trace::{Candidate, Client, Outcome, Question, Trace},
    },
};

use crate::{
    api::Endpoint,
    cli::Format,
    names::Names,
    output::structured,
    peer::Peer,
    query::{self, Query},
    trace_words,
};

/// Which of the two ways into the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// The call of a process of this node or of its pods.
    Socket,
    /// A packet that comes in by a device of the node or of a pod.
    Packet,
}

#[derive(Debug, Args)]
pub(crate) struct TraceCommand {
    /// [NAMESPACE/]NAME[:PORT-NAME] or ADDRESS:PORT[/PROTOCOL].
    service: Query,
    /// Who asks: NAMESPACE/NAME of a pod or ADDRESS[:PORT]; with a port a packet's choice is certain [default: this process].
    #[arg(long, value_name = "PEER")]
    from: Option<Peer>,
    /// Where the data plane meets it [default: the socket of what runs on this node, else its packet].
    #[arg(long)]
    path: Option<Way>,
}

/// One question and all there is to say about it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) to: String,
    pub(crate) from: String,
    pub(crate) path: &'static str,
    #[serde(flatten)]
    pub(crate) trace: Trace,
    /// What NetworkPolicy of this node's pods says of the whole, as far as it does not depend on the backend.
    pub(crate) policy: Vec<PolicyStep>,
    /// Of each candidate, in the same order.
    pub(crate) backends: Vec<Backend>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backend {
    address: SocketAddr,
    #[serde(flatten)]
    pub(crate) endpoint: Option<Endpoint>,
    /// What NetworkPolicy of this node's pods says.
    pub(crate) policy: Vec<PolicyStep>,
}

/// Who asks, as far as that is known.
struct Origin {
    client: Client,
    address: Option<IpAddr>,
}

impl TraceCommand {
    pub(crate) fn run(
        &self,
        reader: &Reader,
        root: &Path,
        names: &Names,
        format: Format,
        out: &mut impl Write,
    ) -> Result<()> {
        let policy = policy(root)?;
        let mut records = Vec::new();
        for (to, protocols) in self.targets(reader)? {
            let origin = self.origin(policy.as_ref(), names, to.ip())?;
            let ask = |protocol| reader.trace(&Question { client: origin.client, to, protocol });
            let mut traces =
                protocols.into_iter().map(|protocol| Ok((protocol, ask(protocol)?))).collect::<Result<Vec<_>>>()?;
            // Without a protocol, that which is served is meant.
            if traces.len() > 1 && traces.iter().any(|(_, trace)| trace.service.is_some()) {
                traces.retain(|(_, trace)| trace.service.is_some());
            } else {
                traces.truncate(1);
            }
            for (protocol, trace) in traces {
                let judge = judge_by(policy.as_ref(), protocol);
                records.push(record(trace, to, protocol, &origin, &judge, names)?);
            }
        }
        if let Some(text) = structured(format, &records)? {
            return Ok(out.write_all(text.as_bytes())?);
        }
        trace_words::all(&records, out)
    }

    /// Addresses to ask for, and the protocols that may be meant.
    fn targets(&self, reader: &Reader) -> Result<Vec<(SocketAddr, Vec<Protocol>)>> {
        if let Query::Address { at, protocol } = &self.service {
            let all = vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
            return Ok(vec![(*at, protocol.map_or(all, |protocol| vec![protocol]))]);
        }
        let services = query::find(&self.service, reader.services()?)?;
        let frontends = services.iter().flat_map(|service| &service.frontends);
        let whole = frontends.filter(|frontend| !frontend.address.is_unspecified());
        let targets: Vec<_> = whole
            .map(|frontend| (SocketAddr::new(frontend.address, frontend.port), vec![frontend.protocol]))
            .filter(|(at, _)| self.fits(at.ip()))
            .collect();
        ensure!(!targets.is_empty(), "{} has no such address: name one of this node with its node port", self.service);
        Ok(targets)
    }

    /// Is it of the family that the client has, if it has one?
    fn fits(&self, address: IpAddr) -> bool {
        match &self.from {
            Some(Peer::Address { address: from, .. }) => from.is_ipv4() == address.is_ipv4(),
            _ => true,
        }
    }

    /// Who asks, and where.
    fn origin(&self, policy: Option<&PolicyReader>, names: &Names, to: IpAddr) -> Result<Origin> {
        let Some(from) = &self.from else {
            ensure!(self.path != Some(Way::Packet), "whose packet? Give --from");
            return Ok(Origin { client: Client::this_process(), address: None });
        };
        let (address, port) = match from {
            Peer::Address { address, port } => (*address, *port),
            Peer::Pod { namespace, name } => {
                let all = pod_addresses(policy, names, namespace, name)?;
                let fit = all.into_iter().find(|address| address.is_ipv4() == to.is_ipv4());
                (fit.with_context(|| format!("the pod {namespace}/{name} has no address of the family of {to}"))?, None)
            }
        };
        ensure!(address.is_ipv4() == to.is_ipv4(), "{address} and {to} are of different families");
        let is_pod = skep_network::pod_devices()?.iter().any(|device| device.addresses.contains(&address));
        let is_own = !is_pod && is_own(address);
        let client = match self.path.unwrap_or(if is_pod || is_own { Way::Socket } else { Way::Packet }) {
            Way::Socket if !is_pod && !is_own => {
                bail!("{address} is not on this node: its sockets are served by its own node; or --path packet")
            }
            Way::Packet if is_own => bail!("what {address}, this node itself, sends is served at its sockets only"),
            Way::Socket if is_own => Client::this_process(),
            Way::Socket => Client::Socket { netns: 0 },
            Way::Packet if is_pod => Client::Pod { address, port },
            Way::Packet => Client::Outside { address, port },
        };
        Ok(Origin { client, address: Some(address) })
    }
}

/// Does this node have the address? Only such a one can be bound.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// What NetworkPolicy enforces, if it does.
pub(crate) fn policy(root: &Path) -> Result<Option<PolicyReader>> {
    match PolicyReader::open(root) {
        Ok(reader) => Ok(Some(reader)),
        Err(skep_policy::Error::NotLoaded(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The addresses of a pod, from the maps of NetworkPolicy or else the API.
fn pod_addresses(policy: Option<&PolicyReader>, names: &Names, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
    let pods = policy.map(PolicyReader::pods).transpose()?.unwrap_or_default();
    match pods.into_iter().find(|pod| pod.namespace == namespace && pod.name == name) {
        Some(pod) => Ok(pod.addresses),
        None => names.pod(namespace, name),
    }
}

/// What NetworkPolicy says of a connection from an address to another, at the end that `egress` or `ingress` names.
type Judge<'a> = dyn Fn(IpAddr, SocketAddr, &str) -> Result<Vec<PolicyStep>> + 'a;

/// Asks the maps of NetworkPolicy, if it is in the kernel.
fn judge_by(
    policy: Option<&PolicyReader>,
    protocol: Protocol,
) -> impl Fn(IpAddr, SocketAddr, &str) -> Result<Vec<PolicyStep>> {
    let number = match protocol {
        Protocol::Tcp => skep_policy::TCP,
        Protocol::Udp => skep_policy::UDP,
        Protocol::Sctp => skep_policy::SCTP,
    };
    move |from, to, end| {
        let Some(policy) = policy else { return Ok(Vec::new()) };
        let mut steps = policy.trace(from, to.ip(), number, to.port())?;
        steps.retain(|step| step.direction == end);
        Ok(steps)
    }
}

fn record(
    trace: Trace,
    to: SocketAddr,
    protocol: Protocol,
    origin: &Origin,
    judge: &Judge<'_>,
    names: &Names,
) -> Result<Record> {
    // Past the sockets the address that the pod names is judged, before anything else.
    let named = match (origin.client, &trace.outcome, origin.address) {
        (Client::Pod { .. }, _, Some(from)) => judge(from, to, "egress")?,
        (_, Outcome::Passes, Some(from)) => [judge(from, to, "egress")?, judge(from, to, "ingress")?].concat(),
        _ => Vec::new(),
    };
    let service = trace.service.as_deref().and_then(split);
    let backend = |candidate: &Candidate| -> Result<Backend> {
        let at = candidate.address;
        let mut steps = Vec::new();
        if let Some(from) = origin.address {
            if matches!(origin.client, Client::Socket { .. }) {
                steps.extend(judge(from, at, "egress")?);
            }
            steps.extend(judge(candidate.source.unwrap_or(from), at, "ingress")?);
        }
        let endpoint = match service {
            Some((namespace, name)) => names.endpoint(namespace, name, at.ip())?,
            None => None,
        };
        Ok(Backend { address: at, endpoint, policy: steps })
    };
    let candidates: &[Candidate] = if let Outcome::Backends { candidates } = &trace.outcome { candidates } else { &[] };
    let backends = candidates.iter().map(backend).collect::<Result<_>>()?;
    let (path, from) = match origin.client {
        Client::Socket { .. } => {
            ("socket", origin.address.map_or_else(|| "this process".to_owned(), |a| a.to_string()))
        }
        Client::Pod { address, port } => ("packet of a pod", shown(address, port)),
        Client::Outside { address, port } => ("packet from outside", shown(address, port)),
    };
    Ok(Record { to: format!("{to}/{protocol}"), from, path, policy: named, backends, trace })
}

fn shown(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}

/// Namespace and name of `namespace/name[:port]`.
fn split(service: &str) -> Option<(&str, &str)> {
    let (namespace, rest) = service.split_once('/')?;
    Some((namespace, rest.split_once(':').map_or(rest, |(name, _)| name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONTEND: &str = "10.96.0.10:80";
    const BACKEND: &str = "10.1.0.5:8080";
    const CLIENT: &str = "10.1.0.9";

    /// What is asked of NetworkPolicy for that client, when one backend is chosen and sees `source`.
    fn asked(client: Client, outcome: Outcome) -> (Vec<String>, Vec<String>) {
        let judge = |from: IpAddr, to: SocketAddr, end: &str| {
            let step = PolicyStep {
                pod: "default/x".into(),
                direction: if end == "egress" { "egress" } else { "ingress" },
                identity: 1,
                peer: String::new(),
                allowed: true,
                reason: format!("{end} {from} {to}"),
                rule: None,
            };
            Ok(vec![step])
        };
        let trace = Trace { service: Some("default/web:http".into()), steps: Vec::new(), outcome };
        let origin = Origin { client, address: Some(CLIENT.parse().unwrap()) };
        let to = FRONTEND.parse().unwrap();
        let record = record(trace, to, Protocol::Tcp, &origin, &judge, &Names::none()).unwrap();
        let reasons = |steps: &[PolicyStep]| steps.iter().map(|step| step.reason.clone()).collect::<Vec<_>>();
        (reasons(&record.policy), record.backends.iter().flat_map(|backend| reasons(&backend.policy)).collect())
    }

    fn to_backend(source: Option<&str>) -> Outcome {
        let candidate = Candidate {
            id: 1,
            address: BACKEND.parse().unwrap(),
            local: true,
            places: 1,
            source: source.map(|source| source.parse().unwrap()),
            tunnel_source: None,
            dropped: None,
        };
        Outcome::Backends { candidates: vec![candidate] }
    }

    #[test]
    fn policies_judge_the_addresses_that_the_packet_has_at_each_end() {
        let address = CLIENT.parse().unwrap();
        // At the socket the address is translated before there is a packet.
        let (whole, backends) = asked(Client::Socket { netns: 0 }, to_backend(None));
        assert_eq!(
            (whole.len(), backends),
            (0, vec![format!("egress {CLIENT} {BACKEND}"), format!("ingress {CLIENT} {BACKEND}")])
        );
        // Past the socket the pod is judged by the address it names.
        let (whole, backends) = asked(Client::Pod { address, port: None }, to_backend(None));
        assert_eq!(whole, [format!("egress {CLIENT} {FRONTEND}")]);
        assert_eq!(backends, [format!("ingress {CLIENT} {BACKEND}")]);
        // From outside there is no egress here, and the backend's node sees the source it is given.
        let (whole, backends) = asked(Client::Outside { address, port: None }, to_backend(Some("192.0.2.1")));
        assert_eq!((whole.len(), backends), (0, vec![format!("ingress 192.0.2.1 {BACKEND}")]));
        // What is no Service's is judged as it is; what is refused, not at all.
        let (whole, _) = asked(Client::Socket { netns: 0 }, Outcome::Passes);
        assert_eq!(whole, [format!("egress {CLIENT} {FRONTEND}"), format!("ingress {CLIENT} {FRONTEND}")]);
        let refused = Outcome::Refused { reason: "no-endpoints" };
        assert_eq!(asked(Client::Socket { netns: 0 }, refused), (Vec::new(), Vec::new()));
    }

    #[test]
    fn the_name_of_a_service_is_taken_apart() {
        assert_eq!(split("default/web:http"), Some(("default", "web")));
        assert_eq!(split("default/web"), Some(("default", "web")));
        assert_eq!(split("service 7"), None);
    }
}

//! `skepctl policy`: what NetworkPolicy allows on this node, from the live maps.

use std::{
    io::Write,
    net::IpAddr,
    path::Path,
    str::FromStr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use k8s_openapi::jiff::Timestamp;
use skep_policy::{
    SCTP, TCP, UDP,
    reader::{EventRecord, PodRecord, Reader, RuleRecord, Step},
};

use crate::cli::Format;
use crate::output::{print, structured, table};

const ICMP: u8 = 1;

/// How often the events are looked after.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Every pod of this node, and whether policies isolate it.
    List {
        /// Only this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// What policies allow a pod of this node.
    Get {
        /// NAMESPACE/NAME or an address.
        pod: Peer,
    },
    /// What would become of a new connection of which a pod of this node has one end.
    Trace(Trace),
    /// New connections of isolated pods, and packets that are dropped, as they come.
    Monitor {
        /// Only what is dropped.
        #[arg(long)]
        drops: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Who opens it: NAMESPACE/NAME of a pod of this node, or an address.
    #[arg(long, value_name = "PEER")]
    from: Peer,
    /// To whom: NAMESPACE/NAME of a pod of this node, or an address.
    #[arg(long, value_name = "PEER")]
    to: Peer,
    /// Port of the destination.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// tcp, udp, sctp, icmp or a number.
    #[arg(long, default_value = "tcp", value_parser = protocol)]
    protocol: u8,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Address(IpAddr),
    Pod { namespace: String, name: String },
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is neither NAMESPACE/NAME nor an address")),
        }
    }
}

impl Peer {
    fn find<'a>(&self, pods: &'a [PodRecord]) -> Option<&'a PodRecord> {
        pods.iter().find(|pod| match self {
            Self::Address(address) => pod.addresses.contains(address),
            Self::Pod { namespace, name } => pod.namespace == *namespace && pod.name == *name,
        })
    }

    /// The address, of the family that `other` has if there is a choice.
    fn address(&self, pods: &[PodRecord], other: Option<IpAddr>) -> Result<IpAddr> {
        let (namespace, name) = match self {
            Self::Address(address) => return Ok(*address),
            Self::Pod { namespace, name } => (namespace, name),
        };
        let pod = self.find(pods).with_context(|| {
            format!("no pod {namespace}/{name} on this node is known to policies; of a pod elsewhere, give the address")
        })?;
        let fits = |address: &&IpAddr| other.is_none_or(|other| other.is_ipv4() == address.is_ipv4());
        let found = pod.addresses.iter().find(fits).copied();
        found.with_context(|| format!("{namespace}/{name} has no address of that family"))
    }
}

fn protocol(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(TCP),
        "udp" => Ok(UDP),
        "sctp" => Ok(SCTP),
        "icmp" => Ok(ICMP),
        number => number.parse().map_err(|_| format!("{text:?} is none of tcp, udp, sctp, icmp and no number")),
    }
}

/// Does what was asked.
pub(crate) fn run(command: &PolicyCommand, format: Format, root: &Path, out: &mut impl Write) -> Result<()> {
    let reader = Reader::open(root)?;
    for warning in reader.warnings() {
        eprintln!("warning: {warning}");
    }
    match command {
        PolicyCommand::List { namespace } => {
            let mut pods = reader.pods()?;
            pods.retain(|pod| namespace.as_ref().is_none_or(|namespace| *namespace == pod.namespace));
            list(format, &pods, out)
        }
        PolicyCommand::Get { pod } => {
            let pods = reader.pods()?;
            let Some(found) = pod.find(&pods) else { bail!("no such pod on this node is known to policies") };
            get(format, found, out)
        }
        PolicyCommand::Trace(trace) => trace.run(&reader, format, out),
        PolicyCommand::Monitor { drops } => monitor(reader, *drops, format, out),
    }
}

impl Trace {
    fn run(&self, reader: &Reader, format: Format, out: &mut impl Write) -> Result<()> {
        let pods = reader.pods()?;
        let known = |peer: &Peer| if let Peer::Address(address) = peer { Some(*address) } else { None };
        let from = self.from.address(&pods, known(&self.to))?;
        let to = self.to.address(&pods, known(&self.from).or(Some(from)))?;
        let steps = reader.trace(from, to, self.protocol, self.port)?;
        if let Some(text) = structured(format, &steps)? {
            return Ok(out.write_all(text.as_bytes())?);
        }
        writeln!(out, "{from} -> {to} port {} protocol {}", self.port, protocol_name(Some(self.protocol)))?;
        if steps.is_empty() {
            return Ok(writeln!(out, "neither is a pod of this node: nothing is judged here")?);
        }
        steps.iter().try_for_each(|step| self.tell(step, out))?;
        let passes = steps.iter().all(|step| step.allowed);
        writeln!(out, "{}", if passes { "passes on this node" } else { "is dropped on this node" })?;
        Ok(())
    }

    fn tell(&self, step: &Step, out: &mut impl Write) -> Result<()> {
        let verdict = if step.allowed { "allowed" } else { "DENIED" };
        writeln!(out, "  {} of {}: {verdict}: {}", step.direction, step.pod, step.reason)?;
        writeln!(out, "    peer: {} (identity {})", step.peer, step.identity)?;
        if let Some(rule) = &step.rule {
            writeln!(out, "    rule: {} {} {}", rule.peer, protocol_name(rule.protocol), ports(rule))?;
        }
        Ok(())
    }
}

fn list(format: Format, pods: &[PodRecord], out: &mut impl Write) -> Result<()> {
    if let Some(text) = structured(format, pods)? {
        return Ok(out.write_all(text.as_bytes())?);
    }
    let mut table = table(["NAMESPACE", "POD", "ADDRESSES", "INGRESS", "EGRESS", "TABLE"]);
    for pod in pods {
        let addresses: Vec<String> = pod.addresses.iter().map(IpAddr::to_string).collect();
        let shown = |rules: &Option<Vec<RuleRecord>>| match rules {
            None => "open".to_owned(),
            Some(rules) => format!("isolated, {} rules", rules.len()),
        };
        table.add_row([
            pod.namespace.clone(),
            pod.name.clone(),
            addresses.join(","),
            shown(&pod.ingress),
            shown(&pod.egress),
            pod.table.to_string(),
        ]);
    }
    print(&table, out)
}

fn get(format: Format, pod: &PodRecord, out: &mut impl Write) -> Result<()> {
    if let Some(text) = structured(format, pod)? {
        return Ok(out.write_all(text.as_bytes())?);
    }
    writeln!(out, "Pod:  {}/{} (table {})", pod.namespace, pod.name, pod.table)?;
    for (direction, rules) in [("Ingress", &pod.ingress), ("Egress", &pod.egress)] {
        let Some(rules) = rules else {
            writeln!(out, "{direction}:  open")?;
            continue;
        };
        writeln!(out, "{direction}:  isolated; allowed are{}", if rules.is_empty() { " none" } else { "" })?;
        let mut table = table(["  PEER", "PROTOCOL", "PORTS", "IDENTITY"]);
        for rule in rules {
            let peer = format!("  {}", rule.peer);
            table.add_row([peer, protocol_name(rule.protocol), ports(rule), rule.identity.to_string()]);
        }
        if !rules.is_empty() {
            print(&table, out)?;
        }
    }
    Ok(())
}

/// Prints events until nobody reads them.
fn monitor(reader: Reader, drops: bool, format: Format, out: &mut impl Write) -> Result<()> {
    let mut listener = reader.listen()?;
    loop {
        for event in listener.hear()?.iter().filter(|event| !drops || event.verdict != "allowed") {
            match format {
                Format::Table => line(event, out)?,
                _ => writeln!(out, "{}", serde_json::to_string(event)?)?,
            }
        }
        out.flush()?;
        #[expect(clippy::disallowed_methods, reason = "the tool has one thread and nothing else to do")]
        std::thread::sleep(LOOK);
    }
}

fn line(event: &EventRecord, out: &mut impl Write) -> Result<()> {
    let time = Timestamp::try_from(event.time.max(SystemTime::UNIX_EPOCH))?;
    writeln!(
        out,
        "{time:.3} {:9} {:7} {} {}:{} -> {}:{} {} ({})",
        event.verdict,
        event.direction,
        event.pod,
        event.source,
        event.source_port,
        event.destination,
        event.destination_port,
        protocol_name(Some(event.protocol)),
        event.peer,
    )?;
    Ok(())
}

fn protocol_name(protocol: Option<u8>) -> String {
    match protocol {
        None => "any".to_owned(),
        Some(TCP) => "TCP".to_owned(),
        Some(UDP) => "UDP".to_owned(),
        Some(SCTP) => "SCTP".to_owned(),
        Some(ICMP) => "ICMP".to_owned(),
        Some(other) => other.to_string(),
    }
}

fn ports(rule: &RuleRecord) -> String {
    match rule.ports {
        None | Some((0, u16::MAX)) => "any".to_owned(),
        Some((low, high)) if low == high => low.to_string(),
        Some((low, high)) => format!("{low}-{high}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_pods_or_addresses() {
        let pod = Peer::Pod { namespace: "default".into(), name: "web-0".into() };
        assert_eq!("default/web-0".parse(), Ok(pod));
        assert_eq!("10.0.0.1".parse(), Ok(Peer::Address([10, 0, 0, 1].into())));
        assert!("fd00::1".parse::<Peer>().is_ok_and(|peer| matches!(peer, Peer::Address(_))));
        for wrong in ["", "web", "/web", "default/", "a/b/c", "10.0.0"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_two_addresses_the_one_that_fits_the_other_end_is_taken() {
        let pods = [PodRecord {
            namespace: "default".into(),
            name: "a".into(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            device: 1,
            table: 1,
            ingress: None,
            egress: None,
        }];
        let pod: Peer = "default/a".parse().unwrap();
        assert_eq!(pod.address(&pods, None).unwrap().to_string(), "10.0.0.1");
        assert_eq!(pod.address(&pods, Some("fd00::9".parse().unwrap())).unwrap().to_string(), "fd00::1");
        assert!("default/b".parse::<Peer>().unwrap().address(&pods, None).is_err());
        assert_eq!(("SCTP".parse::<u8>().ok(), protocol("SCTP"), protocol("47")), (None, Ok(SCTP), Ok(47)));
        assert!(protocol("tcpx").is_err());
    }
}

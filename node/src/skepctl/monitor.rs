//! `skepctl monitor`: connections, choices and drops as they come.

use std::{io::Write, path::Path, time::Duration};

use anyhow::Result;
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use skep_policy::reader::{EventRecord, Listener};
use skep_proxy::maps::{Reader, reader::conntrack::FlowRecord};

use crate::{
    changes::{self, Change, Look, ServiceName},
    cli::Format,
    filter::{End, is_named, is_of},
    query::Query,
    trace::policy,
};

/// How often the maps are looked at. The kernel tells of NetworkPolicy only while somebody asks once a second.
const LOOK: Duration = Duration::from_millis(500);

/// What there is to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Connections of the per-packet path.
    Flow,
    /// How often Services were chosen from, at sockets, too.
    Service,
    /// What was dropped or refused, for whatever reason.
    Drop,
    /// What NetworkPolicy says of new connections of isolated pods.
    Policy,
}

#[derive(Debug, Args)]
pub(crate) struct MonitorCommand {
    /// Only these kinds of events.
    #[arg(long, value_delimiter = ',')]
    kind: Vec<Kind>,
    /// Only those with an end at ADDRESS or ADDRESS:PORT.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    address: Option<End>,
    /// Only those of [NAMESPACE/]NAME[:PORT-NAME] or to ADDRESS:PORT[/PROTOCOL].
    #[arg(long)]
    service: Option<Query>,
    /// End after so many events.
    #[arg(long)]
    count: Option<usize>,
}

/// Something to tell.
#[derive(Debug)]
enum Event {
    Change(Change),
    Policy(EventRecord),
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    time: Timestamp,
    #[serde(flatten)]
    event: &'a T,
}

/// As the other events have it.
#[derive(Serialize)]
#[serde(tag = "event", rename = "policy")]
struct Judged<'a> {
    #[serde(flatten)]
    record: &'a EventRecord,
}

impl MonitorCommand {
    /// Prints events until nobody reads them.
    pub(crate) fn run(&self, reader: &Reader, root: &Path, format: Format, out: &mut impl Write) -> Result<()> {
        let mut before = Look::take(reader)?;
        let mut listener = None;
        let mut told = 0;
        loop {
            let mut events = hear(&mut listener, root)?;
            let after = Look::take(reader)?;
            events.extend(changes::between(&before, &after).into_iter().map(Event::Change));
            before = after;
            for event in events.iter().filter(|event| self.wants(event)) {
                tell(event, format, out)?;
                told += 1;
                if self.count.is_some_and(|count| told >= count) {
                    return Ok(());
                }
            }
            out.flush()?;
            #[expect(clippy::disallowed_methods, reason = "the tool has one thread and nothing else to do")]
            std::thread::sleep(LOOK);
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let kind = |kinds: &[Kind]| self.kind.is_empty() || kinds.iter().any(|kind| self.kind.contains(kind));
        let flow = |flow: &FlowRecord| {
            self.address.as_ref().is_none_or(|end| end.is_of(flow))
                && self.service.as_ref().is_none_or(|service| is_of(flow, service))
        };
        match event {
            Event::Change(Change::Opened(record) | Change::Moved(record) | Change::Forgotten(record)) => {
                kind(&[Kind::Flow]) && flow(record)
            }
            // Counters know no ends.
            Event::Change(Change::Dropped(_)) => {
                kind(&[Kind::Drop]) && self.address.is_none() && self.service.is_none()
            }
            Event::Change(Change::Served { service, backends, .. }) => {
                let at = |end: &End| backends.iter().any(|chosen| end.is(chosen.address.ip(), chosen.address.port()));
                kind(&[Kind::Service]) && self.names(service) && self.address.as_ref().is_none_or(at)
            }
            Event::Change(Change::Refused { service, .. }) => {
                kind(&[Kind::Service, Kind::Drop]) && self.names(service) && self.address.is_none()
            }
            Event::Policy(record) => {
                let kinds: &[Kind] =
                    if record.verdict == "allowed" { &[Kind::Policy] } else { &[Kind::Policy, Kind::Drop] };
                let at = |end: &End| {
                    end.is(record.source, record.source_port) || end.is(record.destination, record.destination_port)
                };
                kind(kinds) && self.service.is_none() && self.address.as_ref().is_none_or(at)
            }
        }
    }

    /// Is that service meant? One that is given by its address is known by name only from its connections.
    fn names(&self, service: &ServiceName) -> bool {
        match &self.service {
            None => true,
            Some(Query::Address { .. }) => false,
            Some(Query::Name { namespace, name, port }) => {
                is_named(&service.to_string(), namespace, name, port.as_deref())
            }
        }
    }
}

/// What NetworkPolicy tells, once it is in the kernel.
fn hear(listener: &mut Option<Listener>, root: &Path) -> Result<Vec<Event>> {
    if listener.is_none() {
        *listener = policy(root)?.map(skep_policy::reader::Reader::listen).transpose()?;
    }
    let Some(listener) = listener else { return Ok(Vec::new()) };
    Ok(listener.hear()?.into_iter().map(Event::Policy).collect())
}

fn tell(event: &Event, format: Format, out: &mut impl Write) -> Result<()> {
    let time = match event {
        Event::Policy(record) => Timestamp::try_from(record.time.max(std::time::SystemTime::UNIX_EPOCH))?,
        Event::Change(_) => Timestamp::now(),
    };
    if format != Format::Table {
        let line = match event {
            Event::Change(change) => serde_json::to_string(&Line { time, event: change })?,
            Event::Policy(record) => serde_json::to_string(&Line { time, event: &Judged { record } })?,
        };
        return Ok(writeln!(out, "{line}")?);
    }
    let words = match event {
        Event::Change(change) => words(change),
        Event::Policy(record) => format!(
            "policy     {} {} of {}: {}:{} -> {}:{} protocol {} ({})",
            record.verdict,
            record.direction,
            record.pod,
            record.source,
            record.source_port,
            record.destination,
            record.destination_port,
            record.protocol,
            record.peer,
        ),
    };
    Ok(writeln!(out, "{time:.3} {words}")?)
}

fn words(change: &Change) -> String {
    match change {
        Change::Opened(flow) => format!("opened     {}", of(flow)),
        Change::Moved(flow) => format!("{:10} {}", flow.state, of(flow)),
        Change::Forgotten(flow) => format!("forgotten  {}", of(flow)),
        Change::Dropped(drop) => format!("dropped    {} packet(s): {}", drop.packets, drop.reason),
        Change::Served { service, connections, backends } => {
            let to: Vec<String> =
                backends.iter().map(|chosen| format!("{} x{}", chosen.address, chosen.connections)).collect();
            format!("served     {service}: {connections} connection(s) to {}", to.join(", "))
        }
        Change::Refused { service, attempts } => {
            format!("refused    {service}: {attempts} attempt(s), it has no backend for them")
        }
    }
}

fn of(flow: &FlowRecord) -> String {
    let service = flow.service.as_deref().map(|service| format!(" of {service}")).unwrap_or_default();
    format!("{} {} -> {} -> {}{service}", flow.protocol, flow.client, flow.frontend, flow.backend)
}

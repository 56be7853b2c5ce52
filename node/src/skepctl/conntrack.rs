//! `skepctl conntrack list`: the connections that the per-packet path knows.

use std::io::Write;

use anyhow::Result;
use clap::{Args, Subcommand};
use skep_proxy::maps::{Reader, reader::conntrack::FlowRecord};

use crate::{
    cli::Format,
    filter::{End, is_of},
    output::{or_dash, print, structured, table},
    query::Query,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConntrackCommand {
    /// Connections from outside to Services, of pods past their sockets, and masqueraded ones.
    List(Filter),
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only those with an end at ADDRESS or ADDRESS:PORT.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    address: Option<End>,
    /// Only those of [NAMESPACE/]NAME[:PORT-NAME] or to ADDRESS:PORT[/PROTOCOL].
    #[arg(long)]
    service: Option<Query>,
    /// Only those in that state, such as established or unanswered.
    #[arg(long)]
    state: Option<String>,
    /// Also those that are over, of which only entries are left.
    #[arg(long)]
    all: bool,
}

impl Filter {
    fn fits(&self, flow: &FlowRecord) -> bool {
        (self.all || !flow.over)
            && self.address.as_ref().is_none_or(|end| end.is_of(flow))
            && self.state.as_ref().is_none_or(|state| flow.state == state)
            && self.service.as_ref().is_none_or(|service| is_of(flow, service))
    }
}

/// Does what was asked.
pub(crate) fn run(command: &ConntrackCommand, reader: &Reader, format: Format, out: &mut impl Write) -> Result<()> {
    let ConntrackCommand::List(filter) = command;
    let mut flows = reader.flows()?;
    flows.retain(|flow| filter.fits(flow));
    if let Some(text) = structured(format, &flows)? {
        return Ok(out.write_all(text.as_bytes())?);
    }
    let mut table =
        table(["PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "SEEN-AS", "STATE", "IDLE", "ENDS-IN", "SERVICE"]);
    for flow in flows {
        let seen_as = if flow.source == flow.client { "-".to_owned() } else { flow.source.to_string() };
        let ends = if flow.over { "over".to_owned() } else { format!("{}s", flow.remembered_seconds) };
        table.add_row([
            flow.protocol.to_string(),
            flow.client.to_string(),
            flow.frontend.to_string(),
            flow.backend.to_string(),
            seen_as,
            flow.state.into(),
            format!("{}s", flow.idle_seconds),
            ends,
            or_dash(flow.service.as_deref().unwrap_or_default()),
        ]);
    }
    print(&table, out)
}

#[cfg(test)]
mod tests {
    use skep_proxy::Protocol;

    use super::*;

    fn flow() -> FlowRecord {
        FlowRecord {
            answers: "here",
            protocol: Protocol::Tcp,
            client: "192.0.2.9:4000".parse().unwrap(),
            frontend: "192.0.2.1:30080".parse().unwrap(),
            backend: "10.1.0.5:8080".parse().unwrap(),
            source: "192.0.2.1:61000".parse().unwrap(),
            service: Some("default/web:http".into()),
            state: "established",
            idle_seconds: 1,
            remembered_seconds: 10,
            over: false,
            entries: "both",
        }
    }

    fn fits(arguments: &[&str], flow: &FlowRecord) -> bool {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            filter: Filter,
        }
        let only: Only = clap::Parser::try_parse_from([&["x"], arguments].concat()).unwrap();
        only.filter.fits(flow)
    }

    #[test]
    fn filters_select_by_end_service_and_state() {
        for yes in [
            &[][..],
            &["--address", "10.1.0.5"],
            &["--address", "192.0.2.1:61000"],
            &["--service", "default/web"],
            &["--service", "default/web:http"],
            &["--service", "192.0.2.1:30080/tcp"],
            &["--state", "established", "--address", "192.0.2.9:4000"],
        ] {
            assert!(fits(yes, &flow()), "{yes:?}");
        }
        for no in [
            &["--address", "10.1.0.6"][..],
            &["--address", "10.1.0.5:80"],
            &["--service", "default/we"],
            &["--service", "default/web:https"],
            &["--service", "192.0.2.1:30080/udp"],
            &["--state", "closing"],
        ] {
            assert!(!fits(no, &flow()), "{no:?}");
        }
        let over = FlowRecord { over: true, service: None, ..flow() };
        assert!(!fits(&[], &over) && fits(&["--all"], &over) && !fits(&["--all", "--service", "default/web"], &over));
    }
}

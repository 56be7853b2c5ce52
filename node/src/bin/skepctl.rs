//! `skepctl`: what the data plane of this node does, read from the pinned maps.
#![forbid(unsafe_code)]

#[path = "../skepctl/api.rs"]
mod api;
#[path = "../skepctl/bugtool.rs"]
mod bugtool;
#[path = "../skepctl/changes.rs"]
mod changes;
#[path = "../skepctl/cli.rs"]
mod cli;
#[path = "../skepctl/conntrack.rs"]
mod conntrack;
#[path = "../skepctl/endpoint.rs"]
mod endpoint;
#[path = "../skepctl/filter.rs"]
mod filter;
#[path = "../skepctl/monitor.rs"]
mod monitor;
#[path = "../skepctl/names.rs"]
mod names;
#[path = "../skepctl/output.rs"]
mod output;
#[path = "../skepctl/peer.rs"]
mod peer;
#[path = "../skepctl/policy.rs"]
mod policy;
#[path = "../skepctl/query.rs"]
mod query;
#[path = "../skepctl/redact.rs"]
mod redact;
#[path = "../skepctl/service.rs"]
mod service;
#[path = "../skepctl/status.rs"]
mod status;
#[path = "../skepctl/top.rs"]
mod top;
#[path = "../skepctl/trace.rs"]
mod trace;
#[path = "../skepctl/trace_words.rs"]
mod trace_words;

use std::{
    io::{self, BufWriter, ErrorKind, Write},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser;
use skep_proxy::maps::Reader;

use cli::{BackendCommand, Cli, Command, ServiceCommand};
use names::Names;

fn main() -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    match run(&Cli::parse(), &mut out).and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With nobody to read it, the exit code says it all.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli, out: &mut impl Write) -> Result<()> {
    let reader = || Reader::open(&cli.bpf_root);
    let names = || Names::new(cli.kubeconfig.as_deref());
    match &cli.command {
        Command::Service { command: ServiceCommand::List { namespace } } => {
            let mut services = reader()?.services()?;
            services.retain(|service| namespace.as_ref().is_none_or(|namespace| *namespace == service.namespace));
            output::services(cli.output, &services, out)
        }
        Command::Service { command: ServiceCommand::Get { service } } => {
            let services = query::find(service, reader()?.services()?)?;
            service::show(cli.output, &services, &names()?, out)
        }
        Command::Service { command: ServiceCommand::Trace(trace) } => {
            trace.run(&reader()?, &cli.bpf_root, &names()?, cli.output, out)
        }
        Command::Backend { command: BackendCommand::List { service } } => {
            let services = match service {
                Some(service) => query::find(service, reader()?.services()?)?,
                None => reader()?.services()?,
            };
            output::backends(cli.output, &services, out)
        }
        Command::Policy { command } => policy::run(command, cli.output, &cli.bpf_root, out),
        Command::Endpoint { command } => endpoint::run(command, &reader()?, &cli.bpf_root, &names()?, cli.output, out),
        Command::Conntrack { command } => conntrack::run(command, &reader()?, cli.output, out),
        Command::Bugtool(bugtool) => bugtool.run(&cli.bpf_root, out),
        Command::Monitor(monitor) => monitor.run(&reader()?, &cli.bpf_root, cli.output, out),
        Command::Top(top) => top.run(&reader()?),
        Command::Status => status::show(cli.output, &status::read(&reader()?, &cli.bpf_root)?, out),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        kind.or(json) == Some(ErrorKind::BrokenPipe)
    })
}

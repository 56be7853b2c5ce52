//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::bugtool::BugtoolCommand;
use crate::conntrack::ConntrackCommand;
use crate::endpoint::EndpointCommand;
use crate::monitor::MonitorCommand;
use crate::policy::PolicyCommand;
use crate::query::Query;
use crate::top::TopCommand;
use crate::trace::TraceCommand;

/// Shows what the service data plane of this node does.
#[derive(Debug, Parser)]
#[command(name = "skepctl", version)]
pub(crate) struct Cli {
    /// Folder below which skep-node pins its maps.
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf/skep")]
    pub(crate) bpf_root: PathBuf,
    /// Output format.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Whom to ask for the names, nodes and states of backends; not needed for anything else [default: as kubectl].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Services as the kernel serves them.
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Backends as the kernel chooses among them.
    Backend {
        #[command(subcommand)]
        command: BackendCommand,
    },
    /// Pods of this node.
    Endpoint {
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// Connections that the per-packet path tracks.
    Conntrack {
        #[command(subcommand)]
        command: ConntrackCommand,
    },
    /// What NetworkPolicy allows and refuses on this node.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Connections, choices and drops as they come.
    Monitor(MonitorCommand),
    /// The Services that are asked most, live.
    Top(TopCommand),
    /// What is needed to look into a problem of this node elsewhere, in one file; no secrets.
    Bugtool(BugtoolCommand),
    /// Programs, attach points, how full the maps are, what was dropped, and what is wrong.
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Every port of every Service.
    List {
        /// Only this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
    },
    /// The ports of one Service, with their backends.
    Get {
        /// [NAMESPACE/]NAME[:PORT-NAME] or ADDRESS:PORT[/PROTOCOL].
        service: Query,
    },
    /// What would become of a new connection, and why.
    Trace(TraceCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackendCommand {
    /// Every backend, or those of one Service.
    List {
        /// [NAMESPACE/]NAME[:PORT-NAME] or ADDRESS:PORT[/PROTOCOL].
        service: Option<Query>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_may_stand_anywhere() {
        let cli = Cli::try_parse_from(["skepctl", "service", "list", "-o", "json", "--bpf-root", "/x"]).unwrap();
        assert_eq!((cli.output, cli.bpf_root), (Format::Json, "/x".into()));
    }
}

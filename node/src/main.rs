//! `skep-node`: the daemon of one node. Command line and wiring; the work is in the crates beside.
//!
//! Called as `skep-cni` it is the CNI plugin that the container runtime runs for every pod.
#![forbid(unsafe_code)]

mod cleanup;
mod cluster;
mod devices;
mod direct;
mod dns;
mod drift;
mod health;
mod host;
mod masquerade;
mod metrics;
mod peers;
mod policy;
mod run;
mod service_ranges;
mod settings;
mod web;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use settings::Arguments;

/// It gives memory back: loading programs reads the kernel's type information, which left 20 MB to the system's allocator for
/// good. See `docs/measurements.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The daemon of a skep node: kubelet, pod network and service data plane.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node until SIGTERM or SIGINT; its pods and Services keep running after that
    Run(Box<Arguments>),
    /// Remove the pods, the pod network and the kernel programs of this node
    Cleanup(Box<Arguments>),
}

fn main() -> ExitCode {
    if skep_network::is_cni_call() {
        return skep_network::cni_main();
    }
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    // kube asks rustls for the process's provider. Nobody installed one before: this is main.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A node waits more than it computes; every thread costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4))
        .max_blocking_threads(32)
        .enable_all()
        .build()?;
    match cli.command {
        Command::Run(arguments) => runtime.block_on(run::run(arguments.settings()?)),
        Command::Cleanup(arguments) => runtime.block_on(cleanup::cleanup(arguments.settings()?)),
    }
}

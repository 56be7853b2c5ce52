//! `skep-server`: the control plane of a skep cluster. Command line, wiring and supervision; nothing else lives here.
#![forbid(unsafe_code)]

mod certs;
mod cli;
mod clients;
mod components;
mod credentials;
mod kubeconfig;
mod member;
mod run;
mod settings;
mod signals;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

/// Quicker than the system's allocator with many small objects, and it gives memory back: see `docs/measurements.md`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// More workers than this gain a control plane nothing, and each costs memory.
const MAX_WORKERS: usize = 16;

fn main() -> ExitCode {
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
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, each said once: many say their cause themselves.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(run) => {
            let settings = run.settings()?;
            // kube and etcd-client ask rustls for the process's provider. Nobody installed one before: this is main.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MAX_WORKERS);
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(workers)
                .max_blocking_threads(16)
                .enable_all()
                .build()?
                .block_on(run::run(settings))
        }
        Command::Kubeconfig(command) => kubeconfig::execute(command),
        Command::Certs(command) => certs::execute(command),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let error = anyhow!("no space").context("cannot write x: no space").context("certificates");
        assert_eq!(chain(&error), "certificates: cannot write x: no space");
    }
}

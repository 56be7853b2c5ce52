//! `cargo xtask`: everything one does with a checkout of skep.
#![forbid(unsafe_code)]

mod chore;

use std::process::ExitCode;

use chore::{bench, build, down, lint, setup, test, up};
use clap::{Parser, Subcommand};

/// Chores of the skep workspace
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what building and running need, and say what and why
    Setup(setup::Options),
    /// Build every program, the kernel programs among them
    Build(build::Options),
    /// Start a one-node cluster with a demo Service
    Up(up::Options),
    /// Stop that cluster and remove all it made
    Down(down::Options),
    /// Run the tests of every tier
    Test(test::Options),
    /// Measure, each figure as a ratio to the machine's own limit
    Bench(bench::Options),
    /// Check formatting, clippy and licences
    Lint,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Setup(options) => setup::run(&options),
        Chore::Build(options) => build::run(&options),
        Chore::Up(options) => up::run(&options),
        Chore::Down(options) => down::run(&options),
        Chore::Test(options) => test::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Lint => lint::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}

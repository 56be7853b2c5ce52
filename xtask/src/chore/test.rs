//! The tests of every tier, in one run.

use anyhow::Result;
use clap::Args;

use super::setup::{self, cargo, run_cargo};
use super::steps::step;
use super::{images, require_root};

/// What `test` takes.
#[derive(Args, Clone, Default)]
#[group(skip)]
pub(crate) struct Options {
    /// Arguments for `cargo nextest run`, for example a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
    #[command(flatten)]
    setup: setup::Options,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    require_root("test")?;
    setup::run_all(&options.setup)?;
    // The cluster tests start the programs as a user would. Built together with the tests, so that the features of
    // their dependencies agree and nothing is compiled twice.
    step("build the programs, the kernel's part and the tests", || run_cargo(&["build", "--bins", "--tests"]))?;
    step("build the tests' image", images::toolbox)?;
    xtask::cluster::sweep();
    let result = xtask::command::run(cargo().args(["nextest", "run"]).args(&options.nextest));
    // What a killed test could not clean up itself.
    xtask::cluster::sweep();
    result
}

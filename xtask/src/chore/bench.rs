//! The measurements, made by the program `skep-bench` of the tests' package on an optimised build.

use anyhow::Result;
use clap::Args;
use xtask::workspace::Profile;

use super::setup::{self, run_cargo};
use super::steps::step;
use super::{build, images, require_root};

/// What `bench` takes.
#[derive(Args, Clone, Default)]
#[group(skip)]
pub(crate) struct Options {
    /// Only the rows whose name contains this
    row: Option<String>,
    #[command(flatten)]
    setup: setup::Options,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    require_root("bench")?;
    setup::run_all(&options.setup)?;
    step("build the programs and the kernel's part", || build::programs(Profile::Release))?;
    step("build the tests' image", images::toolbox)?;
    xtask::cluster::sweep();
    let mut args = vec!["run", "--release", "--quiet", "--package", "skep-tests", "--bin", "skep-bench", "--"];
    args.extend(options.row.as_deref());
    let result = run_cargo(&args);
    xtask::cluster::sweep();
    result
}

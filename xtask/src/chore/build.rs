//! Building everything that runs.

use anyhow::Result;
use clap::Args;
use xtask::workspace::Profile;

use super::setup::{self, run_cargo};

/// What `build` takes.
#[derive(Args, Clone, Default)]
#[group(skip)]
pub(crate) struct Options {
    /// Optimise: slower to build, faster to run
    #[arg(long)]
    pub(crate) release: bool,
    #[command(flatten)]
    pub(crate) setup: setup::Options,
}

impl Options {
    pub(crate) fn profile(&self) -> Profile {
        if self.release { Profile::Release } else { Profile::Debug }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run_all(&options.setup)?;
    programs(options.profile())
}

/// Builds the programs of a cluster; the kernel programs are built by the build script of node/proxy.
pub(crate) fn programs(profile: Profile) -> Result<()> {
    let packages = ["--package", "skep-server", "--package", "skep-node"];
    run_cargo(&[&["build"], &packages[..], profile.cargo_args()].concat())
}

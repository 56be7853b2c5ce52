//! Removing all that `up` made.

use anyhow::Result;
use clap::Args;
use xtask::workspace::Profile;

use super::steps::step;
use super::{dev_cluster, require_root};

/// What `down` takes.
#[derive(Args, Clone, Default)]
#[group(skip)]
pub(crate) struct Options {
    /// Keep etcd's data, the certificates and the images for the next `up`
    #[arg(long)]
    keep_data: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    require_root("down")?;
    // Either build's programs can clean up what the other's made.
    let profile = if xtask::workspace::programs(Profile::Debug).join("skep-node").exists() {
        Profile::Debug
    } else {
        Profile::Release
    };
    let cluster = dev_cluster(profile)?;
    step("stop the cluster and remove what it made", || cluster.destroy(options.keep_data))
}

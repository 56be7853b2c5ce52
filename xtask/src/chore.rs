//! One module a chore.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod down;
pub(crate) mod images;
pub(crate) mod lint;
pub(crate) mod setup;
pub(crate) mod steps;
pub(crate) mod test;
pub(crate) mod up;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use xtask::cluster::{Cluster, Spec};
use xtask::command;
use xtask::workspace::{self, Profile};

/// The cluster that `up` starts and `down` removes.
fn dev_cluster(profile: Profile) -> Result<Cluster> {
    Ok(Cluster::new(Spec {
        name: "skep".into(),
        data: workspace::target().join("cluster"),
        run: PathBuf::from("/run/skep"),
        programs: workspace::programs(profile),
        netns: None,
        address: address()?,
        cgroup: "/".into(),
        bpf_root: Path::new("/sys/fs/bpf/skep").into(),
        service_cidr: "10.96.0.0/12".into(),
        pod_cidr: "10.244.0.0/16".into(),
        second_address: None,
        joins: None,
        server_flags: Vec::new(),
        node_flags: Vec::new(),
    }))
}

/// This machine's address: that of the default route's device, otherwise loopback.
fn address() -> Result<std::net::IpAddr> {
    let Some(ip) = command::find("ip") else { return Ok(std::net::Ipv4Addr::LOCALHOST.into()) };
    let routes = command::output(std::process::Command::new(ip).args(["-4", "route", "get", "192.0.2.1"]));
    let Ok(routes) = routes else { return Ok(std::net::Ipv4Addr::LOCALHOST.into()) };
    let mut words = routes.split_whitespace().skip_while(|word| *word != "src");
    let address = words.nth(1).context("`ip route get` named no source address")?;
    address.parse().with_context(|| format!("`ip route get` named a strange source address: {address}"))
}

/// Only root may make network namespaces, cgroups and BPF programs.
fn require_root(chore: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "`cargo xtask {chore}` needs root (network, cgroups and BPF are the kernel's): run it as root or through sudo -E"
        );
    }
    Ok(())
}

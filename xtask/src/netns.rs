//! Network namespaces that stand in for machines, joined by a bridge in a further namespace. Nothing in them has a
//! route to the outside.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::command::{output, require};

/// Where `ip netns` keeps its namespaces.
const FOLDER: &str = "/run/netns";

/// One network namespace; it is deleted when this is dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Creates the namespace `name` with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let netns = Self { name: name.to_owned() };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Its name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs `ip` with `args` inside.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        output(Command::new("nsenter").arg(format!("--net={}", self.path().display())).arg(require("ip")?).args(args))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Nothing to be done about a failure while dropping; `cargo xtask test` sweeps what is left.
        let _ = delete(&self.name);
    }
}

/// Deletes namespace `name` if it is there.
pub fn delete(name: &str) -> Result<()> {
    if Path::new(FOLDER).join(name).exists() {
        ip(&["netns", "del", name])?;
    }
    Ok(())
}

/// The names of all namespaces that begin with `prefix`.
pub fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(FOLDER) else { return Vec::new() };
    entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|name| name.starts_with(prefix)).collect()
}

/// A layer-2 network: a bridge in a namespace of its own.
#[derive(Debug)]
pub struct Lan {
    switch: Netns,
}

impl Lan {
    /// Creates it under `name`.
    pub fn create(name: &str) -> Result<Self> {
        let switch = Netns::create(name)?;
        switch.ip(&["link", "add", "br0", "type", "bridge"])?;
        switch.ip(&["link", "set", "br0", "up"])?;
        Ok(Self { switch })
    }

    /// Gives `machine` a device `eth0` with `address`/24 on this network.
    pub fn join(&self, machine: &Netns, address: Ipv4Addr) -> Result<()> {
        let port = format!("p{}", address.octets()[3]);
        self.switch.ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", machine.name()])?;
        self.switch.ip(&["link", "set", &port, "master", "br0", "up"])?;
        machine.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        machine.ip(&["link", "set", "eth0", "up"])?;
        Ok(())
    }
}

fn ip(args: &[&str]) -> Result<()> {
    output(Command::new(require("ip")?).args(args)).map(drop)
}

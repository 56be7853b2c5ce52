//! Network namespaces that stand in for machines, joined by a bridge in a further namespace. Nothing in them has a
//! route to the outside.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

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

    /// `program` inside, and in no node's cgroup.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `ip` with `args` inside.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        output(self.command(require("ip")?).args(args))
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
    ports: AtomicU32,
}

impl Lan {
    /// Creates it under `name`.
    pub fn create(name: &str) -> Result<Self> {
        let switch = Netns::create(name)?;
        switch.ip(&["link", "add", "br0", "type", "bridge"])?;
        switch.ip(&["link", "set", "br0", "up"])?;
        Ok(Self { switch, ports: AtomicU32::new(1) })
    }

    /// Gives `machine` a device `eth0` with `address`/24 on this network.
    pub fn join(&self, machine: &Netns, address: Ipv4Addr) -> Result<()> {
        self.join_as(machine, "eth0", &[&format!("{address}/24")])
    }

    /// Gives `machine` the device `device` with `addresses` (each with its prefix length) on this network.
    pub fn join_as(&self, machine: &Netns, device: &str, addresses: &[&str]) -> Result<()> {
        let port = format!("p{}", self.ports.fetch_add(1, Ordering::Relaxed));
        self.switch.ip(&["link", "add", &port, "type", "veth", "peer", "name", device, "netns", machine.name()])?;
        self.switch.ip(&["link", "set", &port, "master", "br0", "up"])?;
        for address in addresses {
            // No duplicate address detection: an IPv6 address would be unusable for a second.
            let detection: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            machine.ip(&[&["addr", "add", address, "dev", device], detection].concat())?;
        }
        machine.ip(&["link", "set", device, "up"]).map(drop)
    }
}

fn ip(args: &[&str]) -> Result<()> {
    output(Command::new(require("ip")?).args(args)).map(drop)
}

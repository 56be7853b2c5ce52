//! The limit of the pod network: machines and pods with links as skep makes them (a veth each, one /32 route, a link-local
//! next hop; direct routes or a VXLAN device between machines), but without any program, daemon or netfilter rule. Its
//! processes are in a cgroup as deep as those of a node's, because the kernel keeps account of what a cgroup's processes do, and
//! that takes 2 µs of a round trip.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use xtask::cgroup;
use xtask::netns::{Lan, Netns};

use super::place::Place;

/// How the machines reach each other's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// A route over the other machine's address.
    Direct,
    /// Inside VXLAN, with a neighbour known in advance.
    Vxlan,
}

/// Two machines of two pods each, and one more machine without.
pub struct Wire {
    pods: Vec<Vec<Netns>>,
    // In this order: the machines leave the network before it goes.
    machines: Vec<Netns>,
    outside: Netns,
    _lan: Lan,
    cgroup: Cgroup,
}

const MACHINES: u8 = 2;
const PODS: u8 = 2;
const OUTSIDE: &str = "10.121.0.100";
const NEXT_HOP: &str = "169.254.1.1";
const TUNNEL: &str = "vxlan";

impl Wire {
    /// Builds it; the names of its namespaces and its cgroup begin with `prefix`, so that they are swept with the cluster of
    /// that name.
    pub fn build(prefix: &str, between: Between) -> Result<Self> {
        let cgroup = Cgroup::create(format!("{prefix}-bare"))?;
        let lan = Lan::create(&format!("{prefix}-bare-lan"))?;
        let outside = Netns::create(&format!("{prefix}-bare-outside"))?;
        lan.join_as(&outside, "eth0", &[&format!("{OUTSIDE}/24")])?;
        let (mut machines, mut pods) = (Vec::new(), Vec::new());
        for number in 1..=MACHINES {
            let machine = Netns::create(&format!("{prefix}-bare-{number}"))?;
            lan.join(&machine, machine_address(number))?;
            forward(&machine)?;
            outside.ip(&["route", "add", &range(number), "via", &machine_address(number).to_string()])?;
            let own = (1..=PODS)
                .map(|pod| make_pod(&machine, &format!("{prefix}-bare-{number}-{pod}"), number, pod, between))
                .collect::<Result<Vec<_>>>()?;
            machines.push(machine);
            pods.push(own);
        }
        let wire = Self { pods, machines, outside, _lan: lan, cgroup };
        wire.join(1, 2, between)?;
        wire.join(2, 1, between)?;
        Ok(wire)
    }

    /// Pod `pod` of machine `machine` (both from 1).
    pub fn pod(&self, machine: usize, pod: usize) -> Result<Place> {
        let own = machine.checked_sub(1).and_then(|at| self.pods.get(at));
        let netns = own.zip(pod.checked_sub(1)).and_then(|(own, at)| own.get(at)).context("no such pod")?;
        Ok(Place::bare(netns).within(self.cgroup.0.join(INNER)))
    }

    /// Its address.
    pub fn address(machine: u8, pod: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 121, 10 + machine, pod)
    }

    /// The machine without pods.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// Tells machine `from` the way to the pods of `to`.
    fn join(&self, from: u8, to: u8, between: Between) -> Result<()> {
        let machine = self.machines.get(usize::from(from) - 1).context("no such machine")?;
        let remote = machine_address(to).to_string();
        if between == Between::Direct {
            return machine.ip(&["route", "add", &range(to), "via", &remote]).map(drop);
        }
        let local = machine_address(from).to_string();
        let device = ["id", "9", "dstport", "8472", "local", &local, "remote", &remote, "nolearning"];
        machine.ip(&[&["link", "add", TUNNEL, "address", &hardware(from), "type", "vxlan"], &device[..]].concat())?;
        machine.ip(&["addr", "add", &format!("{}/32", Self::address(from, 0)), "dev", TUNNEL])?;
        machine.ip(&["link", "set", TUNNEL, "mtu", "1450", "up"])?;
        let other = Self::address(to, 0).to_string();
        machine.ip(&["neigh", "replace", &other, "lladdr", &hardware(to), "dev", TUNNEL, "nud", "permanent"])?;
        machine.ip(&["route", "add", &range(to), "via", &other, "dev", TUNNEL, "onlink"]).map(drop)
    }
}

/// As the one below a node's where its own processes are.
const INNER: &str = "machine";

/// A cgroup; it goes when this is dropped, and what is in it ends.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(name: String) -> Result<Self> {
        let cgroup = Self(cgroup::unified()?.join(name));
        let inner = cgroup.0.join(INNER);
        fs::create_dir_all(&inner).with_context(|| format!("cannot create {}", inner.display()))?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.file_name().and_then(|name| name.to_str()).map(cgroup::remove) {
            eprintln!("{error:#}");
        }
    }
}

fn machine_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 121, 0, number)
}

fn hardware(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

fn range(machine: u8) -> String {
    format!("{}/24", Wire::address(machine, 0))
}

fn forward(machine: &Netns) -> Result<()> {
    let mut command = machine.command("sh");
    xtask::command::output(command.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])).map(drop)
}

fn make_pod(machine: &Netns, name: &str, number: u8, pod: u8, between: Between) -> Result<Netns> {
    let netns = Netns::create(name)?;
    let (here, address) = (format!("pod{pod}"), format!("{}/32", Wire::address(number, pod)));
    let mtu = if between == Between::Vxlan { "1450" } else { "1500" };
    machine.ip(&["link", "add", &here, "mtu", mtu, "type", "veth", "peer", "name", "eth0", "netns", name])?;
    machine.ip(&["addr", "add", &format!("{NEXT_HOP}/32"), "dev", &here, "scope", "link"])?;
    machine.ip(&["link", "set", &here, "up"])?;
    machine.ip(&["route", "add", &address, "dev", &here])?;
    netns.ip(&["addr", "add", &address, "dev", "eth0"])?;
    netns.ip(&["link", "set", "eth0", "mtu", mtu, "up"])?;
    netns.ip(&["route", "add", NEXT_HOP, "dev", "eth0", "scope", "link"])?;
    netns.ip(&["route", "add", "default", "via", NEXT_HOP, "dev", "eth0"])?;
    Ok(netns)
}

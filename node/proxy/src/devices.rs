//! The per-packet programs on devices: which devices, attaching, keeping what is attached.
//!
//! | program | where | minimum kernel |
//! |---|---|---|
//! | `from_device` | ingress of the node's own devices and of its tunnel | 5.10; TCX from 6.6, before that a filter of a clsact qdisc |
//! | `to_device` | egress of the same | as above |
//! | `from_pod` | ingress of the host's ends of pods' devices | as above |
//! | `from_wire` | the node's own devices, before all of these, if [`Acceleration`] is chosen | 5.10 |
//!
//! TCX links are pinned, so they outlive the daemon; a changed program is put into the link in place of the old one, with
//! no packet in between that meets none. A clsact filter outlives the daemon too, but is replaced with a short gap.

mod attach;
pub(crate) mod filters;
mod inside;
mod mode;
pub(crate) mod pins;
mod ports;
pub(crate) mod xdp;

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{SchedClassifier, TcAttachType},
    util::KernelVersion,
};
use skep_ebpf_common::{Address, address, conntrack::Node, mapped};

use crate::{
    Attachment, Error, MapSizes, Result,
    bpffs::{self, Paths},
    kernel,
    maps::Part,
    object, sys, verifier,
};

/// Name of the map with what the programs know of the node.
const NODE: &str = "NODE";

/// A program, and the side of a device it is for.
#[derive(Clone, Copy, Debug)]
struct Hook {
    program: &'static str,
    side: TcAttachType,
}

/// What the node's own devices get. On one side of a device, programs run in the order of the list; one that lets a packet
/// go on hands it to the next.
const ON_NODE: &[Hook] = &[
    Hook { program: "from_device", side: TcAttachType::Ingress },
    Hook { program: "to_device", side: TcAttachType::Egress },
];

/// What the host's ends of pods' devices get, in the same sense. `from_pod` redirects, so it is the last of its side.
const ON_POD: &[Hook] = &[Hook { program: "from_pod", side: TcAttachType::Ingress }];

/// The names of all of them.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    ON_NODE.iter().chain(ON_POD).map(|hook| hook.program)
}

use self::inside::Inside;
pub use self::{inside::Range, mode::NodePortMode, ports::source_ports, xdp::Acceleration};

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A TCX link. Minimum kernel: 6.6.
    Tcx,
    /// A filter of a clsact qdisc.
    Clsact,
}

impl Method {
    /// The better one this kernel has.
    pub fn of_this_kernel() -> Self {
        if is_at_least(6, 6) { Self::Tcx } else { Self::Clsact }
    }
}

/// The device through which packets get to nodes that are no neighbours, and this node's addresses inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The device's name. It may come and go.
    pub device: String,
    /// IPv4 address that translated sources get in it.
    pub address4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address6: Option<Ipv6Addr>,
}

/// What the programs need to know of the node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Is a device of that name the host's end of a pod's?
    pub is_pod: fn(&str) -> bool,
    /// IPv4 address that translated sources get; without one the address the client sent to, if it is the node's own.
    pub address4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address6: Option<Ipv6Addr>,
    /// The way to other nodes besides the node's own devices.
    pub tunnel: Option<Tunnel>,
    /// The way back of answers from backends on other nodes.
    pub mode: NodePortMode,
    /// Ports that translated sources get. The kernel is told not to give them to anybody else.
    pub ports: RangeInclusive<u16>,
    /// How programs are attached.
    pub method: Method,
    /// Whether packets that only pass through are forwarded before the kernel makes anything of them.
    pub acceleration: Acceleration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            is_pod: |_| false,
            address4: None,
            address6: None,
            tunnel: None,
            mode: NodePortMode::default(),
            ports: ports::HIGH,
            method: Method::of_this_kernel(),
            acceleration: Acceleration::default(),
        }
    }
}

/// The programs, on the pinned maps, ready for devices that come. Dropping it leaves what is attached attached.
#[derive(Debug)]
pub struct Devices {
    ebpf: Ebpf,
    /// The kernel's numbers of the pinned maps the programs are on.
    maps: BTreeSet<u32>,
    paths: Paths,
    sizes: MapSizes,
    settings: Settings,
    /// What the programs were told of the node last.
    told: Option<Node>,
    inside: Inside,
    masquerade: bool,
    /// Programs that were found or put on a device (its number) by this process.
    settled: BTreeSet<(&'static str, u32)>,
    /// Why devices do not have the fast lane that was asked for.
    refused: Vec<Error>,
}

impl Devices {
    /// Loads the programs on the maps pinned below `bpf_root` (created if need be) and reserves the ports. Attaches nothing
    /// yet. Takes about a second of the kernel's verifier for each program.
    ///
    /// # Errors
    /// When privileges or kernel features lack, or the kernel refuses something.
    pub fn open(bpf_root: &Path, sizes: &MapSizes, settings: Settings) -> Result<Self> {
        kernel::check()?;
        if !is_at_least(5, 10) {
            return Err(Error::Kernel {
                found: kernel::release(),
                needed: "5.10",
                what: "service traffic from outside the node (bpf_redirect_neigh)",
            });
        }
        let paths = bpffs::prepare(bpf_root)?;
        let (mut ebpf, maps) = load_all(&paths, sizes, settings.acceleration)?;
        ports::reserve(&settings.ports)?;
        let inside = Inside::open(&paths.maps)?;
        // Goes on as it was until somebody says what is to be.
        let masquerade = node(&mut ebpf)?.get(&0, 0).map_err(Error::map(NODE))?.masquerade != 0;
        let settled = BTreeSet::new();
        Ok(Self {
            ebpf,
            maps,
            paths,
            sizes: *sizes,
            settings,
            told: None,
            inside,
            masquerade,
            settled,
            refused: Vec::new(),
        })
    }

    /// Says which addresses are the cluster's own, and which of them are nodes': those that other nodes may have been asked at
    /// by clients that a backend of this one answers. A former daemon's word holds until this is called.
    ///
    /// # Errors
    /// When the map refuses a write.
    pub fn set_inside(&mut self, ranges: &BTreeSet<Range>, nodes: &BTreeSet<IpAddr>) -> Result<()> {
        self.inside.set(ranges, nodes)
    }

    /// Gives what pods send out of the cluster ([`Devices::set_inside`]) the node's address, and a port of
    /// [`Settings::ports`]; or ends that: flows that began so go on. A former daemon's word holds until this is called.
    ///
    /// # Errors
    /// When a map refuses a write.
    pub fn masquerade(&mut self, masquerade: bool) -> Result<()> {
        self.masquerade = masquerade;
        self.tell()
    }

    /// Attaches the programs to every device that is there and should have them (`node`: names of the node's own, by which
    /// clients and other nodes reach it; they must be Ethernet), keeps those that run, and takes them off all others. To be
    /// called again when devices come and go. What this process has found to be in order is not looked at again unless
    /// `thorough`. Returns what concerns each device, in order.
    ///
    /// # Errors
    /// When the list of devices cannot be read, or the kernel refuses an attachment to a device that is still there.
    pub fn reconcile(&mut self, node: &[String], thorough: bool) -> Result<Vec<(String, &'static str, Attachment)>> {
        let _turn = self.renew()?;
        self.tell()?;
        let present = names()?;
        let tunnel = self.settings.tunnel.as_ref().map(|tunnel| &tunnel.device);
        let wanted: Vec<(&String, &'static [Hook])> = present
            .iter()
            .filter_map(|device| {
                if node.contains(device) || tunnel == Some(device) {
                    Some((device, ON_NODE))
                } else {
                    (self.settings.is_pod)(device).then_some((device, ON_POD))
                }
            })
            .collect();
        if thorough {
            // A filter would be replaced with a gap.
            let keeps = self.settings.method == Method::Clsact;
            self.settled.retain(|(program, _)| keeps && !xdp::PINS.contains(program));
        }
        self.take_off(&present, &wanted)?;
        let mut done = Vec::new();
        for (device, hooks) in wanted {
            for (place, hook) in hooks.iter().enumerate() {
                match self.attach(hooks, place, device) {
                    Ok(attachment) => done.push((device.clone(), hook.program, attachment)),
                    // It may have gone meanwhile.
                    Err(_) if !names()?.contains(device) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        done.extend(self.accelerate(&present, node)?);
        Ok(done)
    }

    /// Has the programs on the maps that are in force, which may have been made larger, and keeps those from changing.
    fn renew(&mut self) -> Result<fs::File> {
        loop {
            let turn = bpffs::take_maps(&self.paths)?;
            if object::pinned_maps(&self.paths)? == self.maps {
                return Ok(turn);
            }
            // Not while others wait: the verifier takes its time.
            drop(turn);
            (self.ebpf, self.maps) = load_all(&self.paths, &self.sizes, self.settings.acceleration)?;
        }
    }

    /// Writes down what the programs need to know of the node, if that is news.
    fn tell(&mut self) -> Result<()> {
        let Settings { address4, address6, tunnel, ports, mode, .. } = &self.settings;
        let tunnel = tunnel.as_ref().and_then(|tunnel| Some((sys::interface_index(&tunnel.device)?, tunnel)));
        let node = Node {
            ip4: word4(*address4),
            ip6: word6(*address6),
            tunnel4: word4(tunnel.and_then(|(_, tunnel)| tunnel.address4)),
            tunnel6: word6(tunnel.and_then(|(_, tunnel)| tunnel.address6)),
            tunnel: tunnel.map_or(0, |(index, _)| index),
            first_port: *ports.start(),
            last_port: *ports.end(),
            masquerade: self.masquerade.into(),
            dsr: mode.bits(),
        };
        if self.told == Some(node) {
            return Ok(());
        }
        self::node(&mut self.ebpf)?.set(0, node, 0).map_err(Error::map(NODE))?;
        self.told = Some(node);
        Ok(())
    }

    /// Takes programs off the devices that should not have them, and forgets devices that are gone.
    fn take_off(&mut self, present: &BTreeSet<String>, wanted: &[(&String, &'static [Hook])]) -> Result<()> {
        pins::remove_dead(&self.paths)?;
        let numbers: BTreeSet<u32> = present.iter().filter_map(|device| sys::interface_index(device)).collect();
        self.settled.retain(|(_, device)| numbers.contains(device));
        for device in present {
            let keeps = wanted.iter().find(|(wanted, _)| *wanted == device).map_or(&[] as &[Hook], |(_, hooks)| hooks);
            let is_kept = |hook: &Hook| keeps.iter().any(|kept| kept.program == hook.program);
            for hook in ON_NODE.iter().chain(ON_POD).filter(|hook| !is_kept(hook)) {
                bpffs::unpin(&pins::path(&self.paths, hook.program, device))?;
                let settled =
                    sys::interface_index(device).is_some_and(|index| self.settled.remove(&(hook.program, index)));
                if settled && self.settings.method == Method::Clsact {
                    attach::remove_filter(hook.program, hook.side, device);
                }
            }
        }
        Ok(())
    }

    fn attach(&mut self, hooks: &[Hook], place: usize, device: &str) -> Result<Attachment> {
        let hook = hooks[place];
        let index = sys::interface_index(device);
        if index.is_some_and(|index| self.settled.contains(&(hook.program, index))) {
            return Ok(Attachment::Kept);
        }
        let program = program(&mut self.ebpf, hook.program)?;
        let attachment = match self.settings.method {
            Method::Tcx => {
                let later = hooks[place + 1..].iter().filter(|later| later.side == hook.side).copied();
                attach::link(program, &self.paths, hook, &later.collect::<Vec<_>>(), device)?
            }
            Method::Clsact => {
                // One is left to NetworkPolicy's filters, which come first (as its links do).
                attach::filter(program, hook, place as u16 + 2, device)?;
                Attachment::Attached
            }
        };
        self.settled.extend(index.map(|index| (hook.program, index)));
        Ok(attachment)
    }

    /// Takes the programs off all devices.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach(&mut self) -> Result<()> {
        let present = names()?;
        self.take_off(&present, &[])?;
        self.accelerate(&present, &[]).map(drop)
    }
}

/// Undoes what [`Devices::open`] did besides pins (those go with [`crate::Proxy::cleanup`]): the reservation of ports that
/// [`source_ports`] gives or that are the default, and filters on devices.
///
/// # Errors
/// When the list of devices or of reserved ports cannot be read or written.
pub fn cleanup() -> Result<()> {
    ports::release(&ports::HIGH)?;
    ports::release(&ports::LOW)?;
    if Method::of_this_kernel() == Method::Clsact {
        for device in names()? {
            for hook in ON_NODE.iter().chain(ON_POD) {
                attach::remove_filter(hook.program, hook.side, &device);
            }
        }
    }
    Ok(())
}

fn word4(ip: Option<Ipv4Addr>) -> Address {
    ip.map(|ip| mapped(u32::from_ne_bytes(ip.octets()))).unwrap_or_default()
}

fn word6(ip: Option<Ipv6Addr>) -> Address {
    ip.map(|ip| address(ip.octets())).unwrap_or_default()
}

/// The map with what the programs know of the node.
fn node(ebpf: &mut Ebpf) -> Result<Array<&mut MapData, Node>> {
    let map = ebpf.map_mut(NODE).ok_or_else(|| Error::Object(format!("map {NODE}")))?;
    map.try_into().map_err(Error::map(NODE))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier> {
    ebpf.program_mut(name)
        .ok_or_else(|| Error::Object(format!("program {name}")))?
        .try_into()
        .map_err(|source| Error::Program { name, source })
}

/// Loads the object and its programs that see packets; also the numbers of the maps they are on.
fn load_all(paths: &Paths, sizes: &MapSizes, acceleration: Acceleration) -> Result<(Ebpf, BTreeSet<u32>)> {
    let turn = bpffs::take_maps(paths)?;
    let mut ebpf = object::load(paths, Part::Packets, sizes)?;
    let maps = object::pinned_maps(paths)?;
    // The verifier takes its time; maps that are exchanged meanwhile have other numbers.
    drop(turn);
    for hook in ON_NODE.iter().chain(ON_POD) {
        load(&mut ebpf, hook.program)?;
    }
    if acceleration != Acceleration::Disabled {
        xdp::load(&mut ebpf)?;
    }
    Ok((ebpf, maps))
}

/// Loads one program.
fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<()> {
    let program = ebpf.program_mut(name).ok_or_else(|| Error::Object(format!("program {name}")))?;
    verifier::load(program).map_err(|source| Error::Program { name, source })
}

fn is_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|found| found >= KernelVersion::new(major, minor, 0))
}

/// Names of the devices of this thread's network namespace. (`/sys/class/net` may show another one's.)
fn names() -> Result<BTreeSet<String>> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).map_err(Error::io(format!("read {path}")))?;
    // Two lines of headings, then `name: counters`.
    Ok(text.lines().skip(2).filter_map(|line| Some(line.rsplit_once(':')?.0.trim().to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_always_there() {
        assert!(names().unwrap().contains("lo"));
    }
}

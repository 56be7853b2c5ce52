//! The per-packet programs on the node's devices: which devices, attaching, keeping what is attached.
//!
//! | program | where | minimum kernel |
//! |---|---|---|
//! | `from_device` | ingress of the node's own devices | 5.10; TCX from 6.6, before that a filter of a clsact qdisc |
//! | `to_device` | egress of the same | as above |
//! | `from_pod` | ingress of the host's ends of pods' devices | as above |
//!
//! TCX links are pinned, so they outlive the daemon; a changed program is put into the link in place of the old one, with
//! no packet in between that meets none. A clsact filter outlives the daemon too, but is replaced with a short gap.

mod pins;

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    path::Path,
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    },
    util::KernelVersion,
};
use skep_ebpf_common::{address, conntrack::Node, mapped};

use crate::{
    Attachment, Error, MapSizes, Result,
    bpffs::{self, Paths},
    kernel, object,
};

use self::pins::Pinned;

/// Where Linux lists ports it shall not choose by itself.
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// How often loading is tried when a signal interrupts it.
const LOAD_ATTEMPTS: u32 = 5;

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

/// Which devices, and what the programs need to know of the node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the node's own devices: those by which clients and other nodes reach it. Must be Ethernet.
    pub node: Vec<String>,
    /// Is a device of that name the host's end of a pod's?
    pub is_pod: fn(&str) -> bool,
    /// IPv4 address that translated sources get; without one the address the client sent to, if it is the node's own.
    pub address4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address6: Option<Ipv6Addr>,
    /// Ports that translated sources get. The kernel is told not to give them to anybody else.
    pub ports: RangeInclusive<u16>,
    /// How programs are attached.
    pub method: Method,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: Vec::new(),
            is_pod: |_| false,
            address4: None,
            address6: None,
            ports: Node::FIRST_PORT..=Node::LAST_PORT,
            method: Method::of_this_kernel(),
        }
    }
}

/// The programs, on the pinned maps, ready for devices that come. Dropping it leaves what is attached attached.
#[derive(Debug)]
pub struct Devices {
    ebpf: Ebpf,
    paths: Paths,
    settings: Settings,
    /// What filters were attached by this process.
    filters: BTreeSet<(&'static str, String)>,
}

impl Devices {
    /// Loads the programs on the maps pinned below `bpf_root` (created if need be), writes down what they need to know and
    /// reserves the ports. Attaches nothing yet.
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
        let mut ebpf = object::load(&paths, sizes)?;
        let (first, last) = (*settings.ports.start(), *settings.ports.end());
        let node = Node {
            ip4: settings.address4.map(|ip| mapped(u32::from_ne_bytes(ip.octets()))).unwrap_or_default(),
            ip6: settings.address6.map(|ip| address(ip.octets())).unwrap_or_default(),
            first_port: first,
            last_port: last,
        };
        let name = "NODE";
        let map = ebpf.map_mut(name).ok_or_else(|| Error::Object(format!("map {name}")))?;
        let mut map: Array<&mut MapData, Node> = map.try_into().map_err(Error::map(name))?;
        map.set(0, node, 0).map_err(Error::map(name))?;
        reserve(first, last)?;
        for (program, _) in [NODE_IN, NODE_OUT, POD_IN] {
            load(&mut ebpf, program)?;
        }
        Ok(Self { ebpf, paths, settings, filters: BTreeSet::new() })
    }

    /// Attaches the programs to every device that is there and should have them, keeps those that run, forgets devices
    /// that are gone. To be called again when devices come and go. Returns what concerns each device, in order.
    ///
    /// # Errors
    /// When the list of devices cannot be read, or the kernel refuses an attachment to a device that is still there.
    pub fn reconcile(&mut self) -> Result<Vec<(String, &'static str, Attachment)>> {
        let present = names()?;
        pins::remove_dead(&self.paths)?;
        self.filters.retain(|(_, device)| present.contains(device));
        let mut done = Vec::new();
        for device in &present {
            let programs: &[(&'static str, TcAttachType)] = if self.settings.node.contains(device) {
                &[NODE_IN, NODE_OUT]
            } else if (self.settings.is_pod)(device) {
                &[POD_IN]
            } else {
                continue;
            };
            for (program, side) in programs {
                match self.attach(program, *side, device) {
                    Ok(attachment) => done.push((device.clone(), *program, attachment)),
                    // It may have gone meanwhile.
                    Err(_) if !names()?.contains(device) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(done)
    }

    fn attach(&mut self, name: &'static str, side: TcAttachType, device: &str) -> Result<Attachment> {
        let program = program(&mut self.ebpf, name)?;
        match self.settings.method {
            Method::Tcx => attach_link(program, &self.paths, name, side, device),
            Method::Clsact => {
                let key = (name, device.to_owned());
                if self.filters.contains(&key) {
                    return Ok(Attachment::Kept);
                }
                attach_filter(program, name, side, device)?;
                self.filters.insert(key);
                Ok(Attachment::Attached)
            }
        }
    }

    /// Takes the programs off all devices.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach(&mut self) -> Result<()> {
        for (device, side) in names()?.iter().flat_map(|device| [NODE_IN, NODE_OUT, POD_IN].map(|side| (device, side)))
        {
            bpffs::unpin(&pins::path(&self.paths, side.0, device))?;
            if self.filters.remove(&(side.0, device.clone())) {
                // Gone with its device, else.
                let _ = tc::qdisc_detach_program(device, side.1, side.0);
            }
        }
        pins::remove_dead(&self.paths)
    }
}

/// Programs and the side of the device they are for.
const NODE_IN: (&str, TcAttachType) = ("from_device", TcAttachType::Ingress);
const NODE_OUT: (&str, TcAttachType) = ("to_device", TcAttachType::Egress);
const POD_IN: (&str, TcAttachType) = ("from_pod", TcAttachType::Ingress);

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier> {
    ebpf.program_mut(name)
        .ok_or_else(|| Error::Object(format!("program {name}")))?
        .try_into()
        .map_err(|source| Error::Program { name, source })
}

fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<()> {
    let program = program(ebpf, name)?;
    for _ in 1..LOAD_ATTEMPTS {
        match program.load() {
            // A signal came while the verifier was at work.
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map_err(|source| Error::Program { name, source }),
        }
    }
    program.load().map_err(|source| Error::Program { name, source })
}

fn attach_link(
    program: &mut SchedClassifier,
    paths: &Paths,
    name: &'static str,
    side: TcAttachType,
    device: &str,
) -> Result<Attachment> {
    let failed = |source| Error::Program { name, source };
    let info = program.info().map_err(failed)?;
    let pin = pins::path(paths, name, device);
    if let Some(pinned) = Pinned::read(&pin) {
        if pinned.tag == info.tag() && pinned.is_on(paths, &info)? {
            return Ok(Attachment::Kept);
        }
        let link: SchedClassifierLink = FdLink::from(PinnedLink::from_pin(&pin)?).try_into()?;
        let id = program.attach_to_link(link).map_err(failed)?;
        // The pin keeps it.
        drop(program.take_link(id).map_err(failed)?);
        return Ok(Attachment::Attached);
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(device, side, options).map_err(failed)?;
    let link: FdLink = program.take_link(id).map_err(failed)?.try_into()?;
    link.pin(&pin).map_err(|source| Error::Pin { what: format!("the link of {name} on {device}"), source })?;
    Ok(Attachment::Attached)
}

fn attach_filter(program: &mut SchedClassifier, name: &'static str, side: TcAttachType, device: &str) -> Result<()> {
    let failed = |source| Error::Program { name, source };
    match tc::qdisc_add_clsact(device) {
        Ok(()) | Err(tc::TcError::AlreadyAttached) => {}
        Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(failed(error.into())),
    }
    // One of an earlier daemon; mostly there is none.
    let _ = tc::qdisc_detach_program(device, side, name);
    let id =
        program.attach_with_options(device, side, TcAttachOptions::Netlink(NlOptions::default())).map_err(failed)?;
    // It would be taken off when dropped; it shall outlive this process.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(())
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

/// Keeps the kernel from giving these ports to sockets that do not ask for one.
fn reserve(first: u16, last: u16) -> Result<()> {
    let old = fs::read_to_string(RESERVED_PORTS).map_err(Error::io(format!("read {RESERVED_PORTS}")))?;
    let Some(new) = reserved(old.trim(), first, last) else { return Ok(()) };
    match fs::write(RESERVED_PORTS, &new) {
        Ok(()) => Ok(()),
        // Read-only in some containers. The range lies outside the kernel's own by default, so this is no reason to stop.
        Err(error) if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
            tracing::warn!(ports = %format!("{first}-{last}"), %error, "cannot reserve the ports of translated sources");
            Ok(())
        }
        Err(error) => Err(Error::io(format!("write {RESERVED_PORTS}"))(error)),
    }
}

/// The list with that range added; `None` if it is in it already.
fn reserved(list: &str, first: u16, last: u16) -> Option<String> {
    let ranges = list.split(',').filter(|range| !range.is_empty());
    let holds = |range: &str| {
        let (start, end) = range.split_once('-').unwrap_or((range, range));
        matches!((start.parse::<u16>(), end.parse::<u16>()), (Ok(start), Ok(end)) if start <= first && last <= end)
    };
    if ranges.clone().any(holds) {
        return None;
    }
    Some(ranges.map(str::to_owned).chain([format!("{first}-{last}")]).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_reserved_beside_the_others_and_once() {
        assert_eq!(reserved("", 61_000, 65_535).as_deref(), Some("61000-65535"));
        assert_eq!(reserved("22,30000-32767", 61_000, 65_535).as_deref(), Some("22,30000-32767,61000-65535"));
        assert_eq!(reserved("22,60000-65535", 61_000, 65_535), None);
        assert_eq!(reserved("61000-65534", 61_000, 65_535).as_deref(), Some("61000-65534,61000-65535"));
    }

    #[test]
    fn the_loopback_device_is_always_there() {
        assert!(names().unwrap().contains("lo"));
    }
}

//! What the fast lane costs a packet, measured with live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`, kernel 5.18): the kernel makes
//! frames, runs a program on each as a driver would, and sends those on that it says so of.
//!
//! The frames come back as the program left them, so at the other end of the wire a program puts them back as they were and
//! drops them, for either side alike.

use std::{net::Ipv4Addr, os::fd::AsFd, path::Path, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use nix::time::{ClockId, clock_gettime};
use skep_ebpf_common::{
    Address, TCP,
    conntrack::{Flow, Reply, Tuple, state},
    mapped,
};

use crate::{
    Error, MapSizes, Result, bpffs,
    devices::xdp,
    kernel,
    maps::{FLOWS, Part, REPLIES},
    object,
    sys::{self, verdict},
};

/// Frames of one run of the kernel's.
const FRAMES: u32 = 200_000;
/// How many of them the kernel makes at once, as a driver does.
const BATCH: u32 = 64;
/// The client's first port.
const FIRST: u16 = 10_000;
/// Where in a frame its head lies once more, and how long that is.
const COPY: i16 = 64;
const HEAD: i16 = 56;
/// Where the source port lies.
const PORT: i16 = 34;

/// The wire: a pair of devices in the caller's network namespace.
#[derive(Clone, Copy, Debug)]
pub struct Wire<'a> {
    /// The device whose packets are forwarded. A veth.
    pub device: &'a str,
    /// Its peer.
    pub peer: &'a str,
    /// The device's hardware address.
    pub hardware: [u8; 6],
    /// The node's address. A route must lead to the backend by `device` over a neighbour that is known.
    pub node: Ipv4Addr,
    /// The client's.
    pub client: Ipv4Addr,
    /// The backend's.
    pub backend: Ipv4Addr,
}

/// The time of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Forwarded by the fast lane.
    pub forwarded: Duration,
    /// Sent back unseen.
    pub bare: Duration,
}

/// Measures with `flows` flows that take turns at random, `rounds` times in turns with the bare program. The maps are of its
/// own, below `bpf_root`, and are removed afterwards.
///
/// # Errors
/// As [`crate::Proxy::load`]; when the kernel refuses the programs or the frames; and when frames were not forwarded by the
/// fast lane.
pub fn run(bpf_root: &Path, wire: &Wire<'_>, flows: u16, rounds: u32) -> Result<Vec<Report>> {
    let result = measure(bpf_root, wire, flows, rounds);
    bpffs::cleanup(bpf_root)?;
    result
}

fn measure(bpf_root: &Path, wire: &Wire<'_>, flows: u16, rounds: u32) -> Result<Vec<Report>> {
    kernel::check()?;
    let paths = bpffs::prepare(bpf_root)?;
    let _lock = bpffs::lock(bpf_root)?;
    let mut ebpf = object::load(&paths, Part::Packets, &MapSizes::default())?;
    fill(&mut ebpf, wire, flows)?;
    let failed = |what: &str| Error::io(what.to_owned());
    let bare = verdict::bounce().map_err(failed("load a program"))?;
    let peer = verdict::restorer(COPY, HEAD, PORT, FIRST, flows).map_err(failed("load a program"))?;
    let index = |device| sys::interface_index(device).unwrap_or_default();
    let _peer = verdict::attach(peer.as_fd(), index(wire.peer)).map_err(failed("attach a program"))?;
    // The device has a place of reception only while it has a program; which one does not matter.
    let _own = verdict::attach(bare.as_fd(), index(wire.device)).map_err(failed("attach a program"))?;
    let named = |name| move |source| Error::Program { name, source };
    // One packet a second of each flow is tc's.
    let tc: &mut SchedClassifier = ebpf
        .program_mut("from_device")
        .ok_or_else(|| Error::Object("program from_device".into()))?
        .try_into()
        .map_err(named("from_device"))?;
    tc.load().map_err(named("from_device"))?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    tc.attach_with_options(wire.device, TcAttachType::Ingress, order).map_err(named("from_device"))?;
    xdp::load(&mut ebpf)?;
    let lane = xdp::program(&mut ebpf)?.fd().map_err(named(xdp::PROGRAM))?;
    let frame = frame(wire);
    let time = |program| {
        let time = verdict::live_frames(program, &frame, index(wire.device), FRAMES, BATCH);
        time.map_err(Error::io("run a program on live frames"))
    };
    let mut reports = Vec::new();
    for _ in 0..rounds {
        let before = count(&paths.maps)?;
        let forwarded = time(lane.as_fd())?;
        let counted = count(&paths.maps)? - before;
        if counted < u64::from(FRAMES) * 9 / 10 {
            return Err(Error::Object(format!("fast lane: only {counted} of {FRAMES} frames went by it")));
        }
        reports.push(Report { forwarded, bare: time(bare.as_fd())? });
    }
    Ok(reports)
}

/// How many packets the fast lane has forwarded.
fn count(maps: &Path) -> Result<u64> {
    let paths = crate::maps::paths::read(maps)?;
    Ok(paths.into_iter().find(|(path, _)| *path == skep_ebpf_common::packet::Path::Xdp).map_or(0, |(_, count)| count))
}

/// Notes the flows, established, and both their entries.
fn fill(ebpf: &mut Ebpf, wire: &Wire<'_>, flows: u16) -> Result<()> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|errno| Error::io("read the clock")(errno.into()))?;
    let used = Duration::from(now).as_nanos() as u64;
    let mut entries = Vec::new();
    for number in 0..flows {
        let key = Tuple {
            source: word(wire.client),
            destination: word(wire.node),
            source_port: (FIRST + number).to_be(),
            destination_port: 30080_u16.to_be(),
            protocol: TCP,
            pad: [0; 3],
        };
        let flow = Flow {
            used,
            state: state::REPLIED,
            backend: 1,
            service: 1,
            to: word(wire.backend),
            from: word(wire.node),
            to_port: 8080_u16.to_be(),
            from_port: (61_000 + number).to_be(),
            ..Flow::default()
        }
        .sealed(&key);
        let reply_key = flow.reply_key(&key);
        let reply = Reply { state: state::REPLIED, ..Reply::new(&key, used) }.sealed(&reply_key);
        entries.push((key, flow, reply_key, reply));
    }
    for (key, flow, ..) in &entries {
        map::<Tuple, Flow>(ebpf, FLOWS)?.insert(key, flow, 0).map_err(Error::map(FLOWS))?;
    }
    for (.., key, reply) in &entries {
        map::<Tuple, Reply>(ebpf, REPLIES)?.insert(key, reply, 0).map_err(Error::map(REPLIES))?;
    }
    const TRACKING: &str = "TRACKING";
    let tracking = ebpf.map_mut(TRACKING).ok_or_else(|| Error::Object(TRACKING.into()))?;
    let mut tracking: Array<&mut MapData, u32> = tracking.try_into().map_err(Error::map(TRACKING))?;
    tracking.set(0, 1, 0).map_err(Error::map(TRACKING))
}

fn map<'a, K: aya::Pod, V: aya::Pod>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<HashMap<&'a mut MapData, K, V>> {
    let map = ebpf.map_mut(name).ok_or_else(|| Error::Object(format!("map {name}")))?;
    map.try_into().map_err(Error::map(name))
}

fn word(ip: Ipv4Addr) -> Address {
    mapped(u32::from_ne_bytes(ip.octets()))
}

/// A segment of the first flow. Its head lies in its payload once more, from where the peer puts it back.
fn frame(wire: &Wire<'_>) -> Vec<u8> {
    let mut frame = vec![];
    frame.extend(wire.hardware);
    frame.extend([2, 0, 0, 0, 0, 0xee, 8, 0]);
    frame.extend([0x45, 0, 0, 114, 0, 1, 0, 0, 64, TCP, 0, 0]);
    frame.extend(wire.client.octets());
    frame.extend(wire.node.octets());
    frame.extend(FIRST.to_be_bytes());
    frame.extend(30080_u16.to_be_bytes());
    // Numbers, five words, ACK, a window and a checksum, which nobody verifies.
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0x12, 0x34, 0, 0]);
    frame.resize(COPY as usize, 0);
    frame.extend_from_within(..HEAD as usize);
    frame.resize(128, 0);
    frame
}

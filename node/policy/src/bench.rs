//! What a change and a packet cost, measured on this kernel without a cluster.

use std::{
    fmt,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use crate::{
    Error, Metrics, Model, PodDevice, Result, Sizes,
    kernel::{self, Kernel, Method},
    programmer::Programmer,
};

/// How often each packet is judged.
const REPEAT: u32 = 1_000_000;

/// The loopback device, of which there is one in every network namespace.
const DEVICE: u32 = 1;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// From empty maps to all in force.
    pub bulk: Duration,
    /// Nanoseconds a packet, by kind.
    pub packets: Vec<(&'static str, u128)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<40} {:>8.1?}", "everything into the maps", self.bulk)?;
        self.packets.iter().try_for_each(|(kind, time)| writeln!(f, "{kind:<40} {time:>5} ns"))
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// A local pod whose ingress is isolated.
    pub isolated: Ipv4Addr,
    /// A local pod that no policy selects.
    pub free: Ipv4Addr,
    /// Who may open connections to the isolated one at `port`, and nowhere else.
    pub peer: Ipv4Addr,
    /// See `peer`.
    pub port: u16,
}

/// Measures with maps of its own below `root` (on a BPF file system), which are removed afterwards. Nothing is attached, so
/// no traffic is touched.
///
/// # Errors
/// When the kernel refuses something.
pub fn run(root: &Path, model: &mut Model, cast: Cast) -> Result<Report> {
    let result = measure(root, model, cast);
    kernel::cleanup(root)?;
    result
}

fn measure(root: &Path, model: &mut Model, cast: Cast) -> Result<Report> {
    let (mut kernel, maps) = Kernel::open(root, &Sizes::default(), Method::of_this_kernel())?;
    let mut programmer = Programmer::new(maps, None, Metrics::default())?;
    let changes = model.changes();
    let begin = Instant::now();
    programmer.apply(&changes)?;
    programmer.come_into_force()?;
    let bulk = begin.elapsed();
    let be = |programmer: &mut Programmer, pod: Ipv4Addr| {
        let device = PodDevice { name: "lo".into(), index: DEVICE, addresses: vec![pod.into()] };
        programmer.set_devices(vec![device])
    };
    let syn = |from: Ipv4Addr, to: Ipv4Addr, port: u16| segment((from, 4000), (to, port), 2);
    let mut packets = Vec::new();
    let mut time = |kernel: &mut Kernel, kind, name, frame: &[u8]| -> Result<()> {
        packets.push((kind, judge(kernel.program(name)?, name, frame)?));
        Ok(())
    };
    let Cast { isolated, free, peer, port } = cast;
    be(&mut programmer, free)?;
    time(&mut kernel, "to a pod that no policy selects", "policy_to_pod", &syn(peer, free, port))?;
    time(&mut kernel, "from a pod that no policy selects", "policy_from_pod", &syn(free, peer, port))?;
    be(&mut programmer, isolated)?;
    time(&mut kernel, "of a known flow, to an isolated pod", "policy_to_pod", &syn(peer, isolated, port))?;
    let answer = segment((isolated, port), (peer, 4000), 18);
    time(&mut kernel, "of a known flow, its answers", "policy_from_pod", &answer)?;
    time(&mut kernel, "refused: all rules are asked", "policy_to_pod", &syn(peer, isolated, port + 1))?;
    programmer.open_up()?;
    time(&mut kernel, "while nothing is enforced", "policy_to_pod", &syn(peer, isolated, port))?;
    Ok(Report { bulk, packets })
}

/// Nanoseconds a packet.
fn judge(program: &mut SchedClassifier, name: &'static str, frame: &[u8]) -> Result<u128> {
    // `struct __sk_buff`, of which only the devices are set: it came in by another one.
    let mut context = [0_u8; 192];
    context[36..40].copy_from_slice(&(DEVICE + 1).to_ne_bytes());
    context[40..44].copy_from_slice(&DEVICE.to_ne_bytes());
    let mut out = vec![0; frame.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(&context);
    options.repeat = REPEAT;
    let done = program.test_run(options).map_err(Error::program(name))?;
    Ok(done.duration.as_nanos())
}

/// An Ethernet frame with a TCP segment without payload; its checksums are left out.
fn segment(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 77, 0, 0, 64, crate::TCP, 0, 0]);
    frame.extend(from.0.octets());
    frame.extend(to.0.octets());
    frame.extend(from.1.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    frame
}

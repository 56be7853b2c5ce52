//! The fast lane on devices: its modes, what it does to real traffic, and that it stays and goes as it should.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf};

use aya::{
    maps::MapData,
    programs::{LinkOrder, TcAttachType, loaded_programs, tc::TcAttachOptions},
};
use nix::sched::{CloneFlags, unshare};
use skep_ebpf_common::{
    LAYOUT_VERSION, kind,
    packet::{Device, Path},
};
use skep_proxy::{
    Attachment::{self, Attached, Kept},
    Error, MapSizes, Proxy,
    devices::{Acceleration, Devices, Settings},
    growth::Growth,
    maps::Reader,
};
use tempfile::TempDir;

use crate::{
    craft::{TCP, UDP},
    rig::{IP4, IP6, Rig, ip, offload},
    traffic::Namespace,
};

/// A network namespace with a device of the node (a veth pair `up0` and `up0-x`), a bridge, whose driver knows no XDP, and a
/// pod's device; and a place for pins.
struct Ground(TempDir);

impl Ground {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        add("up0");
        add("pod0");
        ip("link add name br0 type bridge");
        ip("link set br0 up");
        Self(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("bpf")
    }

    fn open(&self, acceleration: Acceleration) -> Devices {
        let settings =
            Settings { is_pod: |name| name == "pod0", ports: 61_000..=65_000, acceleration, ..Settings::default() };
        let sizes = MapSizes { services: 1024, backends: 1024, flows: 1024, ..MapSizes::default() };
        Devices::open(&self.root(), &sizes, settings).unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = Proxy::cleanup(&self.root()) {
            eprintln!("cannot clean up {}: {error}", self.root().display());
        }
    }
}

fn add(name: &str) {
    ip(&format!("link add name {name} type veth peer name {name}-x"));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {name}-x up"));
}

/// What became of the fast lane on the device: its pin's name, and whether it was put there now.
fn lane<'a>(done: &'a [(String, &'static str, Attachment)]) -> Vec<(&'a str, &'static str, Attachment)> {
    let lane = done.iter().filter(|(_, program, _)| program.starts_with("from_wire"));
    lane.map(|(device, program, attachment)| (device.as_str(), *program, *attachment)).collect()
}

fn on(device: &str) -> Vec<String> {
    vec![device.to_owned()]
}

#[test]
fn it_outlives_the_daemon_and_goes_when_it_is_switched_off() {
    let ground = Ground::new();
    offload("up0-x", "gro", true);
    let mut devices = ground.open(Acceleration::Native);
    let done = devices.reconcile(&on("up0"), false).unwrap();
    assert_eq!(lane(&done), [("up0", "from_wire", Attached)], "never on a pod's device");
    assert_eq!(lane(&devices.reconcile(&on("up0"), true).unwrap()), [("up0", "from_wire", Kept)]);
    drop(devices);
    let mut devices = ground.open(Acceleration::BestEffort);
    assert_eq!(lane(&devices.reconcile(&on("up0"), false).unwrap()), [("up0", "from_wire", Kept)]);
    let status = skep_proxy::maps::Reader::open(&ground.root()).unwrap().status().unwrap();
    assert!(status.devices.iter().any(|one| one.program == "from_wire" && one.device == "up0" && one.attached));

    // The device goes and comes back; another one is the node's; nothing is left of it.
    ip("link delete up0");
    assert_eq!(lane(&devices.reconcile(&on("up0"), false).unwrap()), []);
    add("up0");
    offload("up0-x", "gro", true);
    assert_eq!(lane(&devices.reconcile(&on("up0"), false).unwrap()), [("up0", "from_wire", Attached)]);
    drop(devices);
    let mut devices = ground.open(Acceleration::Disabled);
    assert_eq!(lane(&devices.reconcile(&on("up0"), false).unwrap()), []);
    let status = skep_proxy::maps::Reader::open(&ground.root()).unwrap().status().unwrap();
    assert!(status.devices.iter().all(|one| !one.program.starts_with("from_wire")), "{:?}", status.devices);
    devices.detach().unwrap();
    skep_proxy::devices::cleanup().unwrap();
}

#[test]
fn a_driver_that_cannot_is_said_or_gone_around() {
    let ground = Ground::new();
    let mut devices = ground.open(Acceleration::Native);
    for device in ["br0", "up0"] {
        // A pair whose other end would take no frame is as good as a driver that knows nothing of it.
        assert_eq!(lane(&devices.reconcile(&on(device), false).unwrap()), []);
        let [error] = devices.refused() else { panic!("{:?}", devices.refused()) };
        assert!(matches!(&error, Error::NotNative { device: at, .. } if at == device), "{error:?}");
        assert!(error.to_string().contains("--acceleration best-effort"), "{error}");
    }
    // All else is served nevertheless.
    let status = skep_proxy::maps::Reader::open(&ground.root()).unwrap().status().unwrap();
    assert!(status.devices.iter().any(|one| one.program == "from_device" && one.device == "up0" && one.attached));
    drop(devices);
    let mut devices = ground.open(Acceleration::BestEffort);
    let both = ["br0", "up0"].map(str::to_owned);
    let generic = |attachment| [("br0", "from_wire_generic", attachment), ("up0", "from_wire_generic", attachment)];
    assert_eq!(lane(&devices.reconcile(&both, false).unwrap()), generic(Attached));
    assert_eq!(lane(&devices.reconcile(&both, true).unwrap()), generic(Kept));
    // Once the other end takes frames the mode changes, and back.
    for (hears, pin) in [(true, "from_wire"), (false, "from_wire_generic")] {
        offload("up0-x", "gro", hears);
        assert_eq!(lane(&devices.reconcile(&both, true).unwrap())[1], ("up0", pin, Attached));
        assert_eq!(lane(&devices.reconcile(&both, false).unwrap())[1], ("up0", pin, Kept));
    }
    drop(devices);
    offload("up0-x", "gro", true);
    let mut devices = ground.open(Acceleration::Native);
    assert_eq!(lane(&devices.reconcile(&on("up0"), false).unwrap()), [("up0", "from_wire", Attached)]);
    devices.detach().unwrap();
    skep_proxy::devices::cleanup().unwrap();
}

#[test]
fn larger_maps_get_into_every_program_whatever_its_link() {
    let ground = Ground::new();
    offload("up0-x", "gro", true);
    let both = ["up0".to_owned(), "br0".to_owned()];
    let mut devices = ground.open(Acceleration::BestEffort);
    let attached = devices.reconcile(&both, false).unwrap().len();
    let on_larger = || {
        let flows = MapData::from_pin(ground.root().join(format!("v{LAYOUT_VERSION}/maps/FLOWS"))).unwrap();
        let info = flows.info().unwrap();
        let records = Reader::open(&ground.root()).unwrap().status().unwrap().devices;
        let ids: Vec<u32> = records.iter().map(|record| record.id.unwrap()).collect();
        let programs = loaded_programs().map(Result::unwrap).filter(|program| ids.contains(&program.id()));
        let on: HashMap<u32, bool> =
            programs.map(|one| (one.id(), one.map_ids().unwrap().unwrap().contains(&info.id()))).collect();
        (info.max_entries(), records.len(), ids.iter().all(|id| on[id]))
    };
    assert_eq!(on_larger(), (1024, attached, true));
    Growth::prepare(&ground.root(), &[("FLOWS", 8192), ("REPLIES", 8192)].into()).unwrap().finish().unwrap();
    assert_eq!(on_larger(), (8192, attached, true));
    // The daemon's own programs are on them, too, for devices that come.
    let kept = devices.reconcile(&both, true).unwrap();
    assert!(kept.iter().all(|(.., attachment)| *attachment == Kept), "{kept:?}");
    add("pod0b");
    ip("link delete pod0");
    ip("link set pod0b down");
    ip("link set pod0b name pod0");
    ip("link set pod0 up");
    devices.reconcile(&both, false).unwrap();
    assert_eq!(on_larger(), (8192, attached, true));
}

/// As in the test of tc's programs, but the node has the lane on both devices, whose other ends take a driver's frames and
/// finish their checksums.
#[test]
fn real_traffic_is_handed_from_one_device_to_another() {
    let mut rig = Rig::bare();
    let client = Namespace::new("out0", ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.9/24", "2001:db8::9/64"]);
    let there = Namespace::new("other0", ["198.51.100.1/24", "fd09::1/64"], ["198.51.100.2/24", "fd09::2/64"]);
    for route in [" route add 192.0.2.1/32 via 198.51.100.1", " -6 route add 2001:db8::1/128 via fd09::1"] {
        ip(&format!("-n {}{route}", there.name()));
    }
    for address in ["10.2.0.5/32", "fd02::5/128"] {
        ip(&format!("-n {} address add {address} dev lo", there.name()));
    }
    ip("route add 10.2.0.0/24 via 198.51.100.2");
    ip("-6 route add fd02::/64 via fd09::2");
    for machine in [&client, &there] {
        let switch = || ["gro", "tx"].into_iter().for_each(|which| offload("eth0", which, which == "gro"));
        machine.run(switch).join().unwrap();
    }
    for device in ["out0", "other0"] {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        rig.program("from_device").attach_with_options(device, TcAttachType::Ingress, order).unwrap();
        rig.on_the_wire(device);
        rig.set_device(device, Device::new(hardware(device), Device::TAKES));
    }
    for net in [IP4, IP6] {
        there.answer(net.there);
        let node = net.node.parse::<SocketAddr>().unwrap().ip();
        for protocol in [TCP, UDP] {
            rig.serve(net.node, protocol, kind::NODE_PORT, &[(net.there, false)]);
        }
        let check = |answer: Result<String, std::io::ErrorKind>| {
            let answer = answer.expect("an answer");
            let mut words = answer.split(' ');
            assert_eq!(words.next(), Some(net.there));
            let from: SocketAddr = words.next().unwrap().parse().unwrap();
            assert_eq!(from.ip(), node, "the client as the backend sees it");
        };
        let before = rig.forwarded(Path::Xdp);
        for _ in 0..10 {
            check(client.tcp(net.node));
            check(client.udp(net.node, 64));
            check(client.udp(net.node, 3000));
        }
        // Of a connection the lane has at least an acknowledgement and what the server says.
        let carried = rig.forwarded(Path::Xdp) - before;
        assert!(carried >= 20, "{} packets of {net:?} took the lane", carried);
    }
}

/// The hardware address of a device.
fn hardware(device: &str) -> [u8; 6] {
    let output = std::process::Command::new("ip").args(["-o", "link", "show", "dev", device]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let address = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    let bytes: Vec<u8> = address.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

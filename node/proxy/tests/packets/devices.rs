//! Programs on devices: attached, kept over restarts, with devices that come and go.

use std::path::PathBuf;

use aya::maps::{Map, MapData};
use nix::sched::{CloneFlags, unshare};
use skep_proxy::{
    Attachment::{Attached, Kept},
    MapSizes, Proxy,
    devices::{Devices, Method, Settings},
    growth::Growth,
    maps::reader::status::DeviceRecord,
};
use tempfile::TempDir;

use crate::rig::ip;

const SIZES: MapSizes = MapSizes {
    services: 1024,
    backends: 1024,
    sticky: 1024,
    udp_peers: 1024,
    tcp_peers: 1024,
    connections: 0,
    flows: 1024,
};

fn node() -> Vec<String> {
    vec!["up.0".into()]
}

/// A network namespace with one device of the node, one of a pod and one of somebody else, and a place for pins.
struct Ground(TempDir);

impl Ground {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for name in ["up.0", "pod0", "else0"] {
            add(name);
        }
        Self(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("bpf")
    }

    fn open(&self, method: Method) -> Devices {
        let settings =
            Settings { is_pod: |name| name == "pod0", ports: 61_000..=65_000, method, ..Settings::default() };
        Devices::open(&self.root(), &SIZES, settings).unwrap()
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
}

#[test]
fn links_are_kept_over_restarts_and_follow_devices() {
    let ground = Ground::new();
    let all = |attachment| {
        [("pod0", "from_pod"), ("up.0", "from_device"), ("up.0", "to_device")]
            .map(|(device, program)| (device.to_owned(), program, attachment))
            .to_vec()
    };
    let mut devices = ground.open(Method::Tcx);
    assert_eq!(devices.reconcile(&node(), false).unwrap(), all(Attached));
    assert_eq!(devices.reconcile(&node(), true).unwrap(), all(Kept));
    drop(devices);
    let reserved = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap();
    assert_eq!(reserved.trim(), "61000-65000");

    // A daemon that starts again.
    let mut devices = ground.open(Method::Tcx);
    assert_eq!(devices.reconcile(&node(), false).unwrap(), all(Kept));

    // A pod goes, and another one gets a device of the same name.
    ip("link delete pod0");
    assert_eq!(devices.reconcile(&node(), false).unwrap(), all(Kept)[1..]);
    let links = ground.root().join("v3/links");
    let pins = || std::fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(pins().len(), 2, "the dead link's pin went: {:?}", pins());
    add("pod0");
    assert_eq!(devices.reconcile(&node(), false).unwrap()[0], ("pod0".to_owned(), "from_pod", Attached));

    // Programs on other maps are replaced in the links.
    for map in std::fs::read_dir(ground.root().join("v3/maps")).unwrap() {
        std::fs::remove_file(map.unwrap().path()).unwrap();
    }
    drop(devices);
    let mut devices = ground.open(Method::Tcx);
    assert_eq!(devices.reconcile(&node(), false).unwrap(), all(Attached));
    assert_eq!(devices.reconcile(&node(), false).unwrap(), all(Kept));
    let data = MapData::from_pin(ground.root().join("v3/maps/FLOWS")).unwrap();
    assert!(matches!(Map::from_map_data(data).unwrap(), Map::LruHashMap(_)));

    // Somebody removes a link; the node's address moves to another device.
    std::fs::remove_file(links.join("to_device-up%2e0")).unwrap();
    assert_eq!(devices.reconcile(&node(), false).unwrap(), all(Kept), "not looked at every time");
    // The kernel takes the link down a moment after its last holder is gone.
    let attached = (0..100).find_map(|_| {
        #[expect(clippy::disallowed_methods, reason = "no runtime here")]
        std::thread::sleep(std::time::Duration::from_millis(20));
        devices.reconcile(&node(), true).ok()
    });
    assert_eq!(attached.unwrap()[2], ("up.0".to_owned(), "to_device", Attached));
    let moved = devices.reconcile(&["else0".into()], false).unwrap();
    assert_eq!(moved.iter().map(|(device, ..)| device.as_str()).collect::<Vec<_>>(), ["else0", "else0", "pod0"]);
    assert!(pins().iter().all(|pin| !pin.to_string_lossy().contains("up%2e0")), "{:?}", pins());

    devices.detach().unwrap();
    assert_eq!(pins(), Vec::<std::ffi::OsString>::new());
    skep_proxy::devices::cleanup().unwrap();
}

#[test]
fn older_kernels_get_filters() {
    let ground = Ground::new();
    let mut devices = ground.open(Method::Clsact);
    let attached = devices.reconcile(&node(), false).unwrap();
    assert_eq!(attached.len(), 3);
    assert!(attached.iter().all(|(_, _, attachment)| *attachment == Attached));
    assert!(devices.reconcile(&node(), false).unwrap().iter().all(|(_, _, attachment)| *attachment == Kept));
    let seen = || {
        let status = skep_proxy::maps::Reader::open(&ground.root()).unwrap().status().unwrap();
        let of = |one: DeviceRecord| {
            assert!(one.is_filter && one.attached && one.tag.is_some(), "{one:?}");
            (one.program, one.device, one.id.unwrap())
        };
        status.devices.into_iter().map(of).collect::<Vec<_>>()
    };
    let before = seen();
    let names: Vec<_> = before.iter().map(|(program, device, _)| (program.as_str(), device.as_str())).collect();
    assert_eq!(names, [("from_device", "up.0"), ("to_device", "up.0"), ("from_pod", "pod0")]);
    // Larger maps get programs of their own, in the places of these.
    Growth::prepare(&ground.root(), &[("FLOWS", 4096), ("REPLIES", 4096)].into()).unwrap().finish().unwrap();
    let after = seen();
    assert!(before.iter().zip(&after).all(|(a, b)| (&a.0, &a.1) == (&b.0, &b.1) && a.2 != b.2), "{before:?} {after:?}");
    drop(devices);
    // They outlive the daemon, and the next one puts its own in their place, not beside them.
    let mut devices = ground.open(Method::Clsact);
    devices.reconcile(&node(), false).unwrap();
    devices.detach().unwrap();
    for side in [aya::programs::TcAttachType::Ingress, aya::programs::TcAttachType::Egress] {
        let program = if side == aya::programs::TcAttachType::Ingress { "from_device" } else { "to_device" };
        assert!(aya::programs::tc::qdisc_detach_program("up.0", side, program).is_err(), "a filter was left");
    }
}

#[test]
fn status_says_which_program_is_on_which_device() {
    let ground = Ground::new();
    let mut devices = ground.open(Method::Tcx);
    devices.reconcile(&node(), false).unwrap();
    let reader = skep_proxy::maps::Reader::open(&ground.root()).unwrap();
    let seen = || {
        let devices = reader.status().unwrap().devices;
        devices.into_iter().map(|one| (one.program, one.device, one.attached && one.id.is_some())).collect::<Vec<_>>()
    };
    let on = |program: &str, device: &str, attached| (program.to_owned(), device.to_owned(), attached);
    let all = [on("from_device", "up.0", true), on("to_device", "up.0", true), on("from_pod", "pod0", true)];
    assert_eq!(seen(), all);
    ip("link delete pod0");
    assert_eq!(seen()[2], on("from_pod", "pod0", false));
    let warnings = reader.status().unwrap().warnings;
    assert!(warnings.contains(&"from_pod has a link whose device pod0 is gone".to_owned()), "{warnings:?}");
}

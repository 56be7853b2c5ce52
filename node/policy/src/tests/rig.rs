//! A node in a box: namespaces, devices, a BPF file system, the programs loaded, a cluster as the API would tell it.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
};

use aya::{TestRunOptions, programs::TestRun as _};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};
use skep_ebpf_common::policy::Verdict;
use tempfile::TempDir;

use crate::{
    Metrics, Model, PodDevice, Sizes,
    kernel::{Kernel, Maps, Method, Paths},
    programmer::Programmer,
    world::{Followed, World},
};

/// `TCX_NEXT`: the packet goes on.
const NEXT: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
const DROP: u32 = 2;

pub(super) const SIZES: Sizes = Sizes { identities: 4096, rules: 4096, flows: 4096 };

/// UDP port of the tunnel between nodes.
pub(super) const TUNNEL: u16 = 8472;

/// The two sides of a pod's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    FromPod,
    ToPod,
}

pub(super) struct Rig {
    pub(super) kernel: Kernel,
    pub(super) programmer: Programmer,
    pub(super) world: World,
    pub(super) devices: Vec<PodDevice>,
    /// Some device that is no pod's.
    outside: u32,
    dir: TempDir,
}

impl Rig {
    /// Seen from node `n0`, which is `10.9.0.0`; enforced from the start.
    pub(super) fn new() -> Self {
        Self::with(SIZES)
    }

    pub(super) fn with(sizes: Sizes) -> Self {
        let dir = ground();
        let (kernel, maps) = Kernel::open(dir.path(), &sizes, Method::of_this_kernel()).unwrap();
        let programmer = Programmer::new(maps, Some(TUNNEL), Metrics::default()).unwrap();
        let outside = add_device("out0");
        // So that what is for nobody here leads somewhere.
        ip("route add default dev out0");
        ip("-6 route add default dev out0");
        let mut rig = Self { kernel, programmer, world: World::new("n0"), devices: Vec::new(), outside, dir };
        for number in [0, 1] {
            let address = format!("10.9.0.{number}");
            rig.node(&format!("n{number}"), &address);
        }
        rig.write();
        rig.programmer.come_into_force().unwrap();
        rig
    }

    /// A daemon that starts again, with all that is known now (of another cluster, perhaps).
    pub(super) fn begin(&mut self, model: Model) {
        self.take_over(model);
        self.write();
        self.programmer.come_into_force().unwrap();
    }

    /// The same, before the API told it anything: the maps are as it finds them.
    pub(super) fn take_over(&mut self, model: Model) {
        let maps = Maps::open(&Paths::new(self.dir.path()).maps).unwrap();
        self.programmer = Programmer::new(maps, Some(TUNNEL), Metrics::default()).unwrap();
        self.world = World::new("n0");
        self.world.model = model;
    }

    pub(super) fn root(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(super) fn node(&mut self, name: &str, address: &str) {
        let addresses = json!([{ "type": "InternalIP", "address": address }]);
        self.apply::<k8s_openapi::api::core::v1::Node>(
            &json!({ "metadata": { "name": name }, "status": { "addresses": addresses } }),
        );
    }

    pub(super) fn namespace(&mut self, name: &str, labels: &Value) {
        let object = json!({ "metadata": { "name": name, "labels": labels } });
        self.apply::<k8s_openapi::api::core::v1::Namespace>(&object);
    }

    /// A pod, with a device if it is on this node (`n0`).
    pub(super) fn pod(&mut self, name: &str, labels: &Value, node: &str, addresses: &[&str]) {
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        self.apply::<k8s_openapi::api::core::v1::Pod>(&json!({
            "metadata": { "name": name, "namespace": "default", "labels": labels },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": "Running", "podIPs": ips },
        }));
        let known = self.devices.iter().any(|device| device.addresses.contains(&addresses[0].parse().unwrap()));
        if node == "n0" && !known {
            self.connect(addresses);
        }
        self.write();
    }

    /// A pod's device, and nothing more.
    pub(super) fn connect(&mut self, addresses: &[&str]) {
        let name = format!("skep{:011x}", self.devices.len());
        let index = add_device(&name);
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        self.devices.push(PodDevice { name, index, addresses });
    }

    /// A policy in the pods' namespace.
    pub(super) fn policy(&mut self, name: &str, spec: &Value) {
        let object = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec });
        self.apply::<k8s_openapi::api::networking::v1::NetworkPolicy>(&object);
        self.write();
    }

    pub(super) fn remove_policy(&mut self, name: &str) {
        self.world.model.remove_policy("default", name);
        self.write();
    }

    fn apply<K: Followed + serde::de::DeserializeOwned>(&mut self, object: &Value) {
        serde_json::from_value::<K>(object.clone()).unwrap().apply(&mut self.world);
    }

    /// Writes what changed.
    pub(super) fn write(&mut self) {
        let changes = self.world.model.changes();
        self.programmer.set_devices(self.devices.clone()).unwrap();
        self.programmer.apply(&changes).unwrap();
    }

    /// Does a frame pass at a side of the device of the pod with that address? What goes to a pod came in by another device.
    pub(super) fn passes(&mut self, side: Side, pod: &str, frame: &[u8]) -> bool {
        let pod: IpAddr = pod.parse().unwrap();
        let device = self.devices.iter().find(|device| device.addresses.contains(&pod)).unwrap().index;
        self.run(side, device, self.outside, frame)
    }

    /// Does a frame of this node itself pass to the pod with that address?
    pub(super) fn passes_from_node(&mut self, pod: &str, frame: &[u8]) -> bool {
        let pod: IpAddr = pod.parse().unwrap();
        let device = self.devices.iter().find(|device| device.addresses.contains(&pod)).unwrap().index;
        self.run(Side::ToPod, device, 0, frame)
    }

    pub(super) fn run(&mut self, side: Side, device: u32, came_by: u32, frame: &[u8]) -> bool {
        // `struct __sk_buff`, of which only these two are set.
        let mut context = [0_u8; 192];
        context[36..40].copy_from_slice(&came_by.to_ne_bytes());
        context[40..44].copy_from_slice(&device.to_ne_bytes());
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let name = match side {
            Side::FromPod => "policy_from_pod",
            Side::ToPod => "policy_to_pod",
        };
        let verdict = self.kernel.program(name).unwrap().test_run(options).unwrap().return_value;
        assert!(verdict == NEXT || verdict == DROP, "verdict {verdict}");
        verdict == NEXT
    }

    /// A frame from one pod to another, both here: must pass at both devices.
    pub(super) fn passes_between(&mut self, from: &str, to: &str, frame: &[u8]) -> bool {
        self.passes(Side::FromPod, from, frame) && self.passes(Side::ToPod, to, frame)
    }

    /// How often there was that verdict in any direction.
    pub(super) fn count(&self, verdict: Verdict) -> u64 {
        let all = crate::metrics::packets(self.dir.path()).unwrap();
        all.into_iter().filter(|(other, _, _)| *other == verdict).map(|(_, _, count)| count).sum()
    }
}

/// Network and mount namespaces of this thread's own, and a BPF file system that goes with them.
pub(super) fn ground() -> TempDir {
    assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    dir
}

/// A device that is up; its number.
pub(super) fn add_device(name: &str) -> u32 {
    ip(&format!("link add name {name} type veth peer name {}-x", &name[name.len().saturating_sub(12)..]));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {}-x up", &name[name.len().saturating_sub(12)..]));
    let output = Command::new("ip").args(["-o", "link", "show", "dev", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(':').next().unwrap().trim().parse().unwrap()
}

pub(super) fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

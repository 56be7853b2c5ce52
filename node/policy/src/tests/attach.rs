//! Programs on devices: first in order, kept over restarts, with devices that come and go, gone with the cleanup.

use aya::programs::{SchedClassifier, TcAttachType};

use super::rig::{add_device, ground, ip};
use crate::{
    Enforcer, PodDevice,
    kernel::{Kernel, Method},
};

const NAME: &str = "skep0123456789a";

fn device() -> PodDevice {
    PodDevice { name: NAME.into(), index: add_device(NAME), addresses: Vec::new() }
}

/// Numbers of the programs on a side of the device, in the order in which they run.
fn programs(side: TcAttachType) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(NAME, side).unwrap();
    programs.iter().map(|program| program.id()).collect()
}

/// The kernel takes a program off some time after its link is gone.
fn wait_for(side: TcAttachType, count: usize) {
    for _ in 0..500 {
        if programs(side).len() == count {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "no runtime here")]
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("still there: {:?}", programs(side));
}

#[test]
fn links_outlive_the_daemon_and_follow_devices() {
    let dir = ground();
    let open = || Kernel::open(dir.path(), &super::rig::SIZES, Method::Tcx).unwrap().0;
    let pins = || std::fs::read_dir(dir.path().join("policy/v1/links")).unwrap().count();
    let pod = device();

    // Somebody else's program is there before: ours goes first.
    let mut other = open();
    let id = other.program("policy_to_pod").unwrap().attach(NAME, TcAttachType::Ingress).unwrap();
    let others = programs(TcAttachType::Ingress);
    let mut kernel = open();
    assert_eq!(kernel.attach(std::slice::from_ref(&pod)).unwrap(), 1);
    let first = programs(TcAttachType::Ingress);
    assert_eq!((first.len(), &first[1..]), (2, &others[..]));
    other.program("policy_to_pod").unwrap().detach(id).unwrap();
    drop(other);
    assert_eq!(kernel.attach(std::slice::from_ref(&pod)).unwrap(), 0, "nothing is left to do");
    assert_eq!(programs(TcAttachType::Egress).len(), 1);
    // Where tools look for them.
    let reader = crate::reader::Reader::open(dir.path()).unwrap();
    let (names, links) = reader.programs();
    assert!(names.iter().all(|name| links.join(format!("{name}-{NAME}")).exists()), "{names:?} {links:?}");

    // The daemon goes; the next one puts its own program in the link's place.
    drop(kernel);
    assert_eq!(programs(TcAttachType::Ingress), first[..1]);
    let mut kernel = open();
    assert_eq!(programs(TcAttachType::Ingress), first[..1]);
    kernel.attach(std::slice::from_ref(&pod)).unwrap();
    let second = programs(TcAttachType::Ingress);
    assert_eq!(second.len(), 1);
    assert_ne!(second, first[..1]);

    // The pod goes, and another one gets a device of the same name.
    ip(&format!("link delete {NAME}"));
    let pod = device();
    assert_eq!(kernel.attach(std::slice::from_ref(&pod)).unwrap(), 1);
    assert_eq!(programs(TcAttachType::Ingress).len(), 1);
    assert_eq!(pins(), 2);
    kernel.attach(&[]).unwrap();
    assert_eq!(pins(), 0, "no pod's device any more");
    wait_for(TcAttachType::Ingress, 0);

    kernel.attach(&[pod]).unwrap();
    drop(kernel);
    Enforcer::cleanup(dir.path()).unwrap();
    wait_for(TcAttachType::Ingress, 0);
    wait_for(TcAttachType::Egress, 0);
    assert!(!dir.path().join("policy").exists());
    Enforcer::cleanup(dir.path()).unwrap();
}

#[test]
fn older_kernels_get_filters_that_run_first() {
    let dir = ground();
    let open = || Kernel::open(dir.path(), &super::rig::SIZES, Method::Clsact).unwrap().0;
    let pod = device();
    assert_eq!(open().attach(std::slice::from_ref(&pod)).unwrap(), 1);
    assert_eq!(open().attach(&[pod]).unwrap(), 1, "the next daemon's take their place");
    let output = std::process::Command::new("tc").args(["filter", "show", "dev", NAME, "ingress"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let filters: Vec<&str> = text.lines().filter(|line| line.contains("policy_from_pod")).collect();
    assert_eq!(filters.len(), 1, "{text}");
    assert!(filters[0].contains("pref 1 "), "{text}");
}

#[test]
fn another_versions_programs_go_once_this_ones_enforce() {
    let dir = ground();
    let open = || Kernel::open(dir.path(), &super::rig::SIZES, Method::Tcx).unwrap().0;
    let pod = device();
    open().attach(std::slice::from_ref(&pod)).unwrap();
    std::fs::rename(dir.path().join("policy/v1"), dir.path().join("policy/v0")).unwrap();
    let mut kernel = open();
    kernel.attach(&[pod]).unwrap();
    assert_eq!(programs(TcAttachType::Ingress).len(), 2, "both enforce");
    kernel.remove_other_versions().unwrap();
    assert!(!dir.path().join("policy/v0").exists());
    wait_for(TcAttachType::Ingress, 1);
}

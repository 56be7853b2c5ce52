//! Events as the API's watches deliver them, against maps on the real kernel. Needs root.

mod growing;
mod leaving;
mod sequences;

use std::{fs, path::PathBuf};

use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::{Config, MapSizes, maps::Reader};

/// Maps, and programs attached to an empty cgroup, that go with the test.
struct Ground {
    dir: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Ground {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let cgroup = crate::cgroup::root(None).unwrap().join(format!("skep-watch-{name}"));
        fs::create_dir(&cgroup).unwrap();
        Self { dir, cgroup }
    }

    fn keeper(&self) -> Keeper {
        self.keeper_with(16)
    }

    fn keeper_with(&self, services: u32) -> Keeper {
        let proxy = Proxy::load(Config {
            bpf_root: self.dir.path().join("bpf"),
            cgroup_root: Some(self.cgroup.clone()),
            maps: MapSizes {
                services,
                backends: 64,
                sticky: 64,
                udp_peers: 64,
                tcp_peers: 64,
                connections: 0,
                flows: 64,
            },
            ..Config::default()
        })
        .unwrap();
        Keeper::new(Tracker::new(None, 0), proxy.programmer, proxy.metrics, proxy.health, proxy.bpf_root)
    }

    /// What the kernel serves, a line per service port.
    fn served(&self) -> Vec<String> {
        let services = Reader::open(&self.dir.path().join("bpf")).unwrap().services().unwrap();
        let line = |service: crate::maps::reader::ServiceRecord| {
            let mut backends: Vec<String> = service.backends.iter().map(|b| b.address.ip().to_string()).collect();
            backends.sort();
            let mut frontends: Vec<String> =
                service.frontends.iter().map(|f| format!("{}:{}", f.address, f.port)).collect();
            frontends.sort();
            format!("{} {} {}", service.name, frontends.join(","), backends.join(","))
        };
        services.into_iter().map(line).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = Proxy::cleanup(&self.dir.path().join("bpf")) {
            eprintln!("cannot clean up {}: {error}", self.dir.path().display());
        }
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn service(name: &str, vip: &str, ports: &[u16]) -> Service {
    let ports: Vec<Value> = ports.iter().map(|port| json!({ "name": format!("p{port}"), "port": port })).collect();
    serde_json::from_value(json!({
        "metadata": { "namespace": "ns", "name": name },
        "spec": { "clusterIP": vip, "clusterIPs": [vip], "ports": ports },
    }))
    .unwrap()
}

fn slice(service: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    serde_json::from_value(json!({
        "metadata": { "namespace": "ns", "name": format!("{service}-x"),
            "labels": { "kubernetes.io/service-name": service },
            "annotations": { TRIGGER_TIME: "2026-01-01T00:00:00Z" } },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "p80", "port": 8080 }, { "name": "p81", "port": 8081 }],
    }))
    .unwrap()
}

/// A pod at `ip` with a host port, at the node's address `at` or, if that is empty, at all of them.
fn host_port_pod(name: &str, at: &str, port: u16, ip: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "namespace": "ns", "name": name },
        "spec": { "containers": [{ "name": "c",
            "ports": [{ "containerPort": 80, "hostPort": port, "hostIP": at }] }] },
        "status": { "phase": "Running", "podIP": ip },
    }))
    .unwrap()
}

async fn list_services(keeper: &mut Keeper, services: impl IntoIterator<Item = Service>) {
    keeper.service_event(Event::Init).await;
    for service in services {
        keeper.service_event(Event::InitApply(service)).await;
    }
    keeper.service_event(Event::InitDone).await;
}

async fn list_slices(keeper: &mut Keeper, slices: impl IntoIterator<Item = EndpointSlice>) {
    keeper.slice_event(Event::Init).await;
    for slice in slices {
        keeper.slice_event(Event::InitApply(slice)).await;
    }
    keeper.slice_event(Event::InitDone).await;
}

async fn list_pods(keeper: &mut Keeper, pods: impl IntoIterator<Item = Pod>) {
    keeper.pod_event(Event::Init).await;
    for pod in pods {
        keeper.pod_event(Event::InitApply(pod)).await;
    }
    keeper.pod_event(Event::InitDone).await;
}

#[tokio::test]
async fn an_annotation_that_cannot_be_read_is_counted_and_the_service_served_without_it() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    let mut a = service("a", "10.97.0.1", &[80]);
    a.metadata.annotations = Some([("skep.dev/zone-weights".to_owned(), "a=much".to_owned())].into());
    list_services(&mut keeper, [a.clone()]).await;
    list_slices(&mut keeper, [slice("a", &["10.0.0.1"])]).await;
    assert_eq!(ground.served(), ["a 10.97.0.1:80 10.0.0.1"]);
    assert_eq!(keeper.metrics.annotations_ignored.get(), 1);
    keeper.service_event(Event::Apply(a)).await;
    assert_eq!(keeper.metrics.annotations_ignored.get(), 1, "said once");
}

#[tokio::test]
async fn every_change_is_served_at_once() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [service("a", "10.97.0.1", &[80])]).await;
    list_slices(&mut keeper, [slice("a", &["10.0.0.1"])]).await;
    assert_eq!(ground.served(), ["a 10.97.0.1:80 10.0.0.1"]);

    keeper.slice_event(Event::Apply(slice("a", &["10.0.0.1", "10.0.0.2"]))).await;
    assert_eq!(ground.served(), ["a 10.97.0.1:80 10.0.0.1,10.0.0.2"]);
    // A slice may come before its Service.
    keeper.slice_event(Event::Apply(slice("b", &["10.0.0.3"]))).await;
    keeper.service_event(Event::Apply(service("b", "10.97.0.2", &[80]))).await;
    assert_eq!(ground.served(), ["a 10.97.0.1:80 10.0.0.1,10.0.0.2", "b 10.97.0.2:80 10.0.0.3"]);
    // A port more, then another one instead.
    keeper.service_event(Event::Apply(service("b", "10.97.0.2", &[80, 81]))).await;
    keeper.service_event(Event::Apply(service("a", "10.97.0.1", &[81]))).await;
    let wanted = ["a 10.97.0.1:81 10.0.0.1,10.0.0.2", "b 10.97.0.2:80 10.0.0.3", "b 10.97.0.2:81 10.0.0.3"];
    assert_eq!(ground.served(), wanted);
    keeper.service_event(Event::Delete(service("b", "10.97.0.2", &[80, 81]))).await;
    // The last word on a slice may show it as it is by now, without the label that named its Service.
    let mut gone = slice("a", &[]);
    gone.metadata.labels = None;
    keeper.slice_event(Event::Delete(gone)).await;
    assert_eq!(ground.served(), ["a 10.97.0.1:81 "]);
    assert_eq!(keeper.metrics.endpoint_changes.get(), 4);
    // What changes nothing is not pending either.
    keeper.service_event(Event::Apply(service("a", "10.97.0.1", &[81]))).await;
    assert_eq!(keeper.metrics.service_changes_pending.get(), 0);
}

#[tokio::test]
async fn nothing_is_touched_before_both_lists_are_known() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [service("a", "10.97.0.1", &[80]), service("b", "10.97.0.2", &[80])]).await;
    list_slices(&mut keeper, [slice("a", &["10.0.0.1"]), slice("b", &["10.0.0.2"])]).await;
    let before = ground.served();
    drop(keeper);

    // A new daemon hears of the slices late; meanwhile b was deleted.
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [service("a", "10.97.0.1", &[80])]).await;
    keeper.slice_event(Event::Init).await;
    assert_eq!(ground.served(), before);
    assert_eq!(keeper.programmer.writes(), Default::default());
    keeper.slice_event(Event::InitApply(slice("a", &["10.0.0.1"]))).await;
    keeper.slice_event(Event::InitDone).await;
    assert_eq!(ground.served(), before[..1]);
    let writes = keeper.programmer.writes();
    // Entry, frontend, address, names, slot and backend of b; a was not touched.
    assert_eq!((writes.updates, writes.deletes), (0, 6));
}

#[tokio::test]
async fn what_is_missing_from_a_new_list_goes() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [service("a", "10.97.0.1", &[80]), service("b", "10.97.0.2", &[80])]).await;
    list_slices(&mut keeper, [slice("a", &["10.0.0.1"]), slice("b", &["10.0.0.2"])]).await;
    // The watches broke, and came back with new lists.
    list_slices(&mut keeper, [slice("b", &["10.0.0.2"])]).await;
    assert_eq!(ground.served(), ["a 10.97.0.1:80 ", "b 10.97.0.2:80 10.0.0.2"]);
    list_services(&mut keeper, [service("b", "10.97.0.2", &[80])]).await;
    assert_eq!(ground.served(), ["b 10.97.0.2:80 10.0.0.2"]);
}

#[tokio::test]
async fn an_address_that_changes_hands_is_served_for_its_new_owner() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [service("a", "10.97.0.1", &[80])]).await;
    list_slices(&mut keeper, [slice("a", &["10.0.0.1"]), slice("b", &["10.0.0.2"])]).await;
    // The new one is seen before the old one is gone.
    keeper.service_event(Event::Apply(service("b", "10.97.0.1", &[80]))).await;
    keeper.slice_event(Event::Apply(slice("b", &["10.0.0.3"]))).await;
    keeper.service_event(Event::Delete(service("a", "10.97.0.1", &[80]))).await;
    assert_eq!(ground.served(), ["b 10.97.0.1:80 10.0.0.3"]);
}

#[tokio::test]
async fn a_slice_of_a_service_that_lost_its_address_unseen_does_not_take_it_back() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [service("a", "10.97.0.1", &[80])]).await;
    list_slices(&mut keeper, [slice("a", &["10.0.0.1"]), slice("b", &["10.0.0.2"])]).await;
    // The watch of Services broke; meanwhile a went and b got its address. Before the new list is complete comes word of
    // a's endpoints.
    keeper.service_event(Event::Init).await;
    keeper.service_event(Event::InitApply(service("b", "10.97.0.1", &[80]))).await;
    keeper.slice_event(Event::Apply(slice("a", &["10.0.0.9"]))).await;
    assert_eq!(ground.served(), ["b 10.97.0.1:80 10.0.0.2"]);
    keeper.service_event(Event::InitDone).await;
    assert_eq!(ground.served(), ["b 10.97.0.1:80 10.0.0.2"]);

    // And when the newer one gives the address up, the older one that still has it is served again.
    keeper.service_event(Event::Apply(service("c", "10.97.0.1", &[80]))).await;
    assert_eq!(ground.served(), ["c 10.97.0.1:80 "]);
    keeper.service_event(Event::Delete(service("c", "10.97.0.1", &[80]))).await;
    assert_eq!(ground.served(), ["b 10.97.0.1:80 10.0.0.2"]);
    keeper.service_event(Event::Delete(service("b", "10.97.0.1", &[80]))).await;
    assert_eq!(ground.served(), [""; 0]);
}

#[tokio::test]
async fn a_full_map_is_counted_and_tried_again() {
    let ground = Ground::new();
    let mut keeper = ground.keeper_with(1);
    list_services(&mut keeper, [service("a", "10.97.0.1", &[80])]).await;
    list_slices(&mut keeper, []).await;
    keeper.service_event(Event::Apply(service("b", "10.97.0.2", &[80]))).await;
    assert_eq!((keeper.metrics.failures.get(), keeper.failed.len()), (1, 1));
    assert!(keeper.nearly_full.contains("SERVICES"));
    keeper.service_event(Event::Delete(service("a", "10.97.0.1", &[80]))).await;
    let again = keeper.failed.iter().cloned().collect();
    keeper.serve(again).await;
    assert_eq!(ground.served(), ["b 10.97.0.2:80 "]);
    assert!(keeper.failed.is_empty());
}

#[tokio::test]
async fn host_ports_of_a_former_daemon_stay_until_the_pods_are_known() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    // What is to be served does not wait for the list of pods, and that waits for nothing.
    list_pods(&mut keeper, [host_port_pod("p", "", 8080, "10.1.0.1"), host_port_pod("q", "", 8081, "10.1.0.2")]).await;
    list_services(&mut keeper, [service("p", "10.97.0.1", &[80])]).await;
    list_slices(&mut keeper, []).await;
    let both = ["p 0.0.0.0:8080 10.1.0.1", "p 10.97.0.1:80 ", "q 0.0.0.0:8081 10.1.0.2"];
    let served = || {
        let mut served = ground.served();
        served.sort();
        served
    };
    assert_eq!(served(), both);
    drop(keeper);

    let mut keeper = ground.keeper();
    list_services(&mut keeper, [service("p", "10.97.0.1", &[80])]).await;
    list_slices(&mut keeper, []).await;
    assert_eq!(served(), both);
    assert_eq!(keeper.programmer.writes(), Default::default());
    // One has ended meanwhile; the other one is not touched.
    list_pods(&mut keeper, [host_port_pod("p", "", 8080, "10.1.0.1")]).await;
    assert_eq!(served(), both[..2]);
    assert_eq!(keeper.programmer.writes().updates, 0);
}

#[tokio::test]
async fn a_service_left_without_frontends_is_not_kept_in_the_maps() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    list_services(&mut keeper, [service("a", "10.97.0.1", &[80])]).await;
    list_slices(&mut keeper, []).await;
    keeper.service_event(Event::Apply(service("b", "10.97.0.1", &[80]))).await;
    assert_eq!(keeper.programmer.ports().count(), 1);
    keeper.service_event(Event::Delete(service("b", "10.97.0.1", &[80]))).await;
    assert_eq!(ground.served(), ["a 10.97.0.1:80 "]);
}

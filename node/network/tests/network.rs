//! The pod network against the real kernel: every node and pod here is a network namespace made by the test.
//! Needs root and iproute2.

#[path = "network/harness.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod harness;

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Namespace, Node, PATIENCE, exchange};
use skep_network::{CONFLIST_NAME, GATEWAY, Network, Reconciled, Watch, host_device_name, pod_devices};

#[test]
fn pods_and_their_node_reach_each_other_under_their_own_addresses() {
    let node = Node::new("10.77.0.0/24");
    let (a, b) = (node.add("pod-a"), node.add("pod-b"));
    let node_ip = Node::ADDRESS.to_string();
    assert_eq!(exchange(&a.namespace, &b.namespace, b.address), a.address.to_string());
    assert_eq!(exchange(&b.namespace, &a.namespace, a.address), b.address.to_string());
    assert_eq!(exchange(&node.namespace, &a.namespace, a.address), node_ip);
    assert_eq!(exchange(&a.namespace, &node.namespace, Node::ADDRESS), a.address.to_string());
    assert_eq!(exchange(&a.namespace, &a.namespace, a.address), a.address.to_string());
    assert_eq!(exchange(&a.namespace, &a.namespace, Ipv4Addr::LOCALHOST), "127.0.0.1");
}

#[test]
fn the_nodes_ends_of_wires_are_told_with_the_addresses_behind_them() {
    let node = Node::new("10.77.0.0/24");
    let found = || node.namespace.run(|| pod_devices().unwrap());
    assert_eq!(found(), []);
    let (a, b) = (node.add("pod-a"), node.add("pod-b"));
    let told: Vec<_> = found().into_iter().map(|device| (device.name, device.addresses)).collect();
    let wire = |container, address| (host_device_name(container, "eth0"), vec![address]);
    assert_eq!(told, [wire("pod-a", a.address), wire("pod-b", b.address)]);
    assert!(found()[0].index < found()[1].index);
    let inside = |namespace: &Namespace| namespace.ip("-o link show dev eth0");
    for (device, namespace) in found().iter().zip([&a.namespace, &b.namespace]) {
        let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        assert!(inside(namespace).contains(&format!("link/ether {}", text(device.pod_mac))));
        assert!(node.namespace.ip(&format!("-o link show dev {}", device.name)).contains(&text(device.mac)));
        assert!(inside(namespace).contains(&format!(" mtu {} ", device.mtu)));
        assert!(!device.is_limited);
    }
    let name = found()[1].name.clone();
    node.namespace.run(|| {
        let watch = Watch::open().unwrap();
        let limit = format!("qdisc add dev {name} root tbf rate 1mbit burst 64kb latency 50ms");
        assert!(Command::new("tc").args(limit.split(' ')).status().unwrap().success());
        watch.wait().unwrap();
    });
    assert_eq!(found().iter().map(|device| device.is_limited).collect::<Vec<_>>(), [false, true]);
    node.delete("pod-a", Some(&a.namespace.path));
    assert_eq!(found().len(), 1);
}

#[test]
fn a_pod_reaches_what_the_node_routes_and_is_answered() {
    let node = Node::new("10.77.0.0/24");
    let pod = node.add("pod");
    // The other end of the node's uplink stands for the rest of the network.
    let outside = &node.outside;
    outside.ip(&format!("route add 10.77.0.0/24 via {}", Node::ADDRESS));
    assert_eq!(exchange(&pod.namespace, outside, Node::OUTSIDE), pod.address.to_string());
    assert_eq!(exchange(outside, &pod.namespace, pod.address), Node::OUTSIDE.to_string());
}

#[test]
fn the_result_says_what_is_there_in_the_words_of_each_version() {
    let node = Node::new("10.77.0.0/24");
    for (n, version) in ["0.3.1", "0.4.0", "1.0.0"].into_iter().enumerate() {
        let pod = Namespace::new();
        let container = format!("c{n}");
        let result = node.call_as(version, "ADD", &container, Some(&pod.path)).unwrap();
        assert_eq!(result["cniVersion"], version);
        let address = format!("10.77.0.{}/32", n + 2);
        assert_eq!(result["ips"][0]["address"], address);
        assert_eq!(result["ips"][0].get("version").is_some(), version != "1.0.0");
        assert_eq!(result["interfaces"][0]["name"], host_device_name(&container, "eth0"));
        assert_eq!(result["interfaces"][1]["sandbox"], pod.path.to_str().unwrap());
        let shown = pod.ip("-4 -oneline address show dev eth0");
        assert!(shown.contains(&address), "{shown}");
        let link = pod.ip("-oneline link show dev eth0");
        assert!(link.contains(result["interfaces"][1]["mac"].as_str().unwrap()) && link.contains("mtu 1400"), "{link}");
        assert_eq!(pod.ip("-4 route show"), format!("default via {GATEWAY} dev eth0 onlink \n"));
        node.call_as(version, "DEL", &container, Some(&pod.path)).unwrap();
    }
}

#[test]
fn delete_leaves_nothing_and_may_come_twice_or_after_the_namespace_is_gone() {
    let node = Node::new("10.77.0.0/24");
    let before = node.inventory();
    let pod = node.add("pod");
    assert_ne!(node.inventory(), before);
    node.delete("pod", Some(&pod.namespace.path));
    assert_eq!(node.inventory(), before);
    assert!(!pod.namespace.ip("link show").contains("eth0"));
    node.delete("pod", Some(&pod.namespace.path));
    node.delete("never-added", None);

    let gone = node.add("gone");
    let path = gone.namespace.path.clone();
    drop(gone);
    node.delete("gone", Some(&path));
    let unnamed = node.add("unnamed");
    node.delete("unnamed", None);
    drop(unnamed);
    assert_eq!(node.inventory(), before);
    assert!(node.network.leases().unwrap().is_empty());
}

#[test]
fn adding_again_gives_the_same_and_mends_what_is_broken() {
    let node = Node::new("10.77.0.0/24");
    let pod = node.add("pod");
    let again = node.call("ADD", "pod", Some(&pod.namespace.path)).unwrap();
    assert_eq!(again["ips"][0]["address"], format!("{}/32", pod.address));
    node.call("CHECK", "pod", Some(&pod.namespace.path)).unwrap();

    pod.namespace.ip("route del default");
    let error = node.call("CHECK", "pod", Some(&pod.namespace.path)).unwrap_err();
    assert_eq!(
        (&error["code"], &error["msg"]),
        (&101.into(), &"the pod has no default route over eth0 to 169.254.1.1".into())
    );
    let mended = node.call("ADD", "pod", Some(&pod.namespace.path)).unwrap();
    assert_eq!(mended["ips"], again["ips"]);
    assert_eq!(exchange(&pod.namespace, &node.namespace, Node::ADDRESS), pod.address.to_string());
    assert_eq!(node.network.leases().unwrap().len(), 1);
}

#[test]
fn a_full_pod_cidr_is_a_clear_error_and_a_freed_address_ends_it() {
    let node = Node::new("10.77.0.0/29");
    let pods: Vec<_> = (0..5).map(|n| node.add(&format!("c{n}"))).collect();
    let before = node.inventory();
    let late = Namespace::new();
    let error = node.call("ADD", "late", Some(&late.path)).unwrap_err();
    assert_eq!(error["code"], 11);
    assert_eq!(error["msg"], "no free address in 10.77.0.0/29: all 5 are in use by pods of this node");
    assert_eq!(node.inventory(), before);
    node.delete("c3", Some(&pods[3].namespace.path));
    let result = node.call("ADD", "late", Some(&late.path)).unwrap();
    assert_eq!(result["ips"][0]["address"], format!("{}/32", pods[3].address));
}

#[test]
fn pods_added_at_once_never_share_an_address() {
    let node = Node::new("10.77.0.0/24");
    let pods: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let node = &node;
                scope.spawn(move || (0..4).map(|n| node.add(&format!("c{thread}-{n}"))).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(pods.iter().map(|pod| pod.address).collect::<HashSet<_>>().len(), 32);
    for pod in &pods {
        assert_eq!(exchange(&node.namespace, &pod.namespace, pod.address), Node::ADDRESS.to_string());
    }
    // Deletions and additions at once as well.
    std::thread::scope(|scope| {
        for (n, pod) in pods.iter().enumerate() {
            let node = &node;
            scope.spawn(move || match n % 2 {
                0 => node.delete(&format!("c{}-{}", n / 4, n % 4), Some(&pod.namespace.path)),
                _ => drop(node.add(&format!("d{n}"))),
            });
        }
    });
    let leases = node.network.leases().unwrap();
    assert_eq!(leases.len(), 32);
    assert_eq!(leases.iter().map(|lease| lease.addresses).collect::<HashSet<_>>().len(), 32);
}

#[test]
fn a_failed_add_leaves_nothing() {
    let node = Node::new("10.77.0.0/24");
    let before = node.inventory();
    let missing = node.call("ADD", "c", Some(&PathBuf::from("/nonexistent/ns"))).unwrap_err();
    assert_eq!(missing["code"], 3);
    let file = node.dir.path().join("not-a-namespace");
    fs::write(&file, "").unwrap();
    assert_eq!(node.call("ADD", "c", Some(&file)).unwrap_err()["code"], 3);
    let taken = Namespace::new();
    taken.ip("link add eth0 type veth peer name eth1");
    let error = node.call("ADD", "c", Some(&taken.path)).unwrap_err();
    assert_eq!(error["code"], 100);
    assert!(error["msg"].as_str().unwrap().contains("File exists"), "{error}");
    assert_eq!(node.inventory(), before);
    // Also not the device of an ADD that went well before.
    let pod = node.add("c");
    assert_eq!(node.call("ADD", "c", Some(&file)).unwrap_err()["code"], 3);
    assert_eq!(node.inventory(), before);
    assert!(node.network.leases().unwrap().is_empty());
    drop(pod);
}

#[test]
fn reconcile_restores_pods_and_removes_what_belongs_to_none() {
    let node = Node::new("10.77.0.0/24");
    let (a, b, c) = (node.add("pod-a"), node.add("pod-b"), node.add("pod-c"));
    let whole = node.inventory();
    assert_eq!(node.reconcile(), Reconciled { pods: 3, ..Reconciled::default() });
    assert_eq!(node.inventory(), whole);

    // Routes and neighbours go away when somebody flushes them or sets a device down.
    node.namespace.ip("route flush proto 83");
    node.namespace.ip(&format!("neigh flush nud permanent dev {}", host_device_name("pod-a", "eth0")));
    node.namespace.ip(&format!("link set {} down", host_device_name("pod-b", "eth0")));
    node.namespace.ip(&format!("link del {}", host_device_name("pod-c", "eth0")));
    // A pod whose namespace went away, a device without a lease, a route of an earlier configuration.
    drop(node.add("gone"));
    let stray = host_device_name("stray", "eth0");
    node.namespace.ip(&format!("link add {stray} type veth peer name other"));
    node.namespace.ip("route add unreachable 10.99.0.0/16 proto 83");
    assert_eq!(node.reconcile(), Reconciled { pods: 3, repaired: 3, leases_removed: 1, leftovers_removed: 2 });
    assert_eq!(node.inventory(), whole);
    assert_eq!(exchange(&a.namespace, &b.namespace, b.address), a.address.to_string());
    assert_eq!(exchange(&node.namespace, &a.namespace, a.address), Node::ADDRESS.to_string());
    assert_eq!(exchange(&c.namespace, &node.namespace, Node::ADDRESS), c.address.to_string());
}

#[test]
fn reconcile_leaves_pods_alone_that_come_and_go_meanwhile() {
    let node = Node::new("10.77.0.0/24");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reconciler = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let seen = node.reconcile();
                assert_eq!((seen.repaired, seen.leases_removed), (0, 0));
            }
        });
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let node = &node;
                scope.spawn(move || {
                    for n in 0..8 {
                        let name = format!("c{worker}-{n}");
                        let pod = node.add(&name);
                        assert_eq!(exchange(&node.namespace, &pod.namespace, pod.address), Node::ADDRESS.to_string());
                        node.delete(&name, Some(&pod.namespace.path));
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        reconciler.join().unwrap();
        results.into_iter().for_each(|result| result.unwrap());
    });
    assert!(node.network.leases().unwrap().is_empty());
}

#[test]
fn unknown_service_and_pod_addresses_are_refused_at_once() {
    let node = Node::new("10.77.0.0/24");
    let pod = node.add("pod");
    for address in ["10.96.0.77:80", "10.77.0.200:80"] {
        let address: SocketAddr = address.parse().unwrap();
        for from in [&pod.namespace, &node.namespace] {
            let error = from.run(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap_err());
            assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{address}: {error}");
        }
    }
}

#[test]
fn a_pod_cannot_speak_under_an_address_that_is_not_its_own() {
    let node = Node::new("10.77.0.0/24");
    let pod = node.add("pod");
    let server = node.namespace.run(|| UdpSocket::bind((Node::ADDRESS, 0)).unwrap());
    let target = server.local_addr().unwrap();
    pod.namespace.ip("address add 10.77.0.99/32 dev eth0");
    pod.namespace.run(|| {
        let send = |source: IpAddr| UdpSocket::bind((source, 0)).unwrap().send_to(b"x", target).unwrap();
        send([10, 77, 0, 99].into());
        send(pod.address);
    });
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(from.ip(), pod.address, "the first datagram, under a foreign address, was dropped");
}

#[test]
fn setup_can_be_repeated_and_teardown_removes_everything() {
    let mut node = Node::new("10.77.0.0/24");
    let bare = node.bare_inventory.clone();
    let pod = node.add("pod");
    let whole = node.inventory();
    let again = node.namespace.run(|| Network::setup(node.config.clone()).unwrap());
    assert_eq!(node.inventory(), whole);
    assert_eq!(again.mtu(), 1400, "that of the device with the node's address");

    let conflist = fs::read_to_string(node.config.cni_conf_dir.join(CONFLIST_NAME)).unwrap();
    let conflist: serde_json::Value = serde_json::from_str(&conflist).unwrap();
    assert_eq!(conflist["plugins"][0]["type"], "skep-cni");
    assert_eq!(conflist["plugins"][0]["podCIDRs"], serde_json::json!(["10.77.0.0/24"]));
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    for name in ["skep-cni", "loopback"] {
        assert!(fs::read(node.config.cni_bin_dir.join(name)).unwrap() == own, "{name}");
    }
    node.teardown();
    assert_eq!(node.inventory(), bare);
    for dir in [&node.config.cni_bin_dir, &node.config.cni_conf_dir, &node.config.data_dir] {
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "{}", dir.display());
    }
    assert!(!pod.namespace.ip("link show").contains("eth0"));
}

#[test]
fn pods_get_the_mtu_that_the_ways_to_other_nodes_leave_them() {
    let node = Node::new("10.77.0.0/24");
    let mtu = |pod: &harness::Pod| {
        let shown = pod.namespace.ip("-oneline link show eth0");
        shown.split_once("mtu ").unwrap().1.split(' ').next().unwrap().to_owned()
    };
    let old = node.add("old");
    let fit = |overhead| node.namespace.run(|| node.network.fit(overhead).unwrap());
    assert_eq!([fit(50), fit(50)], [true, false]);
    let new = node.add("new");
    assert_eq!([mtu(&old), mtu(&new)], ["1400", "1350"], "who is there keeps what it has");
    assert_eq!(exchange(&old.namespace, &new.namespace, new.address), old.address.to_string());
    assert!(fit(0));
    assert_eq!(mtu(&node.add("newest")), "1400");
    // What the settings name is what pods get.
    let mut config = node.config.clone();
    config.mtu = Some(1300);
    let changed = node.namespace.run(|| Network::setup(config).unwrap().fit(50).unwrap());
    assert!(!changed);
    assert_eq!(mtu(&node.add("named")), "1300");
}

#[test]
fn a_loopback_plugin_of_others_is_left_alone() {
    let mut node = Node::prepare("10.77.0.0/24");
    fs::create_dir_all(&node.config.cni_bin_dir).unwrap();
    let theirs = node.config.cni_bin_dir.join("loopback");
    fs::write(&theirs, "theirs").unwrap();
    for _ in 0..2 {
        node.setup();
    }
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    node.teardown();
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
}

#[test]
fn the_loopback_plugin_sets_the_device_up() {
    let node = Node::new("10.77.0.0/24");
    let pod = Namespace::bare();
    let call = |command: &str| {
        let conf = r#"{"cniVersion":"0.3.1","name":"cni-loopback","type":"loopback"}"#;
        node.respond(command, "c", "lo", Some(&pod.path), conf)
    };
    assert!(!pod.ip("link show lo").contains("UP"));
    let result = call("ADD").unwrap();
    assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
    assert!(pod.ip("link show lo").contains("UP"));
    call("DEL").unwrap();
}

#[test]
fn calls_that_make_no_sense_get_the_specifications_errors() {
    let node = Node::new("10.77.0.0/24");
    let pod = Namespace::new();
    let conf = node.conf("1.0.0");
    let code = |command: &str, container: &str, interface: &str, conf: &str| {
        node.respond(command, container, interface, Some(&pod.path), conf).unwrap_err()["code"].clone()
    };
    assert_eq!(code("ADD", "c", "eth0", "nonsense"), 6);
    assert_eq!(code("ADD", "c", "eth0", &conf.replace("1.0.0", "9.9.9")), 1);
    assert_eq!(code("ADD", "c", "eth0", r#"{"cniVersion":"1.0.0","type":"skep-cni"}"#), 7);
    assert_eq!(code("ADD", "", "eth0", &conf), 4);
    assert_eq!(code("ADD", "../../c", "eth0", &conf), 7);
    assert_eq!(code("ADD", "c", "", &conf), 4);
    assert_eq!(code("ADD", "c", "a-name-too-long-for-it", &conf), 7);
    assert_eq!(code("FROB", "c", "eth0", &conf), 4);
    assert_eq!(code("", "c", "eth0", &conf), 4);
    assert_eq!(code("CHECK", "c", "eth0", &conf), 3);
    assert_eq!(code("CHECK", "c", "eth0", &conf.replace("1.0.0", "0.3.1")), 1);
    let nowhere = node.respond("ADD", "c", "eth0", None, &conf).unwrap_err();
    assert_eq!((&nowhere["code"], &nowhere["msg"]), (&4.into(), &"CNI_NETNS is not set".into()));
    let version = node.respond("VERSION", "", "", None, r#"{"cniVersion":"0.4.0"}"#).unwrap();
    assert_eq!(version["cniVersion"], "0.4.0");
    assert!(version["supportedVersions"].as_array().unwrap().contains(&"1.0.0".into()));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let node = Node::prepare("10.77.0.0/24");
    for (pods, services) in
        [("10.77.0.0/31", "10.96.0.0/12"), ("fd00::/127", "fd96::/108"), ("10.96.1.0/24", "10.96.0.0/12")]
    {
        let mut config = node.config.clone();
        config.pod_cidrs = vec![pods.parse().unwrap()];
        config.service_cidrs = vec![services.parse().unwrap()];
        node.namespace.run(|| Network::setup(config).unwrap_err());
    }
}

/// The example program, which `cargo test` builds beside the tests.
fn plugin_program() -> PathBuf {
    let target = std::env::current_exe().unwrap().parent().and_then(|deps| deps.parent()).unwrap().to_owned();
    let program = target.join("examples/skep-cni");
    assert!(program.exists(), "{} is missing: cargo build --example skep-cni", program.display());
    program
}

#[test]
fn the_installed_plugin_answers_as_a_process() {
    let mut prepared = Node::prepare("10.77.0.0/24");
    prepared.config.plugin = Some(plugin_program());
    let node = prepared.into_node();
    let pod = Namespace::bare();
    let call = |name: &str, command: &str, conf: &str| {
        let mut child = node.namespace.run(|| {
            Command::new(node.config.cni_bin_dir.join(name))
                .env("CNI_COMMAND", command)
                .env("CNI_CONTAINERID", "c")
                .env("CNI_IFNAME", if name == "loopback" { "lo" } else { "eth0" })
                .env("CNI_NETNS", &pod.path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        child.stdin.take().unwrap().write_all(conf.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let conf = node.conf("1.0.0");
    let (success, result) = call("loopback", "ADD", r#"{"cniVersion":"0.3.1","name":"l","type":"loopback"}"#);
    assert!(success, "{result}");
    let (success, result) = call("skep-cni", "ADD", &conf);
    assert!(success && result.contains("10.77.0.2/32"), "{result}");
    let address = Ipv4Addr::new(10, 77, 0, 2);
    assert_eq!(exchange(&node.namespace, &pod, address), Node::ADDRESS.to_string());
    assert_eq!(call("skep-cni", "CHECK", &conf), (true, String::new()));
    assert_eq!(call("skep-cni", "DEL", &conf), (true, String::new()));
    let (success, error) = call("skep-cni", "CHECK", &conf);
    assert!(!success && error.contains(r#""code":3"#), "{error}");

    // A newer program takes the place of the old one in one step, also while that runs.
    let newer = node.dir.path().join("newer");
    fs::copy(std::env::current_exe().unwrap(), &newer).unwrap();
    let mut config = node.config.clone();
    config.plugin = Some(newer.clone());
    node.namespace.run(|| Network::setup(config).unwrap());
    for name in ["skep-cni", "loopback"] {
        let installed = fs::metadata(node.config.cni_bin_dir.join(name)).unwrap();
        assert_eq!(installed.ino(), fs::metadata(&newer).unwrap().ino(), "{name} is a link to the newer one");
    }
}

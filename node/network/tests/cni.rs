//! What the CNI specification 1.1 asks of the plugin beyond ADD and DEL, against the real kernel. Needs root and iproute2.

#[path = "network/harness.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod harness;

use std::process::Command;

use harness::{Namespace, Node, exchange};
use serde_json::{Value, json};
use skep_network::host_device_name;

fn conf(node: &Node, more: &[(&str, Value)]) -> String {
    let mut conf: Value = serde_json::from_str(&node.conf("1.1.0")).unwrap();
    for (key, value) in more {
        conf[key] = value.clone();
    }
    conf.to_string()
}

/// The queueing disciplines of a device, without their numbers.
fn tc(namespace: &Namespace, device: &str) -> String {
    let shown = namespace.run(|| {
        let output = Command::new("tc").args(["qdisc", "show", "dev", device]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    let handle = |word: &&str| !word.strip_suffix(':').is_some_and(|word| word.chars().all(|c| c.is_ascii_hexdigit()));
    shown.split(' ').filter(handle).collect::<Vec<_>>().join(" ")
}

#[test]
fn gc_removes_all_but_what_the_runtime_names() {
    let node = Node::new("10.77.0.0/24");
    let stays = node.add("stays");
    let whole = node.inventory();
    let (_a, _b) = (node.add("gone-a"), node.add("gone-b"));
    let valid = json!([{ "containerID": "stays", "ifname": "eth0" }, { "containerID": "unknown", "ifname": "eth0" }]);
    let conf = conf(&node, &[("cni.dev/valid-attachments", valid)]);
    for _ in 0..2 {
        assert_eq!(node.respond("GC", "", "", None, &conf).unwrap(), Value::Null);
        assert_eq!(node.inventory(), whole);
        assert_eq!(node.network.leases().unwrap().len(), 1);
    }
    assert_eq!(exchange(&node.namespace, &stays.namespace, stays.address), Node::ADDRESS.to_string());
    // Without a list nothing is taken for garbage, and older versions know no GC.
    assert_eq!(node.respond("GC", "", "", None, &node.conf("1.1.0")).unwrap_err()["code"], 7);
    assert_eq!(node.respond("GC", "", "", None, &node.conf("1.0.0")).unwrap_err()["code"], 1);
    assert_eq!(node.inventory(), whole);
}

#[test]
fn status_says_whether_one_more_pod_has_room() {
    let node = Node::new("10.77.0.0/30");
    let conf = node.conf("1.1.0");
    assert_eq!(node.respond("STATUS", "", "", None, &conf).unwrap(), Value::Null);
    let _pod = node.add("pod");
    let error = node.respond("STATUS", "", "", None, &conf).unwrap_err();
    assert_eq!((&error["code"], &error["cniVersion"]), (&50.into(), &"1.1.0".into()), "{error}");
    node.delete("pod", None);
    assert_eq!(node.respond("STATUS", "", "", None, &conf).unwrap(), Value::Null);
    assert_eq!(node.respond("STATUS", "", "", None, &node.conf("1.0.0")).unwrap_err()["code"], 1);
}

#[test]
fn check_compares_with_what_the_chain_made() {
    let node = Node::new("10.77.0.0/24");
    let pod = Namespace::bare();
    let plain = conf(&node, &[]);
    let result = node.respond("ADD", "pod", "eth0", Some(&pod.path), &plain).unwrap();
    assert_eq!(result["cniVersion"], "1.1.0");
    let check = |result: &Value| {
        let conf = conf(&node, &[("prevResult", result.clone())]);
        node.respond("CHECK", "pod", "eth0", Some(&pod.path), &conf)
    };
    check(&result).unwrap();
    // A later plugin of the chain may have added an address of its own.
    let mut more = result.clone();
    more["ips"].as_array_mut().unwrap().push(json!({ "address": "192.0.2.7/24" }));
    check(&more).unwrap();
    let mut other = result.clone();
    other["ips"] = json!([{ "address": "10.77.0.99/32" }]);
    assert_eq!(check(&other).unwrap_err()["code"], 101);
    // DEL has it, too, and does not care.
    let conf = conf(&node, &[("prevResult", other)]);
    node.respond("DEL", "pod", "eth0", Some(&pod.path), &conf).unwrap();
}

#[test]
fn bandwidth_limits_hold_at_both_ends() {
    let node = Node::new("10.77.0.0/24");
    let pod = Namespace::bare();
    assert_eq!(serde_json::from_str::<Value>(&node.conf("1.0.0")).unwrap()["capabilities"]["bandwidth"], true);
    let limits = json!({ "bandwidth": {
        "ingressRate": 8_000_000, "ingressBurst": u32::MAX, "egressRate": 80_000_000_000_u64, "egressBurst": 16_000_000,
    } });
    let limited = conf(&node, &[("runtimeConfig", limits)]);
    let result = node.respond("ADD", "pod", "eth0", Some(&pod.path), &limited).unwrap();
    let device = host_device_name("pod", "eth0");
    let (ingress, egress) = (tc(&node.namespace, &device), tc(&pod, "eth0"));
    assert!(ingress.contains("qdisc tbf") && ingress.contains("rate 8Mbit burst 100000b"), "{ingress}");
    assert!(egress.contains("qdisc tbf") && egress.contains("rate 80Gbit"), "{egress}");
    // Packets pass, and a second ADD changes nothing.
    let address =
        result["ips"][0]["address"].as_str().unwrap().strip_suffix("/32").unwrap().parse::<std::net::IpAddr>().unwrap();
    assert_eq!(exchange(&node.namespace, &pod, address), Node::ADDRESS.to_string());
    node.respond("ADD", "pod", "eth0", Some(&pod.path), &limited).unwrap();
    assert_eq!((tc(&node.namespace, &device), tc(&pod, "eth0")), (ingress.clone(), egress.clone()));
    // They come back with a wire that was made again.
    node.namespace.ip(&format!("link del {device}"));
    assert_eq!(node.reconcile().repaired, 1);
    assert_eq!((tc(&node.namespace, &device), tc(&pod, "eth0")), (ingress, egress));
    let free = node.add("free");
    assert!(!tc(&free.namespace, "eth0").contains("tbf"));
    // What flows is far slower than without.
    let start = std::time::Instant::now();
    send(&node.namespace, &pod, address, 2_000_000);
    let slow = start.elapsed();
    let start = std::time::Instant::now();
    send(&node.namespace, &free.namespace, free.address, 2_000_000);
    let fast = start.elapsed();
    assert!(slow > fast * 4, "{slow:?} with a limit, {fast:?} without");
}

/// Sends `bytes` from one namespace to another and waits until all are there.
fn send(from: &Namespace, to: &Namespace, address: std::net::IpAddr, bytes: u64) {
    use std::io::{Read as _, Write as _};
    let listener = to.run(|| std::net::TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            std::io::copy(&mut stream.take(bytes), &mut std::io::sink()).unwrap()
        });
        from.run(|| {
            let mut stream = std::net::TcpStream::connect(target).unwrap();
            stream.write_all(&vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        });
        assert_eq!(server.join().unwrap(), bytes);
    });
}

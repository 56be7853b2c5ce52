//! skepctl against maps on the real kernel. Needs root.

#[path = "skepctl/bugtool.rs"]
mod bugtool;
#[path = "skepctl/monitor.rs"]
mod monitor;
#[path = "skepctl/names.rs"]
mod names;
#[path = "skepctl/node.rs"]
mod node;
#[path = "skepctl/pods.rs"]
mod pods;
#[path = "skepctl/top.rs"]
mod top;
#[path = "skepctl/trace.rs"]
mod trace;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;
use skep_proxy::{Frontend, Protocol, Service, ServicePort};

use crate::node::{Node, dns, error};

#[test]
fn services_are_listed_by_name_in_every_format() {
    let node = Node::new(&dns());
    let table = node.run(&["service", "list"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAMESPACE", "NAME", "PORT", "FRONTEND", "BACKENDS", "CONNECTIONS", "REFUSED"]);
    assert_eq!(lines[1], ["kube-system", "kube-dns", "dns-tcp", "10.96.0.10:53/TCP", "1", "0", "0"]);
    assert_eq!(lines[2], ["kube-system", "kube-dns", "dns", "10.96.0.10:53/UDP", "1", "0", "0"]);

    let json: Value = serde_json::from_str(&node.run(&["service", "list", "-o", "json"])).unwrap();
    assert_eq!(json[1]["portName"], "dns");
    assert_eq!(json[1]["backends"][0]["address"], "10.128.0.5:5353");
    let yaml: Value = serde_yaml_ng::from_str(&node.run(&["-o", "yaml", "service", "list"])).unwrap();
    assert_eq!(yaml, json);
    assert_eq!(node.run(&["service", "list", "-n", "default", "-o", "json"]), "[]\n");
}

#[test]
fn one_service_is_found_by_name_and_by_address() {
    let node = Node::new(&dns());
    for query in ["kube-system/kube-dns", "10.96.0.10:53"] {
        let text = node.run(&["service", "get", query]);
        assert_eq!(text.matches("Service:      kube-system/kube-dns").count(), 2, "{text}");
        assert!(text.contains("10.128.0.5:5353"), "{text}");
    }
    for query in ["kube-system/kube-dns:dns", "10.96.0.10:53/udp"] {
        let json: Value = serde_json::from_str(&node.run(&["service", "get", query, "-o", "json"])).unwrap();
        assert_eq!((json.as_array().unwrap().len(), &json[0]["frontends"][0]["protocol"]), (1, &Value::from("UDP")));
    }
    let backends = node.run(&["backend", "list", "kube-system/kube-dns:dns"]);
    assert_eq!(backends.lines().count(), 2, "{backends}");
    let output = node.command(&["service", "get", "default/web"]).output().unwrap();
    assert!(error(&output).starts_with("error: no service default/web in the kernel of this node"));
}

#[test]
fn status_shows_programs_and_maps() {
    let node = Node::new(&dns());
    let text = node.run(&["status"]);
    assert!(text.contains("connect4") && text.contains("SERVICES") && !text.contains(" NO "), "{text}");
    let json: Value = serde_json::from_str(&node.run(&["status", "-o", "json"])).unwrap();
    assert_eq!(json["programs"][0]["attached"], true);
    let services = json["maps"].as_array().unwrap().iter().find(|map| map["name"] == "SERVICES").unwrap();
    assert_eq!((&services["entries"], &services["capacity"]), (&Value::from(2), &Value::from(8192)));
}

#[test]
fn absent_maps_and_lacking_privileges_are_said_clearly() {
    let node = Node::new(&dns());
    let elsewhere = node.dir.path().join("elsewhere");
    let skepctl = env!("CARGO_BIN_EXE_skepctl");
    let output = Command::new(skepctl).args(["status", "--bpf-root"]).arg(&elsewhere).output().unwrap();
    let wanted = format!("error: no skep service maps under {}: is skep-node running here?", elsewhere.display());
    assert_eq!(error(&output), wanted);

    // The program must be where anybody may run it.
    let copy = node.dir.path().join("skepctl");
    fs::copy(skepctl, &copy).unwrap();
    fs::set_permissions(node.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    let output = command.args(["service", "list", "--bpf-root"]).arg(node.root()).output().unwrap();
    let wanted = "error: need CAP_BPF to read the service maps: run as root or grant the capabilities";
    assert_eq!(error(&output), wanted);
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let services = (0..4000_u32)
        .map(|n| {
            let address = std::net::Ipv4Addr::from(0x0a60_0000 + n).into();
            let name = format!("default/service-{n}").parse().unwrap();
            let frontend = Frontend { address, port: 80, protocol: Protocol::Tcp };
            (ServicePort { name, ..Default::default() }, Service::new(frontend, []))
        })
        .collect();
    let node = Node::new(&services);
    for format in ["table", "json", "yaml"] {
        let mut child = node
            .command(&["service", "list", "-o", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        // More is written than a pipe holds, so the rest meets a closed one.
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr)), (Some(0), "".into()), "{format}");
    }
}

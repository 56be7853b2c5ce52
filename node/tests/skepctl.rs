//! skepctl against maps on the real kernel. Needs root.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use skep_proxy::{Config, Frontend, MapSizes, Protocol, Proxy, Service, ServicePort, ServiceTable};

/// Maps, and programs attached to an empty cgroup, that go with the test.
struct Node {
    dir: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Node {
    fn new(table: &ServiceTable) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads programs into the kernel: run it as root");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 file system is needed");
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.');
        let cgroup = Path::new(line.split(' ').nth(4).unwrap()).join(format!("skepctl-{name}"));
        fs::create_dir(&cgroup).unwrap();
        let node = Self { dir, cgroup };
        let config = Config {
            bpf_root: node.root(),
            cgroup_root: Some(node.cgroup.clone()),
            maps: MapSizes {
                services: 8192,
                backends: 8192,
                sticky: 1024,
                udp_peers: 1024,
                tcp_peers: 1024,
                flows: 1024,
            },
            ..Config::default()
        };
        Proxy::load(config).unwrap().sync(table).unwrap();
        node
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skepctl"));
        command.args(arguments).arg("--bpf-root").arg(self.root());
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = Proxy::cleanup(&self.root()) {
            eprintln!("cannot clean up {}: {error}", self.root().display());
        }
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn dns() -> ServiceTable {
    [(Protocol::Udp, "dns"), (Protocol::Tcp, "dns-tcp")]
        .into_iter()
        .map(|(protocol, port)| {
            let frontend = Frontend { address: [10, 96, 0, 10].into(), port: 53, protocol };
            let name = format!("kube-system/kube-dns:{port}").parse().unwrap();
            (ServicePort { name, ..Default::default() }, Service::new(frontend, ["10.128.0.5:5353".parse().unwrap()]))
        })
        .collect()
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

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

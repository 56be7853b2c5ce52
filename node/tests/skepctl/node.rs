//! What tests of skepctl stand on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use skep_proxy::{Config, Frontend, MapSizes, Protocol, Proxy, Service, ServicePort, ServiceTable};

/// Maps, and programs attached to an empty cgroup, that go with the test.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
}

impl Node {
    pub(crate) fn new(table: &ServiceTable) -> Self {
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
                connections: 0,
                flows: 1024,
            },
            ..Config::default()
        };
        Proxy::load(config).unwrap().sync(table).unwrap();
        node
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skepctl"));
        command.args(arguments).arg("--bpf-root").arg(self.root());
        // No kubeconfig of whoever runs the tests.
        command.env_remove("KUBECONFIG").env("HOME", self.dir.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
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

pub(crate) fn dns() -> ServiceTable {
    [(Protocol::Udp, "dns"), (Protocol::Tcp, "dns-tcp")]
        .into_iter()
        .map(|(protocol, port)| {
            let frontend = Frontend { address: [10, 96, 0, 10].into(), port: 53, protocol };
            let name = format!("kube-system/kube-dns:{port}").parse().unwrap();
            (ServicePort { name, ..Default::default() }, Service::new(frontend, ["10.128.0.5:5353".parse().unwrap()]))
        })
        .collect()
}

pub(crate) fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

/// Cluster DNS, and a Service without backends.
pub(crate) fn table() -> ServiceTable {
    let mut table = dns();
    let frontend = Frontend { address: [10, 96, 0, 11].into(), port: 80, protocol: Protocol::Tcp };
    let name = "default/empty".parse().unwrap();
    table.insert(ServicePort { name, ..Default::default() }, Service::new(frontend, []));
    table
}

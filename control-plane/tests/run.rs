//! The real `skep-server` with its real etcd, driven by the real kubectl. Needs `etcd` and `kubectl` on PATH.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_pki::{Authority, CertRequest, LEAF_VALIDITY};
use tempfile::TempDir;

/// The longest anything here waits; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const SERVER: &str = env!("CARGO_BIN_EXE_skep-server");

/// A port nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[expect(clippy::disallowed_methods, reason = "no runtime here: each test has a thread to itself")]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A server on loopback, ended when dropped.
struct Server {
    child: Child,
    data: PathBuf,
}

impl Server {
    fn spawn(data: &Path, port: u16, arguments: &[&str]) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(data.with_extension("log")).unwrap();
        // What a test says goes before what tests have in common.
        let usual = [
            "--bind-address=127.0.0.1",
            // An address set aside for documentation: nobody here calls the server by it.
            "--advertise-address=192.0.2.1",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--cluster-cidr=10.244.0.0/16",
        ];
        let flag = |argument: &str| argument.split('=').next().map(str::to_owned);
        let usual = usual.into_iter().filter(|usual| !arguments.iter().any(|given| flag(given) == flag(usual)));
        let child = Command::new(SERVER)
            .arg("run")
            .arg("--data-dir")
            .arg(data)
            .args(["--secure-port", &port.to_string()])
            .env("RUST_BACKTRACE", "1")
            .args(usual)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, data: data.to_owned() }
    }

    fn start(data: &Path, port: u16, arguments: &[&str]) -> Self {
        let mut server = Self::spawn(data, port, arguments);
        wait_for("/readyz", || {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("skep-server ended with {status}:\n{}", server.log());
            }
            let output = server.kubectl(&["get", "--raw", "/readyz"]);
            output.status.success() && output.stdout == b"ok"
        });
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        kubectl(&self.data.join("admin.conf"), arguments)
    }

    /// What kubectl says, when all is well.
    fn said(&self, arguments: &[&str]) -> String {
        said(self.kubectl(arguments))
    }

    /// Creates an object without a namespace, or in the default one.
    fn create(&self, kind: &str, name: &str) {
        let manifest = self.data.with_extension(format!("{name}.yaml"));
        fs::write(&manifest, format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n")).unwrap();
        // What the server checks is not the matter here, nor what it publishes for clients to check.
        self.said(&["create", "--validate=false", "--filename", manifest.to_str().unwrap()]);
    }

    fn etcd_pid(&self) -> i32 {
        // The first number of the file the supervisor keeps.
        let text = fs::read_to_string(self.data.join("etcd.pid")).expect("etcd.pid");
        text.split(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty()).unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of skep-server:\n{}", self.log());
        }
    }
}

fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> Output {
    Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments)
        // Its cache of discovery must not outlive this test's server.
        .arg("--cache-dir")
        .arg(kubeconfig.with_extension("cache"))
        .output()
        .expect("these tests need kubectl")
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn data_dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    (dir, data)
}

fn is_alive(pid: i32) -> bool {
    // Signal 0 asks only; a zombie is dead for our purposes.
    kill(Pid::from_raw(pid), None).is_ok()
        && fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn everything_is_still_there_after_a_kill_and_a_clean_stop_leaves_no_etcd() {
    let (_dir, data) = data_dir();
    let port = free_port();
    let mut server = Server::start(&data, port, &[]);
    let namespaces = server.said(&["get", "namespaces", "--output", "name"]);
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(namespaces.contains(&format!("namespace/{name}\n")), "{namespaces}");
    }
    server.create("ConfigMap", "kept");
    let uid = server.said(&["get", "configmap", "kept", "--output", "jsonpath={.metadata.uid}"]);
    let certificate = fs::read(data.join("pki/apiserver.crt")).unwrap();

    server.signal(Signal::SIGKILL);
    server.child.wait().unwrap();
    let mut server = Server::start(&data, port, &[]);
    assert_eq!(server.said(&["get", "configmap", "kept", "--output", "jsonpath={.metadata.uid}"]), uid);
    assert_eq!(fs::read(data.join("pki/apiserver.crt")).unwrap(), certificate);

    let etcd = server.etcd_pid();
    assert!(is_alive(etcd));
    server.signal(Signal::SIGTERM);
    let status = server.child.wait().unwrap();
    assert!(status.success(), "{status}:\n{}", server.log());
    wait_for("etcd to be gone", || !is_alive(etcd));
}

#[test]
fn two_servers_share_a_machine_but_not_a_port_or_a_data_directory() {
    let ((_one, first), (_two, second)) = (data_dir(), data_dir());
    let (port, other_port) = (free_port(), free_port());
    let one = Server::start(&first, port, &[]);
    let two = Server::start(&second, other_port, &[]);
    one.create("Namespace", "only-in-one");
    assert!(!two.said(&["get", "namespaces", "--output", "name"]).contains("only-in-one"));

    let (_three, third) = data_dir();
    let mut clash = Server::spawn(&third, port, &[]);
    assert!(!clash.child.wait().unwrap().success());
    let log = clash.log();
    assert!(log.contains(&format!("cannot listen on 127.0.0.1:{port}")) && log.contains("--secure-port"), "{log}");

    // The log is beside the data directory, so the refusal is in the first server's.
    let mut clash = Server::spawn(&first, free_port(), &[]);
    assert!(!clash.child.wait().unwrap().success());
    let log = one.log();
    assert!(log.contains("another skep-server uses the data directory"), "{log}");
    assert_eq!(one.said(&["get", "--raw", "/readyz"]), "ok", "the first is not disturbed");
}

#[test]
fn what_a_person_can_mend_is_said_so() {
    let (dir, data) = data_dir();
    let run = |arguments: &[&str], path: &str| {
        let output = Command::new(SERVER)
            .arg("run")
            .args(arguments)
            .args(["--bind-address", "127.0.0.1", "--advertise-address", "192.0.2.1"])
            .args(["--secure-port", &free_port().to_string()])
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let data = data.to_str().unwrap();
    let path = std::env::var("PATH").unwrap();
    let no_etcd = run(&["--data-dir", data], dir.path().to_str().unwrap());
    assert!(no_etcd.contains("error: ") && no_etcd.contains("etcd"), "{no_etcd}");

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let not_a_dir = run(&["--data-dir", file.join("data").to_str().unwrap()], &path);
    assert!(not_a_dir.contains("cannot create the data directory") && not_a_dir.contains("--data-dir"), "{not_a_dir}");

    fs::create_dir_all(Path::new(data).join("pki")).unwrap();
    fs::write(Path::new(data).join("pki/ca.crt"), "nonsense").unwrap();
    fs::write(Path::new(data).join("pki/ca.key"), "nonsense").unwrap();
    let broken = run(&["--data-dir", data], &path);
    assert!(broken.contains("pki/ca.") && broken.contains("not a "), "{broken}");
}

#[test]
fn kubeconfigs_name_the_user_and_certificates_are_listed_and_renewed() {
    let (dir, data) = data_dir();
    let server = Server::start(&data, free_port(), &[]);
    let skep = |arguments: &[&str]| {
        let output = Command::new(SERVER).args(arguments).arg("--data-dir").arg(&data).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let jane = dir.path().join("jane.conf");
    skep(&["kubeconfig", "--user", "jane", "--group", "system:masters,developers", "--out", jane.to_str().unwrap()]);
    assert!(said(kubectl(&jane, &["get", "namespaces"])).contains("kube-system"));
    // A node by its own name, which may not do what an administrator may.
    let node = dir.path().join("node.conf");
    fs::write(&node, skep(&["kubeconfig", "--user", "system:node:n1", "--group", "system:nodes"])).unwrap();
    let refused = kubectl(&node, &["delete", "namespace", "kube-public"]);
    assert!(!refused.status.success());
    let refused = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.contains("User \"system:node:n1\" cannot delete resource"), "{refused}");

    let before = skep(&["certs", "list"]);
    for name in ["ca ", "apiserver ", "apiserver-kubelet-client ", "front-proxy-ca ", "front-proxy-client "] {
        assert!(before.lines().any(|line| line.starts_with(name)), "{before}");
    }
    assert_eq!(skep(&["certs", "renew", "apiserver"]), "renewed apiserver\n");
    assert_eq!(server.said(&["get", "--raw", "/livez"]), "ok");
}

#[test]
fn a_wrong_data_directory_is_named_with_the_flag_that_mends_it() {
    let (_dir, data) = data_dir();
    for arguments in [&["kubeconfig", "--user", "jane"][..], &["certs", "list"], &["certs", "renew"]] {
        let output = Command::new(SERVER).args(arguments).arg("--data-dir").arg(&data).output().unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        let named = error.contains(data.join("pki").to_str().unwrap()) && error.contains("--data-dir");
        assert!(named && error.lines().count() == 1, "{arguments:?}: {error}");
    }
    assert!(!data.exists(), "a question makes nothing");
}

#[test]
fn every_namespace_is_told_whom_to_trust_and_a_quiet_life_warns_of_nothing() {
    let (_dir, data) = data_dir();
    let mut server = Server::start(&data, free_port(), &[]);
    server.create("Namespace", "fresh");
    let authority = fs::read_to_string(data.join("pki/ca.crt")).unwrap();
    for namespace in ["default", "kube-system", "fresh"] {
        wait_for("the authority to be published", || {
            let map = ["get", "configmap", "kube-root-ca.crt", "--namespace", namespace, "--ignore-not-found"];
            server.said(&[&map[..], &["--output", "jsonpath={.data.ca\\.crt}"]].concat()) == authority
        });
    }
    server.said(&["delete", "namespace", "fresh"]);
    server.signal(Signal::SIGTERM);
    assert!(server.child.wait().unwrap().success(), "{}", server.log());
    let log = server.log();
    assert!(!log.lines().any(|line| line.contains(" WARN ") || line.contains(" ERROR ")), "{log}");
}

#[test]
fn components_can_run_apart_from_the_api_server() {
    let (dir, data) = data_dir();
    let server = Server::start(&data, free_port(), &["--components", "apiserver"]);
    let kubeconfig = data.join("scheduler.conf");
    let apart = dir.path().join("apart");
    let mut scheduler = Command::new(SERVER)
        .args(["run", "--components", "scheduler", "--data-dir"])
        .arg(&apart)
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lease =
        &["get", "lease", "kube-scheduler", "--namespace", "kube-system", "--ignore-not-found", "--output", "name"];
    wait_for("the scheduler to lead", || server.said(lease).contains("kube-scheduler"));
    assert!(!apart.join("pki").exists(), "a process without an API server makes no authority of its own");
    kill(Pid::from_raw(scheduler.id() as i32), Signal::SIGTERM).unwrap();
    assert!(scheduler.wait().unwrap().success());
}

#[test]
fn a_second_signal_hurries_and_still_leaves_no_etcd() {
    let (_dir, data) = data_dir();
    let mut server = Server::start(&data, free_port(), &[]);
    let etcd = server.etcd_pid();
    server.signal(Signal::SIGINT);
    server.signal(Signal::SIGTERM);
    assert!(server.child.wait().unwrap().success(), "{}", server.log());
    wait_for("etcd to be gone", || !is_alive(etcd));
}

/// An etcd that speaks TLS and wants client certificates, ended when dropped.
struct Etcd {
    child: Child,
    flags: Vec<String>,
}

impl Etcd {
    fn start(dir: &Path) -> Self {
        let ca = Authority::create("etcd-ca", LEAF_VALIDITY).unwrap();
        let server = ca.issue(&CertRequest::server("etcd", ["localhost", "127.0.0.1"])).unwrap();
        let client = ca.issue(&CertRequest::client("skep-server", ["etcd"])).unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let ca_file = file("etcd-ca.crt", ca.certificate());
        let (port, peer_port) = (free_port(), free_port());
        let url = format!("https://127.0.0.1:{port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let child = Command::new("etcd")
            .args(["--data-dir", dir.join("etcd").to_str().unwrap()])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .args(["--cert-file", &file("etcd.crt", &server.certificate), "--key-file", &file("etcd.key", &server.key)])
            .args(["--client-cert-auth", "--trusted-ca-file", &ca_file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need etcd");
        let flags = [
            ("--etcd-endpoints", url),
            ("--etcd-cafile", ca_file),
            ("--etcd-certfile", file("client.crt", &client.certificate)),
            ("--etcd-keyfile", file("client.key", &client.key)),
        ];
        wait_for("etcd to listen", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, flags: flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect() }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_etcd_of_others_is_used_over_tls_and_left_running() {
    let (dir, data) = data_dir();
    let mut etcd = Etcd::start(dir.path());
    let flags: Vec<&str> = etcd.flags.iter().map(String::as_str).collect();
    let mut server = Server::start(&data, free_port(), &flags);
    server.create("ConfigMap", "kept");
    server.signal(Signal::SIGTERM);
    assert!(server.child.wait().unwrap().success(), "{}", server.log());
    assert!(!data.join("etcd").exists());
    assert!(etcd.child.try_wait().unwrap().is_none(), "etcd still runs");

    // Another server on the same etcd finds the same cluster.
    let (_other_dir, other) = data_dir();
    let second = Server::start(&other, free_port(), &flags);
    assert!(second.said(&["get", "configmaps", "--output", "name"]).contains("configmap/kept"));
}

#[test]
fn a_server_of_two_families_gives_services_addresses_of_both() {
    let folder = TempDir::new().unwrap();
    let ranges =
        ["--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112", "--cluster-cidr=10.244.0.0/16,fd00:244::/56"];
    let server = Server::start(&folder.path().join("data"), free_port(), &ranges);
    let ips = |namespace: &str, service: &str| {
        let path = "-o=jsonpath={.spec.clusterIPs[*]}";
        server.said(&["get", "service", service, "--namespace", namespace, path])
    };
    assert_eq!(ips("default", "kubernetes"), "10.96.0.1");
    assert_eq!(ips("kube-system", "kube-dns"), "10.96.0.10 fd00:96::a");
    let manifest = folder.path().join("service.yaml");
    let spec = "{ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4], ports: [{port: 80}]}";
    fs::write(&manifest, format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n")).unwrap();
    server.said(&["create", "--validate=false", "--filename", manifest.to_str().unwrap()]);
    let found = ips("default", "web");
    let (first, second) = found.split_once(' ').unwrap();
    assert!(first.starts_with("fd00:96::") && second.starts_with("10.96."), "{found}");
    let node = folder.path().join("node.yaml");
    fs::write(&node, "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n").unwrap();
    server.said(&["create", "--validate=false", "--filename", node.to_str().unwrap()]);
    wait_for("the node's pod CIDRs", || {
        server.said(&["get", "node", "n1", "-o=jsonpath={.spec.podCIDRs[*]}"]) == "10.244.0.0/24 fd00:244::/64"
    });
}

#[test]
fn a_server_of_ipv6_alone_runs() {
    let folder = TempDir::new().unwrap();
    let server = Server::start(
        &folder.path().join("data"),
        free_port(),
        &[
            "--service-cluster-ip-range=fd00:96::/112",
            "--cluster-cidr=fd00:244::/56",
            "--bind-address=::1",
            "--advertise-address=2001:db8::1",
        ],
    );
    let said =
        server.said(&["get", "endpointslice", "kubernetes", "-o=jsonpath={.addressType} {.endpoints[*].addresses[*]}"]);
    assert_eq!(said, "IPv6 2001:db8::1");
    assert_eq!(server.said(&["get", "service", "kubernetes", "-o=jsonpath={.spec.clusterIPs[*]}"]), "fd00:96::1");
    let config = server.said(&["config", "view", "--minify", "-o=jsonpath={.clusters[0].cluster.server}"]);
    assert!(config.starts_with("https://[::1]:"), "{config}");
}

//! Connections from outside stay while the maps that know them become larger.
//!
//! ```text
//! client 192.0.2.9 --- out0 192.0.2.1 [node: the test's thread] pod0 10.1.0.1 --- 10.1.0.5, 10.1.0.6
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};
use skep_proxy::{
    Attachment, Backend, Config, Error, Frontend, Kind, MapSizes, Protocol, Proxy, Service,
    devices::{Devices, Settings},
    growth::Growth,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use crate::ground::{Ground, port_of};

const CONNECTIONS: usize = 1000;
const SOCKETS: usize = 20;
const BACKENDS: [&str; 2] = ["10.1.0.5:8080", "10.1.0.6:8080"];
const NODE_PORT: &str = "192.0.2.1:30080";
const PATIENCE: Duration = Duration::from_secs(20);

/// A named network namespace, joined to this thread's by a pair of devices; deleted with this value.
struct Namespace(String);

impl Namespace {
    fn new(host: &str, here: &str, there: &[&str]) -> Self {
        let this = Self(format!("skepgr{}-{host}", std::process::id()));
        let name = &this.0;
        ip(&format!("netns add {name}"));
        ip(&format!("link add name {host} type veth peer name eth0 netns {name}"));
        ip(&format!("link set {host} up"));
        ip(&format!("address add {here} dev {host}"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set eth0 up"));
        there.iter().for_each(|address| ip(&format!("-n {name} address add {address} dev eth0")));
        this
    }

    /// Runs something there, in a thread of its own.
    fn run<F: Future<Output: Send>>(&self, task: impl FnOnce() -> F + Send + 'static) -> JoinHandle<F::Output>
    where
        F::Output: 'static,
    {
        let namespace = File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(task())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(command: &str) {
    let output = Command::new("ip").args(command.split_whitespace()).output().expect("iproute2 is needed");
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Echoes over TCP, and answers datagrams with its own address.
async fn serve(at: SocketAddr, ready: mpsc::Sender<()>) {
    let (tcp, udp) = (TcpListener::bind(at).await.unwrap(), UdpSocket::bind(at).await.unwrap());
    ready.send(()).unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer).await {
            let _ = udp.send_to(at.to_string().as_bytes(), from).await;
        }
    });
    while let Ok((mut stream, _)) = tcp.accept().await {
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

/// Sends eight bytes and reads them again.
async fn exchange(stream: &mut TcpStream, number: u64) -> io::Result<()> {
    stream.write_all(&number.to_ne_bytes()).await?;
    let mut back = [0; 8];
    timeout(PATIENCE, stream.read_exact(&mut back)).await??;
    if u64::from_ne_bytes(back) == number { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// Which backend answers a datagram; one that is lost is sent again.
async fn ask(socket: &UdpSocket) -> io::Result<String> {
    let mut buffer = [0; 64];
    for _ in 0..40 {
        socket.send(b"?").await?;
        if let Ok(length) = timeout(Duration::from_millis(500), socket.recv(&mut buffer)).await {
            return Ok(String::from_utf8_lossy(&buffer[..length?]).into());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// What the client's threads share with the test.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    rounds: AtomicUsize,
    opened: AtomicUsize,
    /// No connections shall be opened for now; and nobody is at it.
    pause: AtomicBool,
    paused: AtomicBool,
}

fn wait(until: impl Fn() -> bool) {
    let enough = Instant::now() + Duration::from_secs(60);
    while !until() {
        assert!(Instant::now() < enough, "nothing moves any more");
        thread::yield_now();
    }
}

/// Waits until all connections were busy so many times, or something went wrong.
fn go_on(shared: &Shared, rounds: usize, streams: &JoinHandle<Vec<String>>) {
    wait(|| shared.rounds.load(Relaxed) >= rounds || streams.is_finished());
}

/// Keeps so many connections busy until it is told to stop; what went wrong.
async fn stream(shared: Arc<Shared>, ready: mpsc::Sender<()>) -> Vec<String> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(TcpStream::connect(NODE_PORT).await.unwrap());
    }
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        socket.connect(NODE_PORT).await.unwrap();
        let backend = ask(&socket).await.unwrap();
        sockets.push((socket, backend));
    }
    let mut failed = Vec::new();
    let mut ready = Some(ready);
    while !shared.stop.load(Relaxed) {
        for (n, stream) in streams.iter_mut().enumerate() {
            if let Err(error) = exchange(stream, n as u64).await {
                failed.push(format!("connection {n}: {error}"));
            }
        }
        for (socket, backend) in &sockets {
            match ask(socket).await {
                Ok(now) if now == *backend => {}
                other => failed.push(format!("a socket of {backend}: {other:?}")),
            }
        }
        if failed.len() > 10 {
            break;
        }
        shared.rounds.fetch_add(1, Relaxed);
        if let Some(ready) = ready.take() {
            ready.send(()).unwrap();
        }
    }
    failed
}

/// Opens one connection after the other until it is told to stop; what went wrong.
async fn open(shared: Arc<Shared>) -> Vec<String> {
    let mut failed = Vec::new();
    while !shared.stop.load(Relaxed) && failed.len() < 10 {
        let pause = shared.pause.load(Relaxed);
        shared.paused.store(pause, Relaxed);
        if pause {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let result = match timeout(PATIENCE, TcpStream::connect(NODE_PORT)).await {
            Ok(Ok(mut stream)) => exchange(&mut stream, 7).await,
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(()) => drop(shared.opened.fetch_add(1, Relaxed)),
            Err(error) => failed.push(format!("a new connection: {error}")),
        }
    }
    failed
}

fn sizes(flows: u32) -> MapSizes {
    MapSizes { services: 64, backends: 256, sticky: 512, udp_peers: 512, tcp_peers: 512, flows, ..MapSizes::default() }
}

fn load(ground: &Ground, flows: u32) -> Proxy {
    Proxy::load(Config { maps: sizes(flows), ..ground.config() }).unwrap()
}

fn node_port(protocol: Protocol) -> Service {
    let at: SocketAddr = NODE_PORT.parse().unwrap();
    let frontend = Frontend { address: IpAddr::from([0, 0, 0, 0]), port: at.port(), protocol };
    let cluster = BACKENDS.map(|at| Backend { address: at.parse().unwrap(), local: true }).to_vec();
    Service { frontends: [(frontend, Kind::NodePort)].into(), cluster, ..Service::default() }
}

#[test]
fn a_thousand_connections_stay_while_all_maps_double_twice() {
    let ground = Ground::new();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    ip("link set lo up");
    let client = Namespace::new("out0", "192.0.2.1/24", &["192.0.2.9/24"]);
    let pod = Namespace::new("pod0", "10.1.0.1/24", &["10.1.0.5/24", "10.1.0.6/24"]);
    ip(&format!("-n {} route add 192.0.2.0/24 via 10.1.0.1", pod.0));
    let (ready, is_ready) = mpsc::channel();
    for backend in BACKENDS {
        let ready = ready.clone();
        pod.run(move || serve(backend.parse().unwrap(), ready));
        is_ready.recv().unwrap();
    }
    let root = ground.bpf_root();
    let mut proxy = load(&ground, 4096);
    let settings = Settings { is_pod: |name| name == "pod0", ports: 61_000..=65_000, ..Settings::default() };
    let mut devices = Devices::open(&root, &sizes(4096), settings).unwrap();
    let all = ["out0".to_owned()];
    devices.reconcile(&all, true).unwrap();
    proxy.programmer().set_node_addresses(&HashMap::from([(IpAddr::from([192, 0, 2, 1]), 0)])).unwrap();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let at: SocketAddr = NODE_PORT.parse().unwrap();
        proxy.programmer().apply(&port_of(at, protocol), &node_port(protocol)).unwrap();
    }

    let shared = Arc::new(Shared::default());
    let streams = client.run({
        let (shared, ready) = (shared.clone(), ready.clone());
        move || stream(shared, ready)
    });
    is_ready.recv_timeout(Duration::from_secs(60)).expect("connections are open and busy");
    let opens = client.run({
        let shared = shared.clone();
        move || open(shared)
    });
    let flows = |ground: &Ground| {
        let status = ground.reader().status().unwrap();
        let flows = status.maps.iter().find(|map| map.name == "FLOWS").unwrap();
        (flows.entries, flows.capacity)
    };
    for times in [2, 4] {
        let rounds = shared.rounds.load(Relaxed);
        drop(proxy);
        proxy = load(&ground, 4096 * times);
        let (entries, capacity) = flows(&ground);
        assert!(entries >= CONNECTIONS + SOCKETS, "{entries}");
        assert_eq!(capacity, 4096 * times as usize);
        // The daemon's other half follows, and finds everything in its place.
        let done: BTreeSet<_> = devices
            .reconcile(&all, true)
            .unwrap()
            .into_iter()
            .map(|(.., attachment)| attachment == Attachment::Kept)
            .collect();
        assert_eq!(done, [true].into());
        go_on(&shared, rounds + 2, &streams);
    }
    // Deaths in the middle of it: before any program is exchanged, and when all are and no pin is.
    type Step = fn(&mut Growth) -> Result<(), Error>;
    let deaths: [&[Step]; 2] = [&[Growth::fill], &[Growth::fill, Growth::switch]];
    for (n, steps) in deaths.into_iter().enumerate() {
        let rounds = shared.rounds.load(Relaxed);
        let capacity = 32_768 << n;
        let mut growth = Growth::prepare(&root, &[("FLOWS", capacity), ("REPLIES", capacity)].into()).unwrap();
        // The switch alone does not keep flows from beginning, as all of it does.
        shared.pause.store(true, Relaxed);
        wait(|| shared.paused.load(Relaxed));
        steps.iter().for_each(|step| step(&mut growth).unwrap());
        drop(growth);
        drop(proxy);
        shared.pause.store(false, Relaxed);
        go_on(&shared, rounds + 2, &streams);
        proxy = load(&ground, 4096);
        assert_eq!(flows(&ground).1, capacity as usize);
        devices.reconcile(&all, true).unwrap();
        go_on(&shared, rounds + 4, &streams);
    }
    shared.stop.store(true, Relaxed);
    assert_eq!(streams.join().unwrap(), [""; 0]);
    assert_eq!(opens.join().unwrap(), [""; 0]);
    assert!(shared.opened.load(Relaxed) > 10, "new connections came meanwhile, too");
    devices.detach().unwrap();
}

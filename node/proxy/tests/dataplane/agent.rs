//! A process of its own that talks, or answers, on the test's behalf: cgroup and network namespace belong to processes. It
//! is this very test binary, told by its environment to be an agent, and takes one request per line.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use skep_proxy::{Config, Protocol, Proxy};

use crate::ground;

/// Marks the agent's answers among whatever the test harness prints.
const ANSWER: &str = "agent-answer:";

/// How long an exchange on a test network may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Answer TCP connects and UDP datagrams at this address with the address.
    Serve(SocketAddr),
    /// Connect so many times, ask who answers, and keep the connections open.
    Hold { to: SocketAddr, times: usize },
    /// Close those that are kept open.
    Release,
    /// Connect so many times, each time asking who answers.
    Tcp { to: SocketAddr, times: usize, mapped: bool },
    /// Connect, and say who answers and what getpeername shows.
    TcpPeer { to: SocketAddr, mapped: bool },
    /// Connect for ever on so many threads.
    StartTcp { to: SocketAddr, threads: usize },
    /// End that, and say what came of it.
    StopTcp,
    /// Send one datagram from a connected socket.
    UdpConnected { to: SocketAddr, mapped: bool },
    /// Send one datagram from an unconnected socket of that name, which is kept.
    UdpSend { socket: String, to: SocketAddr, mapped: bool },
    /// Send one datagram from a connected socket of that name, which is kept until it fails.
    UdpKept { socket: String, to: SocketAddr, mapped: bool },
    /// Send one datagram from each of so many new sockets.
    UdpFresh { to: SocketAddr, times: usize },
    /// The cookie of the network namespace.
    NetnsCookie,
    /// Load the data plane and serve one TCP port, as a daemon would; with `churn` the backends are exchanged, one half for
    /// the other, without end.
    Load { churn: bool, bpf_root: PathBuf, cgroup: PathBuf, vip: SocketAddrV4, backends: Vec<SocketAddrV4> },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Answers by who gave them.
    pub(crate) from: BTreeMap<String, usize>,
    /// Failures by their text.
    pub(crate) failed: BTreeMap<String, usize>,
    /// What getpeername showed.
    pub(crate) peer: Option<String>,
    /// What recvfrom showed.
    pub(crate) source: Option<String>,
    /// The number asked for.
    pub(crate) number: u64,
}

impl Answer {
    fn count(&mut self, result: io::Result<String>) {
        match result {
            Ok(name) => *self.from.entry(name).or_default() += 1,
            Err(error) => *self.failed.entry(text(&error)).or_default() += 1,
        }
    }

    /// Everything went well.
    pub(crate) fn expect_no_failure(&self) -> &Self {
        assert_eq!(self.failed, BTreeMap::new());
        self
    }

    /// All attempts failed that way.
    pub(crate) fn expect_failures(&self, text: &str, times: usize) {
        assert_eq!((&self.from, &self.failed), (&BTreeMap::new(), &BTreeMap::from([(text.to_owned(), times)])));
    }
}

fn text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "ECONNREFUSED".into(),
        Some(libc::ECONNABORTED) => "ECONNABORTED".into(),
        Some(libc::ENETUNREACH) => "ENETUNREACH".into(),
        _ => format!("{error:?}"),
    }
}

/// The test's end of an agent. Dropping it ends the process.
pub(crate) struct Agent {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts an agent in a network namespace and, if given, a cgroup.
    pub(crate) fn start(netns: Option<&str>, cgroup: Option<&Path>) -> Self {
        let exe = std::env::current_exe().unwrap();
        let mut command = match netns {
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(exe);
                command
            }
            None => Command::new(exe),
        };
        let mut child = command
            .args(["--ignored", "--exact", "agent::agent", "--nocapture"])
            .env("SKEP_TEST_AGENT", "1")
            .env_remove("NEXTEST_EXECUTION_MODE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(cgroup) = cgroup {
            // It waits for the first request, so it opens no socket before.
            std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Asks without waiting for the answer.
    pub(crate) fn tell(&mut self, request: &Request) {
        writeln!(self.input, "{}", serde_json::to_string(request).unwrap()).unwrap();
        self.input.flush().unwrap();
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Answer {
        self.tell(request);
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the agent died of {request:?}");
            // The harness writes its own words without a newline first.
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return serde_json::from_str(answer).unwrap();
            }
        }
    }

    pub(crate) fn tcp(&mut self, to: impl Into<SocketAddr>, times: usize) -> Answer {
        self.ask(&Request::Tcp { to: to.into(), times, mapped: false })
    }

    pub(crate) fn udp_send(&mut self, socket: &str, to: impl Into<SocketAddr>) -> Answer {
        self.ask(&Request::UdpSend { socket: socket.into(), to: to.into(), mapped: false })
    }

    /// SIGKILL, as the kernel's out-of-memory killer would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "no test: the body of the agents the others start"]
fn agent() {
    assert!(std::env::var_os("SKEP_TEST_AGENT").is_some(), "only the other tests start this one");
    let mut state = State::default();
    for line in io::stdin().lines() {
        let request = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = state.handle(request);
        println!("{ANSWER}{}", serde_json::to_string(&answer).unwrap());
    }
}

#[derive(Default)]
struct State {
    sockets: HashMap<String, UdpSocket>,
    held: Vec<TcpStream>,
    load: Option<Load>,
    proxy: Option<Proxy>,
}

struct Load {
    stop: Arc<AtomicBool>,
    answer: Arc<Mutex<Answer>>,
    threads: Vec<JoinHandle<()>>,
}

impl State {
    fn handle(&mut self, request: Request) -> Answer {
        let mut answer = Answer::default();
        match request {
            Request::Serve(at) => serve(at),
            Request::Tcp { to, times, mapped } => {
                (0..times).for_each(|_| answer.count(connect(to, mapped).and_then(|stream| who(&stream))));
            }
            Request::Hold { to, times } => {
                for _ in 0..times {
                    let stream = connect(to, false);
                    answer.count(stream.as_ref().map_err(|error| error.kind().into()).and_then(who));
                    self.held.extend(stream);
                }
            }
            Request::Release => self.held.clear(),
            Request::TcpPeer { to, mapped } => match connect(to, mapped) {
                Ok(stream) => {
                    answer.peer = Some(stream.peer_addr().unwrap().to_string());
                    answer.count(who(&stream));
                }
                Err(error) => answer.count(Err(error)),
            },
            Request::StartTcp { to, threads } => self.load = Some(Load::start(to, threads)),
            Request::StopTcp => answer = self.load.take().unwrap().stop(),
            Request::UdpConnected { to, mapped } => {
                let socket = udp(mapped || to.is_ipv6());
                let sent = socket.connect(shape(to, mapped)).and_then(|()| socket.send(b"?"));
                answer.peer = socket.peer_addr().ok().map(|peer| peer.to_string());
                let result = sent.and_then(|_| receive(&socket, &mut answer.source));
                answer.count(result);
            }
            Request::UdpSend { socket, to, mapped } => {
                let socket = self.sockets.entry(socket).or_insert_with(|| udp(mapped || to.is_ipv6()));
                let sent = socket.send_to(b"?", shape(to, mapped));
                let result = sent.and_then(|_| receive(socket, &mut answer.source));
                answer.count(result);
            }
            Request::UdpKept { socket, to, mapped } => {
                let result = match self.sockets.remove(&socket) {
                    Some(kept) => Ok(kept),
                    None => {
                        let new = udp(mapped || to.is_ipv6());
                        new.connect(shape(to, mapped)).map(|()| new)
                    }
                };
                let result = result.and_then(|kept| {
                    // What waits on the socket says more than that it is not connected any more.
                    kept.send(b"?").map_err(|error| kept.take_error().ok().flatten().unwrap_or(error))?;
                    let name = receive(&kept, &mut answer.source)?;
                    self.sockets.insert(socket, kept);
                    Ok(name)
                });
                answer.count(result);
            }
            Request::NetnsCookie => answer.number = netns_cookie(),
            Request::UdpFresh { to, times } => {
                for _ in 0..times {
                    let socket = udp(to.is_ipv6());
                    let sent = socket.send_to(b"?", to);
                    let result = sent.and_then(|_| receive(&socket, &mut answer.source));
                    answer.count(result);
                }
            }
            Request::Load { churn, bpf_root, cgroup, vip, backends } => {
                let config = Config { bpf_root, cgroup_root: Some(cgroup), ..Config::default() };
                let mut proxy = Proxy::load(config).unwrap();
                let number = |at: &SocketAddrV4| at.ip().octets()[3] - 10;
                let (port, service) = ground::entry(vip, Protocol::Tcp, backends.iter().map(number));
                proxy.programmer().apply(&port, &service).unwrap();
                if churn {
                    let halves = backends.split_at(backends.len() / 2);
                    let half = |half: &[SocketAddrV4]| ground::entry(vip, Protocol::Tcp, half.iter().map(number)).1;
                    let halves = [half(halves.0), half(halves.1)];
                    thread::spawn(move || {
                        for half in halves.iter().cycle() {
                            proxy.programmer().apply(&port, half).unwrap();
                        }
                    });
                } else {
                    self.proxy = Some(proxy);
                }
            }
        }
        answer
    }
}

impl Load {
    fn start(to: SocketAddr, threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(Mutex::new(Answer::default()));
        let threads = (0..threads)
            .map(|_| {
                let (stop, answer) = (stop.clone(), answer.clone());
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let result = connect(to, false).and_then(|stream| who(&stream));
                        answer.lock().unwrap().count(result);
                    }
                })
            })
            .collect();
        Self { stop, answer, threads }
    }

    fn stop(self) -> Answer {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.answer.lock().unwrap().clone()
    }
}

fn netns_cookie() -> u64 {
    let socket = udp(false);
    let (mut cookie, mut length) = (0_u64, 8);
    // SAFETY: both pointers are to live variables, and the length is that of the first.
    let result = unsafe {
        // SO_NETNS_COOKIE
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SOL_SOCKET,
            71,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    cookie
}

fn serve(at: SocketAddr) {
    let tcp = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            // A client that is gone again is no matter.
            let _ = stream.and_then(|mut stream| stream.write_all(at.to_string().as_bytes()));
        }
    });
    let udp = UdpSocket::bind(at).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(at.to_string().as_bytes(), client);
        }
    });
}

/// An IPv4 address, or the same as IPv6 sockets write it.
fn shape(to: SocketAddr, mapped: bool) -> SocketAddr {
    match to {
        SocketAddr::V4(to) if mapped => SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0).into(),
        _ => to,
    }
}

fn connect(to: SocketAddr, mapped: bool) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(shape(to, mapped))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn who(mut stream: &TcpStream) -> io::Result<String> {
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok(name)
}

fn udp(mapped: bool) -> UdpSocket {
    let socket = if mapped { UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) } else { UdpSocket::bind("0.0.0.0:0") };
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket, source: &mut Option<String>) -> io::Result<String> {
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    *source = Some(from.to_string());
    Ok(String::from_utf8_lossy(&buffer[..length]).into())
}

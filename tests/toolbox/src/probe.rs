//! Who answers, and whom they see: one server that says both, and one client that asks many addresses at once.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::server::{end_on_signal, everywhere, pod_name};

/// How long a client waits before it takes its packets for dropped: time for TCP's second repetition. Far more than an answer
/// takes.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between one datagram and its repetition: a busy server may have lost the first.
const AGAIN: Duration = Duration::from_millis(800);

/// Source ports of datagrams, above those of the kernel, of node ports and of translated sources: a node gives none of them to
/// others. Each is used once in a long time: a translation
/// that a node remembers must not answer a later question.
const PORTS: u16 = 2_200;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// Answers TCP connections and datagrams on `port` with `<pod's name>@<client's address>`.
pub(crate) fn tell(port: u16) -> Result<(), String> {
    end_on_signal()?;
    let name = pod_name()?;
    let (tcp, udp) = everywhere(port)?;
    println!("telling as {name} on port {port}");
    std::thread::spawn({
        let name = name.clone();
        move || {
            loop {
                if let Ok((_, from)) = udp.recv_from(&mut [0; 64]) {
                    // Nobody may be there to hear it.
                    let _ = udp.send_to(format!("{name}@{}", from.ip().to_canonical()).as_bytes(), from);
                }
            }
        }
    });
    for stream in tcp.incoming().flatten() {
        let name = name.clone();
        std::thread::spawn(move || {
            // As above.
            let _ = tell_client(stream, &name);
        });
    }
    Ok(())
}

/// The client closes first: else its address and port would be closed to it here for a minute.
fn tell_client(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let from = stream.peer_addr()?.ip().to_canonical();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{name}@{from}\n").as_bytes())?;
    stream.read(&mut [0]).map(drop)
}

/// Reads questions `<id> tcp|udp <HOST:PORT> <times>` from standard input, asks all of them at once, and prints for each, when it
/// is done, `<id>` and what was met each time: an answer, `refused`, `silence`, `unreachable` or another kind of error. The
/// first silence ends a question. Datagrams are sent from `first_port` and the [`PORTS`] after it.
pub(crate) fn probe(first_port: u16) -> Result<(), String> {
    for line in std::io::stdin().lines() {
        let line = line.map_err(|e| e.to_string())?;
        let [id, protocol, address, times] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("not a question: {line}"));
        };
        let tcp = protocol == "tcp";
        let address = address.parse::<SocketAddr>().map_err(|e| format!("{address}: {e}"))?;
        let times = times.parse::<u32>().map_err(|e| format!("{times}: {e}"))?;
        let id = id.to_owned();
        std::thread::spawn(move || {
            let mut line = id;
            for _ in 0..times {
                let met = if tcp { ask_tcp(address) } else { ask_udp(address, first_port) };
                let met = met.unwrap_or_else(|error| kind_of(&error));
                line = format!("{line} {met}");
                if met == "silence" {
                    break;
                }
            }
            println!("{line}");
        });
    }
    Ok(())
}

fn kind_of(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "silence".to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable".to_owned(),
        kind => format!("{kind:?}"),
    }
}

fn ask_tcp(address: SocketAddr) -> std::io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

fn ask_udp(address: SocketAddr, first_port: u16) -> std::io::Result<String> {
    let socket = fresh_socket(address.is_ipv6(), first_port)?;
    socket.set_read_timeout(Some(AGAIN))?;
    socket.connect(address)?;
    let start = Instant::now();
    loop {
        socket.send(b"who?")?;
        let mut answer = [0; 512];
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {}
            heard => return heard.map(|length| String::from_utf8_lossy(&answer[..length]).into_owned()),
        }
    }
}

/// With the next port that nobody has.
fn fresh_socket(ipv6: bool, first_port: u16) -> std::io::Result<UdpSocket> {
    loop {
        let port = first_port.saturating_add(NEXT_PORT.fetch_add(1, Ordering::Relaxed) % PORTS);
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        match UdpSocket::bind((any, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

//! The serving side.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// How long a client may take to send its request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers every HTTP request and every datagram on `port` with `name`, or else the pod's name.
pub(crate) fn serve(port: u16, name: Option<&str>) -> Result<(), String> {
    // Before any other thread, so that all of them inherit the blocked signals.
    end_on_signal()?;
    let name = name.map_or_else(pod_name, |name| Ok(name.to_owned()))?;
    let (tcp, udp) = everywhere(port)?;
    println!("serving as {name} on port {port}");
    let answer = format!("{name}\n");
    std::thread::spawn({
        let answer = answer.clone();
        move || answer_datagrams(&udp, answer.as_bytes())
    });
    for stream in tcp.incoming().flatten() {
        let answer = answer.clone();
        std::thread::spawn(move || {
            // A client that went away is its own affair.
            let _ = respond(&stream, &answer);
        });
    }
    Ok(())
}

/// Answers one short request per connection on one thread.
pub(crate) fn echo(port: u16) -> Result<(), String> {
    end_on_signal()?;
    let listener = listen(port)?;
    println!("echoing on port {port}");
    for mut stream in listener.incoming().flatten() {
        let mut request = [0; 64];
        if let Ok(length) = stream.read(&mut request) {
            // As above.
            let _ = stream.write_all(&request[..length]);
        }
    }
    Ok(())
}

/// Returns what comes: on TCP connections, each on a thread of its own, and in datagrams.
pub(crate) fn mirror(port: u16) -> Result<(), String> {
    end_on_signal()?;
    let tcp = listen(port)?;
    let udp = UdpSocket::bind(("0.0.0.0", port)).map_err(|e| format!("cannot listen on UDP port {port}: {e}"))?;
    println!("mirroring on port {port}");
    std::thread::spawn(move || {
        let mut datagram = [0; 2048];
        loop {
            if let Ok((length, from)) = udp.recv_from(&mut datagram) {
                // Nobody may be there to hear it.
                let _ = udp.send_to(&datagram[..length], from);
            }
        }
    });
    for stream in tcp.incoming().flatten() {
        std::thread::spawn(move || {
            // Clients come and go.
            let _ = stream.set_nodelay(true).and_then(|()| return_all(stream));
        });
    }
    Ok(())
}

fn return_all(mut stream: TcpStream) -> std::io::Result<()> {
    let mut block = [0; 16 * 1024];
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(()),
            length => stream.write_all(&block[..length])?,
        }
    }
}

/// Swallows what comes on each TCP connection, and answers its end with the number of bytes (8, big endian).
pub(crate) fn sink(port: u16) -> Result<(), String> {
    end_on_signal()?;
    let listener = listen(port)?;
    println!("swallowing on port {port}");
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            // As above.
            let _ = swallow(&mut stream).and_then(|count| stream.write_all(&count.to_be_bytes()));
        });
    }
    Ok(())
}

fn swallow(stream: &mut TcpStream) -> std::io::Result<u64> {
    let (mut block, mut count) = (vec![0; 128 * 1024], 0);
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(count),
            length => count += length as u64,
        }
    }
}

fn listen(port: u16) -> Result<TcpListener, String> {
    TcpListener::bind(("0.0.0.0", port)).map_err(|e| format!("cannot listen on TCP port {port}: {e}"))
}

/// TCP and UDP on all addresses of both families; of IPv4 alone where there is no other.
pub(crate) fn everywhere(port: u16) -> Result<(TcpListener, UdpSocket), String> {
    let tcp = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    let tcp = tcp.map_err(|e| format!("cannot listen on TCP port {port}: {e}"))?;
    let udp = UdpSocket::bind(("::", port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)));
    Ok((tcp, udp.map_err(|e| format!("cannot listen on UDP port {port}: {e}"))?))
}

/// The pod's name is its host name.
pub(crate) fn pod_name() -> Result<String, String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    Ok(name.map_err(|e| format!("cannot read the host name: {e}"))?.trim().to_owned())
}

/// Ends the process on SIGTERM and SIGINT: the kernel ignores them for a container's first process unless it asks.
pub(crate) fn end_on_signal() -> Result<(), String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| format!("cannot block signals: {e}"))?;
    std::thread::spawn(move || std::process::exit(if signals.wait().is_ok() { 0 } else { 1 }));
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket, answer: &[u8]) {
    let mut datagram = [0; 2048];
    loop {
        if let Ok((_, from)) = socket.recv_from(&mut datagram) {
            // As with any datagram, nobody may be there to hear the answer.
            let _ = socket.send_to(answer, from);
        }
    }
}

fn respond(mut stream: &TcpStream, body: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut lines = BufReader::new(stream.take(16 * 1024)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    println!("{} {request}", stream.peer_addr()?.ip().to_canonical());
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

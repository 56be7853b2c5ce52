//! The program inside the demo's and the tests' image. It is linked statically.
//!
//! `toolbox serve [--port N]` answers every HTTP request and every UDP datagram on port N (8080) with the pod's name,
//! and says so on standard output. `toolbox get URL-HOST:PORT` prints the body of one HTTP answer.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// How long a client may take to send its request, or a server its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["serve"] => serve(8080),
        ["serve", "--port", port] => port.parse().map_err(|_| format!("not a port: {port}")).and_then(serve),
        ["get", address] => get(address),
        _ => Err("usage: toolbox serve [--port N] | toolbox get HOST:PORT".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("toolbox: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The pod's name is its host name.
fn name() -> Result<String, String> {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|e| format!("cannot read the host name: {e}"))?;
    Ok(name.trim().to_owned())
}

/// Ends the process on SIGTERM and SIGINT: the kernel ignores them for a container's first process unless it asks.
fn end_on_signal() -> Result<(), String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| format!("cannot block signals: {e}"))?;
    std::thread::spawn(move || {
        let code = if signals.wait().is_ok() { 0 } else { 1 };
        std::process::exit(code);
    });
    Ok(())
}

fn serve(port: u16) -> Result<(), String> {
    // Before any other thread, so that all of them inherit the blocked signals.
    end_on_signal()?;
    let name = name()?;
    let tcp = TcpListener::bind(("0.0.0.0", port)).map_err(|e| format!("cannot listen on TCP port {port}: {e}"))?;
    let udp = UdpSocket::bind(("0.0.0.0", port)).map_err(|e| format!("cannot listen on UDP port {port}: {e}"))?;
    println!("serving as {name} on port {port}");
    let answer = format!("{name}\n");
    std::thread::spawn({
        let answer = answer.clone();
        move || echo(&udp, answer.as_bytes())
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

fn echo(socket: &UdpSocket, answer: &[u8]) {
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
    println!("{} {request}", stream.peer_addr()?.ip());
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn get(address: &str) -> Result<(), String> {
    let fetch = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = fetch().map_err(|e| format!("{address}: {e}"))?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| format!("{address}: not an HTTP answer: {answer}"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{address}: {}", head.lines().next().unwrap_or_default()));
    }
    print!("{body}");
    Ok(())
}

//! One flow of datagrams that is led to another backend.

use std::io::Read as _;
use std::net::UdpSocket;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Between two datagrams.
const PAUSE: Duration = Duration::from_micros(500);

/// How long an answer is waited for before the next datagram is sent.
const TIMEOUT: Duration = Duration::from_millis(2);

/// Sends datagrams to `address` until standard input ends, from a connected socket or not. Prints `<nanoseconds since 1970> <answer>`
/// whenever the answer is another one than before. A socket that fails is replaced by a new one, as a program would.
pub(crate) fn flow(address: &str, connected: bool) -> Result<(), String> {
    std::thread::spawn(|| {
        // An error on standard input ends it just as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut last = String::new();
    loop {
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(TIMEOUT)).map_err(|e| e.to_string())?;
        // A service port without backends refuses; it may have one by the next time.
        if !connected || socket.connect(address).is_ok() {
            // Its error is the reason for a new one.
            let _ = ask(&socket, address, connected, &mut last);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Returns when the socket fails.
fn ask(socket: &UdpSocket, address: &str, connected: bool, last: &mut String) -> std::io::Result<()> {
    let mut datagram = [0; 512];
    loop {
        if connected {
            socket.send(b"who?")?
        } else {
            socket.send_to(b"who?", address)?
        };
        match socket.recv(&mut datagram) {
            Ok(length) => {
                let answer = String::from_utf8_lossy(&datagram[..length]);
                if answer.trim() != last {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    *last = answer.trim().to_owned();
                    println!("{} {last}", now.as_nanos());
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(PAUSE);
    }
}

//! The asking side.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;

/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Between one question and the next, where nobody is in a hurry.
const PAUSE: Duration = Duration::from_millis(50);

/// The body of one HTTP answer.
pub(crate) fn get(address: &str) -> Result<String, String> {
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
        answer.split_once("\r\n\r\n").ok_or_else(|| format!("{address}: not an HTTP answer: {answer:?}"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{address}: {}", head.lines().next().unwrap_or_default()));
    }
    Ok(body.to_owned())
}

/// The answer to one datagram sent from an unconnected socket; it must come from the address that was asked.
pub(crate) fn udp(address: &str) -> Result<String, String> {
    let ask = || -> std::io::Result<(String, String)> {
        let socket = UdpSocket::bind(if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.send_to(b"who?", address)?;
        let mut answer = [0; 512];
        let (length, from) = socket.recv_from(&mut answer)?;
        Ok((String::from_utf8_lossy(&answer[..length]).into_owned(), from.to_string()))
    };
    let (answer, from) = ask().map_err(|e| format!("{address}: {e}"))?;
    if from != address {
        return Err(format!("asked {address}, but {from} answered"));
    }
    Ok(answer)
}

/// Asks again and again from one connected UDP socket, and prints answers and errors that differ from the one before. Only
/// when the kernel has taken the connection away does it connect again.
pub(crate) fn stay(address: &str) -> Result<(), String> {
    let mut last = String::new();
    loop {
        let socket = UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
        let connected = socket.set_read_timeout(Some(TIMEOUT)).and_then(|()| socket.connect(address));
        let ask = || -> std::io::Result<String> {
            let mut answer = [0; 512];
            socket.send(b"who?")?;
            let length = socket.recv(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).trim().to_owned())
        };
        let mut lost = connected.is_err();
        while !lost {
            let heard = ask().unwrap_or_else(|error| {
                lost =
                    [Errno::ECONNABORTED, Errno::EDESTADDRREQ].iter().any(|e| error.raw_os_error() == Some(*e as i32));
                format!("error: {error}")
            });
            if heard != last {
                println!("{heard}");
                last = heard;
            }
            std::thread::sleep(PAUSE);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks again and again until standard input ends, then prints a line `<count> <answer or error>` for each kind.
pub(crate) fn hammer(address: &str) -> Result<(), String> {
    let ended = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let ended = Arc::clone(&ended);
        move || {
            // An error on standard input ends it just as well.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            ended.store(true, Ordering::Relaxed);
        }
    });
    let mut counts = BTreeMap::<String, u64>::new();
    while !ended.load(Ordering::Relaxed) {
        let answer = match get(address) {
            Ok(body) => body.trim().to_owned(),
            Err(error) => format!("error: {error}"),
        };
        *counts.entry(answer).or_default() += 1;
    }
    for (answer, count) in counts {
        println!("{count} {answer}");
    }
    Ok(())
}

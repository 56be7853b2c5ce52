//! Fixed amounts of traffic, timed: what the measurements compare.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

const MEBIBYTE: usize = 1 << 20;

/// Runs `work` and prints the nanoseconds it took.
fn timed(address: &str, work: impl FnOnce() -> std::io::Result<()>) -> Result<(), String> {
    let start = Instant::now();
    work().map_err(|e| format!("{address}: {e}"))?;
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}

/// TCP connect-request-response: `count` times, each on a connection of its own.
pub(crate) fn crr(address: &str, count: u32) -> Result<(), String> {
    timed(address, || {
        (0..count).try_for_each(|_| {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0; 1])
        })
    })
}

/// TCP request-response: `count` bytes, one after the other, there and back on one connection.
pub(crate) fn tcp_rr(address: &str, count: u32) -> Result<(), String> {
    let open = || -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    };
    let mut stream = open().map_err(|e| format!("{address}: {e}"))?;
    timed(address, || {
        (0..count).try_for_each(|_| {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0; 1])
        })
    })
}

/// The same with datagrams of one connected socket.
pub(crate) fn udp_rr(address: &str, count: u32) -> Result<(), String> {
    let open = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(address)?;
        Ok(socket)
    };
    let socket = open().map_err(|e| format!("{address}: {e}"))?;
    timed(address, || {
        (0..count).try_for_each(|_| {
            socket.send(b"x")?;
            socket.recv(&mut [0; 8]).map(drop)
        })
    })
}

/// `mebibytes` in one direction, until the sink has told that it has all of them.
pub(crate) fn stream(address: &str, mebibytes: u32) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).map_err(|e| format!("{address}: {e}"))?;
    timed(address, || {
        stream.set_read_timeout(Some(TIMEOUT))?;
        let block = vec![0; MEBIBYTE / 16];
        (0..mebibytes * 16).try_for_each(|_| stream.write_all(&block))?;
        stream.shutdown(Shutdown::Write)?;
        let mut heard = [0; 8];
        stream.read_exact(&mut heard)?;
        let sent = u64::from(mebibytes) * MEBIBYTE as u64;
        if u64::from_be_bytes(heard) == sent { Ok(()) } else { Err(std::io::Error::other("the sink has less")) }
    })
}

//! Traffic without end, to be going on while something happens. Each ends when standard input does and then prints
//! `<done> <failed>`, and below that a line `<count> <error>` for each kind of failure.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer may take before it counts as failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is sent back and forth on a stream.
const MESSAGE: [u8; 1024] = [7; 1024];

/// How long the last datagrams may be on their way.
const STRAGGLERS: Duration = Duration::from_secs(1);

/// Whether standard input has ended, and what was done.
#[derive(Default)]
struct Tally {
    ended: AtomicBool,
    done: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Ends with standard input.
    fn start() -> Arc<Self> {
        let tally = Arc::new(Self::default());
        let watched = Arc::clone(&tally);
        std::thread::spawn(move || {
            // An error on standard input ends it just as well.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            watched.ended.store(true, Ordering::Relaxed);
        });
        tally
    }

    fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    fn note<T>(&self, result: std::io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                Some(value)
            }
            Err(error) => {
                self.fail(error.to_string(), 1);
                None
            }
        }
    }

    fn fail(&self, error: String, count: u64) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner).entry(error).or_default() += count;
    }

    fn print(&self) {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{} {}", self.done.load(Ordering::Relaxed), failed.values().sum::<u64>());
        for (error, count) in failed.iter() {
            println!("{count} {error}");
        }
    }
}

/// `count` connections on which messages go there and back. One that breaks is a failure, and opened again.
pub(crate) fn streams(address: &str, count: u32) {
    let tally = Tally::start();
    run_threads(count, || {
        while tally.goes_on() {
            let Err(error) = exchange(address, &tally) else { return };
            tally.fail(error.to_string(), 1);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    tally.print();
}

fn exchange(address: &str, tally: &Tally) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = [0; MESSAGE.len()];
    while tally.goes_on() {
        stream.write_all(&MESSAGE)?;
        stream.read_exact(&mut answer)?;
        tally.done.fetch_add(1, Ordering::Relaxed);
        // Streams are to be alive, not to fill the machine.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Connects, asks, hears and closes without pause, on `threads` threads.
pub(crate) fn storm(address: &str, threads: u32) {
    let tally = Tally::start();
    run_threads(threads, || {
        while tally.goes_on() {
            tally.note(connection(address));
        }
    });
    tally.print();
}

fn connection(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0; 1])
}

fn run_threads(count: u32, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(&work);
        }
    });
}

/// `rate` numbered datagrams a second from one connected socket. What does not come back is a failure.
pub(crate) fn blast(address: &str, rate: u32) -> Result<(), String> {
    let open = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(STRAGGLERS))?;
        socket.connect(address)?;
        Ok(socket)
    };
    let socket = open().map_err(|e| format!("{address}: {e}"))?;
    let tally = Tally::start();
    let sent = std::thread::scope(|scope| {
        scope.spawn(|| hear(&socket, &tally));
        send(&socket, &tally, f64::from(rate))
    });
    let lost = sent.saturating_sub(tally.done.load(Ordering::Relaxed));
    if lost > 0 {
        tally.fail("not answered".to_owned(), lost);
    }
    tally.print();
    Ok(())
}

/// Sends what is due each millisecond; returns how many were sent.
fn send(socket: &UdpSocket, tally: &Tally, rate: f64) -> u64 {
    let (start, mut sent, mut tried) = (Instant::now(), 0, 0_u64);
    while tally.goes_on() {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        while tried < due {
            match socket.send(&tried.to_be_bytes()) {
                Ok(_) => sent += 1,
                Err(error) => tally.fail(format!("send: {error}"), 1),
            }
            tried += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// Counts answers until none has come for a while after the end. Each arrives once, in any order.
fn hear(socket: &UdpSocket, tally: &Tally) {
    let mut datagram = [0; 16];
    loop {
        match socket.recv(&mut datagram) {
            Ok(_) => drop(tally.done.fetch_add(1, Ordering::Relaxed)),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if !tally.goes_on() {
                    return;
                }
            }
            Err(error) => {
                tally.fail(format!("receive: {error}"), 1);
                if !tally.goes_on() {
                    return;
                }
            }
        }
    }
}

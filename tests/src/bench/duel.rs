//! One kind of traffic on our way and on the bare one, in turn, because neighbours on the machine disturb single rounds.

use anyhow::Result;

use super::place::{Place, Server};
use super::row::{Goal, Row, median};

/// Rounds of each way.
const ROUNDS: usize = 21;

/// Port of the server that closes after each answer.
pub const ECHO: u16 = 7000;
/// Port of the server that returns what comes, TCP and UDP.
pub const MIRROR: u16 = 7001;
/// Port of the server that swallows what comes.
pub const SINK: u16 = 7002;

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// One byte there and back on one connection.
    TcpRr,
    /// One datagram there and back.
    UdpRr,
    /// A connection for each byte there and back.
    TcpCrr,
    /// As many bytes as can be, in one direction.
    Stream,
}

impl Traffic {
    /// What netperf calls it.
    fn name(self) -> &'static str {
        match self {
            Self::TcpRr => "TCP_RR",
            Self::UdpRr => "UDP_RR",
            Self::TcpCrr => "TCP_CRR",
            Self::Stream => "TCP stream",
        }
    }

    /// The port of the server that answers it.
    fn port(self) -> u16 {
        match self {
            Self::TcpRr | Self::UdpRr => MIRROR,
            Self::TcpCrr => ECHO,
            Self::Stream => SINK,
        }
    }

    /// Operations of one round, or MiB: about an eighth of a second.
    pub fn amount(self) -> u32 {
        match self {
            Self::TcpRr | Self::UdpRr => 7_000,
            Self::TcpCrr => 1_500,
            Self::Stream => 200,
        }
    }

    fn args(self, address: &str, amount: u32) -> Vec<String> {
        let words: &[&str] = match self {
            Self::TcpRr => &["rr", "tcp"],
            Self::UdpRr => &["rr", "udp"],
            Self::TcpCrr => &["crr"],
            Self::Stream => &["stream"],
        };
        let amount = amount.to_string();
        words.iter().copied().chain([address, &amount]).map(str::to_owned).collect()
    }

    fn show(self, nanoseconds: f64, amount: u32) -> String {
        match self {
            Self::Stream => format!("{:.0} MiB/s", f64::from(amount) / nanoseconds * 1e9),
            _ => format!("{:.1} µs each", nanoseconds / f64::from(amount) / 1e3),
        }
    }
}

/// The servers of all kinds of traffic, in one place.
pub fn serve_all(place: &Place) -> Result<[Server; 3]> {
    let serve = |what: &str, port: u16| place.serve(&[what, &port.to_string()]);
    Ok([serve("echo", ECHO)?, serve("mirror", MIRROR)?, serve("sink", SINK)?])
}

/// One way: from where, and which host to ask.
pub struct Way<'a> {
    /// The client.
    pub from: &'a Place,
    /// The host to ask.
    pub host: String,
    /// The port to ask, where it is not the server's own.
    pub port: Option<u16>,
}

impl<'a> Way<'a> {
    /// To the servers' own ports at `host`.
    pub fn new(from: &'a Place, host: impl ToString) -> Self {
        Self { from, host: host.to_string(), port: None }
    }

    fn time(&self, traffic: Traffic, amount: u32) -> Result<f64> {
        let args = traffic.args(&format!("{}:{}", self.host, self.port.unwrap_or(traffic.port())), amount);
        self.from.time(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// The row `<traffic> <name>`: how much of the bare way's rate ours has. `bare` comes with its name.
pub fn fight(traffic: Traffic, name: &str, ours: &Way<'_>, bare: (&Way<'_>, &str), goal: f64) -> Result<Row> {
    let amount = traffic.amount();
    let (mut our_times, mut bare_times) = (Vec::new(), Vec::new());
    // The first round pays for neighbour entries and cold caches on both ways.
    bare.0.time(traffic, amount)?;
    ours.time(traffic, amount)?;
    for _ in 0..ROUNDS {
        bare_times.push(bare.0.time(traffic, amount)?);
        our_times.push(ours.time(traffic, amount)?);
    }
    let score = median(our_times.iter().zip(&bare_times).map(|(ours, bare)| bare / ours).collect());
    Ok(Row {
        name: format!("{} {name}", traffic.name()),
        measured: traffic.show(median(our_times), amount),
        limit: format!("{} {}", traffic.show(median(bare_times), amount), bare.1),
        score,
        goal: Goal::AtLeast(goal, ""),
    })
}

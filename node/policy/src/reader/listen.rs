//! Listening to verdicts.

use std::{
    fmt, fs,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use aya::maps::{Array, MapData, RingBuf};
use serde::Serialize;
use skep_ebpf_common::{
    conntrack::Tuple,
    policy::{PolicyEvent, Verdict, direction},
};

use super::{Reader, ip};
use crate::{Error, Result, kernel::maps};

/// For how long the kernel tells events after it was last asked to.
const LISTEN: Duration = Duration::from_secs(3);

/// Something that happened to a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// When.
    #[serde(skip)]
    pub time: SystemTime,
    /// As [`Verdict::name`].
    pub verdict: &'static str,
    /// `ingress` (to the pod) or `egress`.
    pub direction: &'static str,
    /// The pod, `namespace/name`.
    pub pod: String,
    /// The peer's identity.
    pub identity: u32,
    /// What it stands for.
    pub peer: String,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port, or an echo's identifier.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Reader {
    /// Starts to listen to what happens. Of several listeners each event goes to one.
    ///
    /// # Errors
    /// When the ring cannot be opened.
    pub fn listen(self) -> Result<Listener> {
        let until = maps::open(&self.folder, "POLICY_LISTEN")?;
        let ring = maps::open(&self.folder, "POLICY_EVENTS")?;
        Ok(Listener { reader: self, until, ring })
    }
}

/// Hears of packets of isolated pods while it lives (and a few seconds more): new connections that are allowed, and what is
/// dropped; at most some hundred a second.
pub struct Listener {
    reader: Reader,
    until: Array<MapData, u64>,
    ring: RingBuf<MapData>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Listener {
    /// What there is to hear now. To be called at least once a second: the kernel stops telling when nobody asks.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn hear(&mut self) -> Result<Vec<EventRecord>> {
        let now = since_boot()?;
        let until = u64::try_from((now + LISTEN).as_nanos()).unwrap_or(u64::MAX);
        self.until.set(0, until, 0).map_err(Error::map("POLICY_LISTEN"))?;
        let mut heard = Vec::new();
        while let Some(item) = self.ring.next() {
            if let Some(event) = parse(&item) {
                heard.push(record(&self.reader, &event, now));
            }
        }
        Ok(heard)
    }
}

/// An event from its bytes, field by field: the ring promises no alignment of ours.
fn parse(bytes: &[u8]) -> Option<PolicyEvent> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| Some([word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?]);
    Some(PolicyEvent {
        time: u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?),
        tuple: Tuple {
            source: address(8)?,
            destination: address(24)?,
            source_port: half(40)?,
            destination_port: half(42)?,
            protocol: *bytes.get(44)?,
            pad: [0; 3],
        },
        device: word(48)?,
        table: word(52)?,
        identity: word(56)?,
        verdict: word(60)?,
        direction: *bytes.get(64)?,
        pad: [0; 7],
    })
}

fn record(reader: &Reader, event: &PolicyEvent, now: Duration) -> EventRecord {
    let ago = now.saturating_sub(Duration::from_nanos(event.time));
    let verdict = Verdict::ALL.get(event.verdict as usize).map_or("unknown", |verdict| verdict.name());
    let (namespace, name) = reader.pod_name(event.device);
    let tuple = &event.tuple;
    EventRecord {
        time: SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
        verdict,
        direction: if event.direction == direction::EGRESS { "egress" } else { "ingress" },
        pod: format!("{namespace}/{name}"),
        identity: event.identity,
        peer: reader.peer_name(event.identity),
        source: ip(tuple.source),
        destination: ip(tuple.destination),
        source_port: u16::from_be(tuple.source_port),
        destination_port: u16::from_be(tuple.destination_port),
        protocol: tuple.protocol,
    }
}

/// Time since the node started, suspended time included.
fn since_boot() -> Result<Duration> {
    let path = "/proc/uptime";
    let text = fs::read_to_string(path).map_err(Error::io(format!("read {path}")))?;
    let seconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

//! The fast lane against a program that sends every packet back unseen: how much of a driver's pace is left when a packet to
//! a node port is translated.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Result, anyhow};
use nix::sched::{CloneFlags, setns};
use skep_proxy::bench::xdp::{Report, Wire, run};
use xtask::netns::Netns;

use super::row::{Goal, Row, median};

/// Times each side is measured, in turns.
const ROUNDS: u32 = 15;

/// Measures this group.
pub fn measure() -> Result<Vec<Row>> {
    let name = format!("skep-xdp-{}", std::process::id());
    let netns = Netns::create(&name)?;
    lay(&netns)?;
    let mut rows = Vec::new();
    for flows in [1, 1000] {
        let here = std::fs::File::open(netns.path())?;
        let folder = format!("/sys/fs/bpf/{name}");
        // A thread of its own, for it joins the namespace.
        let measured = std::thread::spawn(move || -> Result<Vec<Report>> {
            setns(here, CloneFlags::CLONE_NEWNET)?;
            let wire = Wire {
                device: "wire",
                peer: "wire-x",
                hardware: [2, 0, 0, 0, 0, 1],
                node: Ipv4Addr::new(192, 0, 2, 1),
                client: Ipv4Addr::new(192, 0, 2, 9),
                backend: Ipv4Addr::new(10, 2, 0, 5),
            };
            Ok(run(Path::new(&folder), &wire, flows, ROUNDS)?)
        });
        let reports = measured.join().map_err(|_| anyhow!("the measurement panicked"))??;
        rows.push(row(flows, &reports));
    }
    Ok(rows)
}

/// A node's device, its addresses and neighbours, in a namespace where nothing leads anywhere else.
fn lay(netns: &Netns) -> Result<()> {
    netns.ip(&["link", "add", "wire", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "wire-x"])?;
    for device in ["wire", "wire-x"] {
        netns.ip(&["link", "set", device, "up"])?;
    }
    netns.ip(&["addr", "add", "192.0.2.1/24", "dev", "wire"])?;
    netns.ip(&["route", "add", "10.2.0.0/24", "via", "192.0.2.2"])?;
    for (address, hardware) in [("192.0.2.2", "02:00:00:00:00:02"), ("192.0.2.9", "02:00:00:00:00:09")] {
        netns.ip(&["neigh", "add", address, "lladdr", hardware, "dev", "wire", "nud", "permanent"])?;
    }
    let mut command = netns.command("sh");
    xtask::command::output(command.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])).map(drop)
}

fn row(flows: u16, reports: &[Report]) -> Row {
    let rate = |pick: fn(&Report) -> std::time::Duration| {
        1.0 / median(reports.iter().map(|report| pick(report).as_secs_f64()).collect())
    };
    let (ours, bare) = (rate(|report| report.forwarded), rate(|report| report.bare));
    let which = if flows == 1 { "one flow".to_owned() } else { format!("{flows} flows") };
    Row {
        name: format!("XDP: packets of a node port, pod on another node, {which}"),
        measured: format!("{:.2} M packets/s", ours / 1e6),
        limit: format!("{:.2} M packets/s sent back by a bare XDP_TX", bare / 1e6),
        // Of each pair, so that a pause of the machine spoils one only.
        score: median(
            reports.iter().map(|report| report.bare.as_secs_f64() / report.forwarded.as_secs_f64()).collect(),
        ),
        goal: Goal::AtLeast(0.5, ""),
    }
}

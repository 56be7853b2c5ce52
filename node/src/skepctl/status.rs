//! `skepctl status`: is everything as it should be?

use std::{io::Write, path::Path};

use anyhow::Result;
use serde::Serialize;
use skep_proxy::maps::{Reader, reader::status};

use crate::{
    cli::Format,
    output::{print, shown, structured, table},
    trace::policy,
};

/// State of this node's data plane and of NetworkPolicy.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    #[serde(flatten)]
    proxy: status::Status,
    network_policy: Policy,
    /// Attempts that were refused for want of a backend, of all Services.
    refused: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    /// Is it in the kernel? Without any policy in the cluster it is not.
    loaded: bool,
    /// What is not as it should be.
    warnings: Vec<&'static str>,
    pods: usize,
    isolated_pods: usize,
    /// Its programs on pods' devices.
    devices: Vec<status::DeviceRecord>,
}

/// Reads it.
pub(crate) fn read(reader: &Reader, root: &Path) -> Result<Status> {
    let network_policy = match policy(root)? {
        None => Policy { loaded: false, warnings: Vec::new(), pods: 0, isolated_pods: 0, devices: Vec::new() },
        Some(reader) => {
            let pods = reader.pods()?;
            let isolated_pods = pods.iter().filter(|pod| pod.ingress.is_some() || pod.egress.is_some()).count();
            let (programs, links) = reader.programs();
            let devices = status::on_devices(programs, links)?;
            Policy { loaded: true, warnings: reader.warnings(), pods: pods.len(), isolated_pods, devices }
        }
    };
    let refused = reader.services()?.iter().map(|service| service.refused).sum();
    Ok(Status { proxy: reader.status()?, network_policy, refused })
}

/// Prints it.
pub(crate) fn show(format: Format, status: &Status, out: &mut impl Write) -> Result<()> {
    if let Some(text) = structured(format, status)? {
        return Ok(out.write_all(text.as_bytes())?);
    }
    let Status { proxy, network_policy, refused } = status;
    writeln!(out, "Kernel:         {}", proxy.kernel)?;
    writeln!(out, "BPF root:       {} (layout {})", proxy.bpf_root.display(), proxy.layout)?;
    match network_policy {
        Policy { loaded: false, .. } => writeln!(out, "NetworkPolicy:  not in the kernel")?,
        Policy { pods, isolated_pods, .. } => {
            writeln!(out, "NetworkPolicy:  in force, {isolated_pods} of {pods} pods are isolated")?;
        }
    }
    writeln!(out, "Refused:        {refused} attempts, for want of a backend")?;
    let warnings: Vec<&str> =
        proxy.warnings.iter().map(String::as_str).chain(network_policy.warnings.iter().copied()).collect();
    writeln!(out, "Warnings:       {}", if warnings.is_empty() { "none" } else { "" })?;
    for warning in warnings {
        writeln!(out, "  {warning}")?;
    }
    writeln!(out)?;
    programs(proxy, &network_policy.devices, out)?;
    writeln!(out)?;
    let mut maps = table(["MAP", "ENTRIES", "CAPACITY", "FULL", "GROWS-TO"]);
    for map in &proxy.maps {
        let percent = map.entries as f64 * 100.0 / map.capacity.max(1) as f64;
        let (entries, capacity) = (map.entries.to_string(), map.capacity.to_string());
        let most = if map.most > map.capacity { map.most.to_string() } else { "-".into() };
        maps.add_row([map.name.clone(), entries, capacity, format!("{percent:.1}%"), most]);
    }
    print(&maps, out)?;
    if !proxy.forwarded.is_empty() {
        writeln!(out)?;
        let mut paths = table(["FORWARDED-BY", "PACKETS"]);
        for path in &proxy.forwarded {
            paths.add_row([path.path.to_owned(), path.packets.to_string()]);
        }
        print(&paths, out)?;
    }
    if proxy.drops.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut drops = table(["DROPPED-FOR", "PACKETS"]);
    for drop in &proxy.drops {
        drops.add_row([drop.reason.to_owned(), drop.packets.to_string()]);
    }
    print(&drops, out)
}

fn programs(status: &status::Status, policy: &[status::DeviceRecord], out: &mut impl Write) -> Result<()> {
    let yes = |attached: bool| if attached { "yes" } else { "NO" }.to_owned();
    let mut programs = table(["PROGRAM", "ON", "ATTACHED", "ID", "TAG"]);
    for program in &status.programs {
        let on = program.cgroup_id.map_or_else(|| "-".into(), |id| format!("cgroup {id}"));
        let row = [program.name.clone(), on, yes(program.attached), shown(program.id), shown(program.tag.as_ref())];
        programs.add_row(row);
    }
    for device in status.devices.iter().chain(policy) {
        let by = if device.is_filter { " (clsact)" } else { "" };
        let (name, on) = (device.program.clone(), format!("{}{by}", device.device));
        programs.add_row([name, on, yes(device.attached), shown(device.id), shown(device.tag.as_ref())]);
    }
    print(&programs, out)
}

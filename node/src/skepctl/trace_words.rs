//! A trace in words.

use std::{io::Write, net::IpAddr};

use anyhow::Result;
use skep_policy::reader::Step as PolicyStep;
use skep_proxy::maps::reader::trace::{Candidate, Outcome};

use crate::{
    output::{print, table},
    trace::{Backend, Record},
};

/// Every record, a blank line between two.
pub(crate) fn all(records: &[Record], out: &mut impl Write) -> Result<()> {
    for (n, record) in records.iter().enumerate() {
        if n > 0 {
            writeln!(out)?;
        }
        one(record, out)?;
    }
    Ok(())
}

fn one(record: &Record, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{} -> {} ({})", record.from, record.to, record.path)?;
    for step in &record.trace.steps {
        writeln!(out, "  {:14} {}", step.map, step.finding)?;
    }
    for step in &record.policy {
        writeln!(out, "  {:14} {}", "NetworkPolicy", judged(step))?;
    }
    let service = record.trace.service.as_deref().unwrap_or("no Service");
    let of_service = record.trace.service.as_ref().map(|service| format!("{service}: ")).unwrap_or_default();
    match &record.trace.outcome {
        _ if record.policy.iter().any(|step| !step.allowed) => writeln!(out, "dropped by NetworkPolicy")?,
        Outcome::Passes => writeln!(out, "passes as it is: {service}")?,
        Outcome::Masqueraded { source } => writeln!(out, "leaves the cluster under the address {source}")?,
        Outcome::Refused { reason } => writeln!(out, "refused: {of_service}{}", in_words(reason))?,
        Outcome::Dropped { reason } => writeln!(out, "dropped: {of_service}{}", in_words(reason))?,
        Outcome::Answer { from, to } => writeln!(out, "goes to {to} as an answer of {from}")?,
        Outcome::Backends { candidates } => {
            match candidates.len() {
                1 => writeln!(out, "goes to this backend of {service}")?,
                many => writeln!(out, "goes to one of {many} backends of {service}")?,
            }
            backends(candidates, &record.backends, out)?;
        }
    }
    Ok(())
}

fn backends(candidates: &[Candidate], known: &[Backend], out: &mut impl Write) -> Result<()> {
    let mut table = table(["  ADDRESS", "PLACES", "NODE", "POD", "STATE", "SEES", "NETWORKPOLICY"]);
    for (candidate, known) in candidates.iter().zip(known) {
        let endpoint = known.endpoint.as_ref();
        let here = if candidate.local { "(this)" } else { "-" };
        let node = endpoint.and_then(|endpoint| endpoint.node.clone()).unwrap_or_else(|| here.into());
        table.add_row([
            format!("  {}", candidate.address),
            candidate.places.to_string(),
            node,
            endpoint.and_then(|endpoint| endpoint.pod.clone()).unwrap_or_else(|| "-".into()),
            endpoint.map_or("-", |endpoint| endpoint.state).into(),
            sees(candidate),
            verdict(&known.policy),
        ]);
    }
    print(&table, out)?;
    for step in known.iter().flat_map(|backend| &backend.policy).filter(|step| !step.allowed) {
        writeln!(out, "  {}", judged(step))?;
    }
    Ok(())
}

/// The source that the backend sees.
fn sees(candidate: &Candidate) -> String {
    if let Some(reason) = candidate.dropped {
        return format!("nothing: {}", in_words(reason));
    }
    let shown = |source: Option<IpAddr>| source.map(|source| source.to_string());
    match (shown(candidate.source), shown(candidate.tunnel_source)) {
        (None, _) => "the client".into(),
        (Some(source), None) => source,
        (Some(source), Some(tunnel)) => format!("{source}, in the tunnel {tunnel}"),
    }
}

fn verdict(steps: &[PolicyStep]) -> String {
    if steps.is_empty() {
        return "-".into();
    }
    if steps.iter().all(|step| step.allowed) { "allowed" } else { "DENIED" }.into()
}

fn judged(step: &PolicyStep) -> String {
    let verdict = if step.allowed { "allowed" } else { "DENIED" };
    format!("{} of {}, peer {}: {verdict}: {}", step.direction, step.pod, step.peer, step.reason)
}

/// What a reason means.
fn in_words(reason: &str) -> String {
    let words = match reason {
        "no-port" => "the address is a Service's own, and this port none of it",
        "no-endpoints" => "it has no ready endpoint anywhere",
        "no-local-endpoints" => "its traffic policy is Local, and no ready endpoint is on this node",
        "source-denied" => "the client is in none of its loadBalancerSourceRanges",
        "torn" => "its entries in the maps do not fit together",
        "no-node-address" => "no address of this node is known that a backend elsewhere could answer to",
        _ => return reason.to_owned(),
    };
    format!("{words} ({reason})")
}

//! Reading the text of single options. Each error names the flag.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use skep_proxy::devices::Acceleration;
use skep_proxy::maglev;

pub(super) fn is_node_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=253).contains(&name.len())
        && name.chars().all(|c| plain(c) || matches!(c, '-' | '.'))
        && name.starts_with(plain)
        && name.ends_with(plain)
}

/// `None` for the empty text.
pub(super) fn bind_address(given: Option<String>, default: &str) -> anyhow::Result<Option<SocketAddr>> {
    let text = given.unwrap_or_else(|| default.to_owned());
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).with_context(|| format!("{text:?} is not an IP address with a port"))
}

pub(super) fn addresses(flag: &str, list: &[String]) -> anyhow::Result<Vec<IpAddr>> {
    list.iter().map(|text| text.parse().with_context(|| format!("{flag}: {text:?} is not an IP address"))).collect()
}

pub(super) fn range(flag: &str, text: &str) -> anyhow::Result<IpNet> {
    text.parse::<IpNet>().map(|range| range.trunc()).with_context(|| format!("{flag}: {text:?} is not a CIDR"))
}

/// One range, or one of each family.
pub(super) fn ranges(flag: &str, list: &[String]) -> anyhow::Result<Vec<IpNet>> {
    let ranges = list.iter().map(|text| range(flag, text)).collect::<Result<Vec<_>, _>>()?;
    ensure!(!ranges.is_empty(), "{flag}: no range is given");
    one_of_a_family(flag, &ranges.iter().map(IpNet::addr).collect::<Vec<_>>())?;
    Ok(ranges)
}

pub(super) fn one_of_a_family(flag: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
    let v6 = addresses.iter().filter(|address| address.is_ipv6()).count();
    let most = v6.max(addresses.len() - v6);
    ensure!(most <= 1, "{flag}: {most} are of one family; give one, or one of IPv4 and one of IPv6");
    Ok(())
}

/// The address ten after a range's own, which `kube-dns` has; `None` if the range is too small.
pub(super) fn tenth(range: &IpNet) -> Option<IpAddr> {
    let address: IpAddr = match range.network() {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits().checked_add(10)?).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits().checked_add(10)?).into(),
    };
    range.contains(&address).then_some(address)
}

/// Are packets handed to pods directly? Whoever else enforces policies may do so where such packets do not pass.
pub(super) fn direct(how: Option<&str>, enforces: bool) -> anyhow::Result<bool> {
    match how {
        None => Ok(enforces),
        Some("bpf") => Ok(true),
        Some("legacy") => Ok(false),
        Some(other) => bail!("--host-routing: {other:?} is neither bpf nor legacy"),
    }
}

pub(super) fn acceleration(how: Option<&str>) -> anyhow::Result<Acceleration> {
    match how {
        None | Some("disabled") => Ok(Acceleration::Disabled),
        Some("native") => Ok(Acceleration::Native),
        Some("best-effort") => Ok(Acceleration::BestEffort),
        Some(other) => bail!("--acceleration: {other:?} is none of disabled, native and best-effort"),
    }
}

/// The size of the tables; zero for none.
pub(super) fn maglev(choice: Option<&str>, size: Option<u32>) -> anyhow::Result<u32> {
    let size = size.unwrap_or(1021);
    ensure!(maglev::SIZES.contains(&size), "--maglev-table-size: {size} is none of {:?}", maglev::SIZES);
    match choice {
        None | Some("random" | "least-connections") => Ok(0),
        Some("maglev") => Ok(size),
        Some(other) => bail!("--backend-choice: {other:?} is none of random, least-connections, maglev"),
    }
}

/// `KEY[=VALUE]:EFFECT`.
pub(super) fn taint(text: &str) -> anyhow::Result<Taint> {
    let wrong = || anyhow!("--register-with-taints: {text:?} is not KEY[=VALUE]:EFFECT");
    let (left, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    ensure!(matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute"), wrong());
    let (key, value) = left.split_once('=').map_or((left, None), |(key, value)| (key, Some(value.to_owned())));
    ensure!(!key.is_empty(), wrong());
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

pub(super) fn label(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    ensure!(!key.is_empty(), "--node-labels: {text:?} is not KEY=VALUE");
    Ok((key.to_owned(), value.to_owned()))
}

/// Go's notation, one unit: `500ms`, `10s`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}

//! IP addresses and networks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Function, text};
use crate::{cost::Cost, error::Error, value::Value};

const TEST: &[&str] = &["ip -> bool"];

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global("ip", &["string -> ip"], Cost::Walk(0, 1), |args, _| parse_ip(text(args, 0)?).map(Value::Ip)),
    Function::global("isIP", &["string -> bool"], Cost::Walk(0, 1), |args, _| {
        Ok(Value::Bool(parse_ip(text(args, 0)?).is_ok()))
    }),
    Function::global("ip.isCanonical", &["string -> bool"], Cost::Walk(0, 2), |args, _| {
        let written = text(args, 0)?;
        Ok(Value::Bool(parse_ip(written)?.to_string() == written))
    }),
    Function::member("family", &["ip -> int"], Cost::Fixed(1), |args, _| {
        Ok(Value::Int(if ip(args, 0)?.is_ipv4() { 4 } else { 6 }))
    }),
    Function::member("isUnspecified", TEST, Cost::Fixed(1), |args, _| Ok(Value::Bool(ip(args, 0)?.is_unspecified()))),
    Function::member("isLoopback", TEST, Cost::Fixed(1), |args, _| Ok(Value::Bool(ip(args, 0)?.is_loopback()))),
    Function::member("isLinkLocalMulticast", TEST, Cost::Fixed(1), |args, _| {
        Ok(Value::Bool(match ip(args, 0)? {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        }))
    }),
    Function::member("isLinkLocalUnicast", TEST, Cost::Fixed(1), |args, _| {
        Ok(Value::Bool(is_link_local_unicast(ip(args, 0)?)))
    }),
    Function::member("isGlobalUnicast", TEST, Cost::Fixed(1), |args, _| {
        let ip = ip(args, 0)?;
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        Ok(Value::Bool(
            !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local_unicast(ip)),
        ))
    }),
    Function::global("cidr", &["string -> cidr"], Cost::Walk(0, 1), |args, _| {
        parse_cidr(text(args, 0)?).map(Value::Cidr)
    }),
    Function::global("isCIDR", &["string -> bool"], Cost::Walk(0, 1), |args, _| {
        Ok(Value::Bool(parse_cidr(text(args, 0)?).is_ok()))
    }),
    Function::member("ip", &["cidr -> ip"], Cost::Fixed(1), |args, _| Ok(Value::Ip(cidr(args, 0)?.addr()))),
    Function::member("prefixLength", &["cidr -> int"], Cost::Fixed(1), |args, _| {
        Ok(Value::Int(i64::from(cidr(args, 0)?.prefix_len())))
    }),
    Function::member("masked", &["cidr -> cidr"], Cost::Fixed(1), |args, _| Ok(Value::Cidr(cidr(args, 0)?.trunc()))),
    Function::member("containsIP", &["cidr, ip -> bool", "cidr, string -> bool"], Cost::Network, |args, _| {
        let net = cidr(args, 0)?;
        let ip = match args.get(1) {
            Some(Value::String(text)) => parse_ip(text.as_str())?,
            _ => ip(args, 1)?,
        };
        Ok(Value::Bool(net.contains(&ip)))
    }),
    Function::member("containsCIDR", &["cidr, cidr -> bool", "cidr, string -> bool"], Cost::Network, |args, _| {
        let net = cidr(args, 0)?;
        let inner = match args.get(1) {
            Some(Value::String(text)) => parse_cidr(text.as_str())?,
            _ => cidr(args, 1)?,
        };
        Ok(Value::Bool(net.trunc().contains(&inner.trunc())))
    }),
];

fn ip(args: &[Value<'_>], index: usize) -> Result<IpAddr, Error> {
    match args.get(index) {
        Some(Value::Ip(ip)) => Ok(*ip),
        _ => Err(Error::no_overload()),
    }
}

fn cidr(args: &[Value<'_>], index: usize) -> Result<IpNet, Error> {
    match args.get(index) {
        Some(Value::Cidr(net)) => Ok(*net),
        _ => Err(Error::no_overload()),
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// Reads an address; not one with a zone, not IPv4 inside of IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, Error> {
    let ip: IpAddr = text.parse().map_err(|_| {
        Error::new(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        ))
    })?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(Error::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, Error> {
    let invalid = || {
        Error::new(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): no '/'"
        ))
    };
    let (address, bits) = text.split_once('/').ok_or_else(invalid)?;
    let address = parse_ip(address)?;
    // No sign, no leading zero.
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let bad_bits = || {
        Error::new(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): bad bits after slash: {bits:?}"
        ))
    };
    let bits: u8 = bits.parse().ok().filter(|_| plain).ok_or_else(bad_bits)?;
    IpNet::new(address, bits).map_err(|_| bad_bits())
}

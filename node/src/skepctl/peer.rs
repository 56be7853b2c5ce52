//! Naming a client on the command line.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// A pod `NAMESPACE/NAME`, `ADDRESS` or `ADDRESS:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Address { address: IpAddr, port: Option<u16> },
    Pod { namespace: String, name: String },
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address { address, port: None });
        }
        if let Ok(at) = text.parse::<SocketAddr>() {
            return Ok(Self::Address { address: at.ip(), port: Some(at.port()) });
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is neither NAMESPACE/NAME of a pod nor ADDRESS[:PORT]")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_addresses_and_ports_are_told_apart() {
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!("10.0.0.1".parse(), Ok(Peer::Address { address, port: None }));
        assert_eq!("10.0.0.1:80".parse(), Ok(Peer::Address { address, port: Some(80) }));
        assert_eq!("[fd00::1]:80".parse(), Ok(Peer::Address { address: "fd00::1".parse().unwrap(), port: Some(80) }));
        assert_eq!("a/b".parse(), Ok(Peer::Pod { namespace: "a".into(), name: "b".into() }));
        for wrong in ["", "web", "a/", "/a", "a/b/c", "10.0.0.1:99999"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }
}

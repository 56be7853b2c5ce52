//! The choice of the ways to other nodes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::{Error, Result};

/// How packets get to the pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// [`Routing::Direct`] to nodes that are on one Ethernet with this one, [`Routing::Vxlan`] to the others.
    #[default]
    Auto,
    /// A route to each node's pod CIDRs over the node's address, which must be a neighbour.
    Direct,
    /// Inside UDP packets between the nodes (RFC 7348).
    Vxlan,
    /// Somebody else's matter: the network's routers know the pod CIDRs.
    Routes,
}

impl Routing {
    /// Bytes of each packet that are not the pods' where the nodes' own addresses are of the family of `node_ip`.
    pub fn overhead(self, node_ip: Option<IpAddr>) -> u32 {
        match (self, node_ip) {
            (Self::Direct | Self::Routes, _) => 0,
            // Outer Ethernet is not counted, but the inner is: IP 20 or 40, UDP 8, VXLAN 8, Ethernet 14.
            (_, Some(IpAddr::V6(_))) => 70,
            _ => 50,
        }
    }
}

impl FromStr for Routing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "direct" => Ok(Self::Direct),
            "vxlan" => Ok(Self::Vxlan),
            "routes" => Ok(Self::Routes),
            _ => Err(Error::Config(format!("{text:?} is none of auto, direct, vxlan and routes"))),
        }
    }
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
            Self::Routes => "routes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_vxlan_takes_bytes_off_the_mtu() {
        let (v4, v6) = (Some([192, 0, 2, 1].into()), Some("2001:db8::1".parse().unwrap()));
        assert_eq!((Routing::Direct.overhead(v4), Routing::Routes.overhead(v6)), (0, 0));
        assert_eq!((Routing::Auto.overhead(v4), Routing::Vxlan.overhead(v6)), (50, 70));
        for routing in [Routing::Auto, Routing::Direct, Routing::Vxlan, Routing::Routes] {
            assert_eq!(routing.to_string().parse::<Routing>().unwrap(), routing);
        }
        assert!("ipip".parse::<Routing>().is_err());
    }
}

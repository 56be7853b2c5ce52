//! How answers of a backend on another node get to a client outside.

use std::{fmt, str::FromStr};

use skep_ebpf_common::conntrack::Node;

/// The way back. Flows keep the one they began with. Nodes of different modes may serve one cluster: each understands the
/// others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodePortMode {
    /// Through the node that the client asked, which shows the backend its own address.
    #[default]
    Snat,
    /// From the backend's node to the client (direct server return): the backend sees the client's address.
    Dsr,
    /// Direct for TCP, where only the first segment is made longer, and through the first node for UDP.
    Hybrid,
}

impl NodePortMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Snat, Self::Dsr, Self::Hybrid];

    /// Its name, as `--node-port-mode` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snat => "snat",
            Self::Dsr => "dsr",
            Self::Hybrid => "hybrid",
        }
    }

    /// As [`Node::dsr`] has it.
    pub(super) const fn bits(self) -> u16 {
        match self {
            Self::Snat => 0,
            Self::Dsr => Node::DSR_TCP | Node::DSR_UDP,
            Self::Hybrid => Node::DSR_TCP,
        }
    }
}

impl fmt::Display for NodePortMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for NodePortMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|mode| mode.name() == text);
        known.ok_or_else(|| format!("{text:?} is none of snat, dsr and hybrid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_known_by_their_names() {
        for mode in NodePortMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("DSR".parse::<NodePortMode>().unwrap_err().contains("hybrid"));
        assert_eq!(NodePortMode::default().bits(), 0);
        assert_eq!(NodePortMode::Hybrid.bits() | Node::DSR_UDP, NodePortMode::Dsr.bits());
    }
}

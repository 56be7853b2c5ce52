//! The words of the CNI specification.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bandwidth::Bandwidth;

/// Error codes: below 100 the specification's, from there on ours.
pub(crate) mod code {
    pub(crate) const VERSION: u32 = 1;
    pub(crate) const UNKNOWN_CONTAINER: u32 = 3;
    pub(crate) const ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: no ADD can be served.
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    /// The kernel refused.
    pub(crate) const KERNEL: u32 = 100;
    /// CHECK found something missing.
    pub(crate) const BROKEN: u32 = 101;
}

/// An error as the runtime gets it.
#[derive(Debug)]
pub(crate) struct CniError {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    pub(crate) fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.message, "details": self.details })
    }
}

/// A version of the specification that this plugin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Version {
    #[serde(rename = "0.3.0")]
    V0_3_0,
    #[serde(rename = "0.3.1")]
    V0_3_1,
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    pub(crate) const SUPPORTED: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    fn parse(text: &str) -> Option<Self> {
        Self::SUPPORTED.into_iter().find(|version| version.to_string() == text)
    }

    /// The version a call asks for, known or not: errors, too, are told in it.
    pub(crate) fn requested(stdin: &str) -> String {
        let parsed: Option<Value> = serde_json::from_str(stdin).ok();
        parsed
            .and_then(|value| Some(value.get("cniVersion")?.as_str()?.to_owned()))
            .unwrap_or_else(|| "1.0.0".to_owned())
    }

    pub(crate) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// GC and STATUS came with 1.1.0.
    pub(crate) fn has_collection(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Before 1.0.0 every address says its family.
    pub(crate) fn has_address_families(self) -> bool {
        self < Self::V1_0_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        })
    }
}

/// What of a network configuration matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetConf {
    #[serde(default)]
    cni_version: String,
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
    /// As daemons that knew one family wrote it.
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<IpNet>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) mtu: Option<u32>,
    #[serde(default, rename = "nodeIPs")]
    node_ips: Vec<IpAddr>,
    /// As daemons that knew one family wrote it.
    #[serde(rename = "nodeIP")]
    node_ip: Option<IpAddr>,
    #[serde(default)]
    pub(crate) runtime_config: RuntimeConfig,
    /// CHECK: what ADD and the plugins after it made.
    pub(crate) prev_result: Option<PrevResult>,
    /// GC: what is to stay.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(crate) valid_attachments: Option<Vec<Attachment>>,
}

/// Values of the capabilities the configuration names.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RuntimeConfig {
    #[serde(default)]
    pub(crate) bandwidth: Bandwidth,
}

/// What of a result matters here.
#[derive(Debug, Deserialize)]
pub(crate) struct PrevResult {
    #[serde(default)]
    pub(crate) ips: Vec<PrevAddress>,
}

/// An address of a result.
#[derive(Debug, Deserialize)]
pub(crate) struct PrevAddress {
    pub(crate) address: IpNet,
}

/// An interface of a container that is in use.
#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Attachment {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    #[serde(rename = "ifname")]
    pub(crate) interface: String,
}

impl NetConf {
    pub(crate) fn parse(stdin: &str) -> Result<Self, CniError> {
        serde_json::from_str(stdin)
            .map_err(|error| CniError::new(code::DECODE, format!("the network configuration cannot be read: {error}")))
    }

    /// The node's pod CIDRs.
    pub(crate) fn pod_cidrs(&self) -> Vec<IpNet> {
        if self.pod_cidrs.is_empty() { self.pod_cidr.into_iter().collect() } else { self.pod_cidrs.clone() }
    }

    /// The node's addresses.
    pub(crate) fn node_ips(&self) -> Vec<IpAddr> {
        if self.node_ips.is_empty() { self.node_ip.into_iter().collect() } else { self.node_ips.clone() }
    }

    pub(crate) fn version(&self) -> Result<Version, CniError> {
        // The specification: no version means 0.1.0.
        let text = if self.cni_version.is_empty() { "0.1.0" } else { &self.cni_version };
        Version::parse(text).ok_or_else(|| {
            let known = Version::SUPPORTED.map(|version| version.to_string()).join(", ");
            CniError::new(code::VERSION, format!("cniVersion {text} is not supported; supported are {known}"))
        })
    }
}

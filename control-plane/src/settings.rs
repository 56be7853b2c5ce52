//! What the server runs with: options as a person gave them, and settings with every default filled in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use skep_storage::EtcdConfig;

mod ranges;

pub(crate) use ranges::{NodeMasks, Ranges};

/// A part of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Component {
    /// The API server.
    Apiserver,
    /// The scheduler.
    Scheduler,
    /// The controllers.
    Controllers,
}

const ALL: [Component; 3] = [Component::Apiserver, Component::Scheduler, Component::Controllers];

/// The flags of `run`; a configuration file has the same names.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Options {
    /// Directory for everything the server keeps [default: /var/lib/skep for root, else ~/.local/share/skep]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Client URLs of an etcd cluster; without them an etcd is started, with its data in DATA_DIR/etcd
    #[arg(long, value_name = "URL,..", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    etcd_endpoints: Option<Vec<String>>,
    /// Certificate authority of etcd's servers
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE")]
    etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd
    #[arg(long, value_name = "FILE")]
    etcd_keyfile: Option<PathBuf>,
    /// Loopback port of the started etcd [default: a free one]
    #[arg(long, value_name = "PORT")]
    etcd_client_port: Option<u16>,
    /// Address to serve on [default: 0.0.0.0; :: where the Services' primary family is IPv6]
    #[arg(long, value_name = "IP")]
    bind_address: Option<IpAddr>,
    /// Port to serve HTTPS on [default: 6443]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    secure_port: Option<u16>,
    /// Address at which the members of the cluster reach the API server [default: the bind address, or this host's]
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
    /// Addresses of Services: a range, or one of each family, the primary one first [default: 10.96.0.0/12]
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    service_cluster_ip_range: Option<Vec<IpNet>>,
    /// Ports of NodePort Services [default: 30000-32767]
    #[arg(long, value_name = "FIRST-LAST")]
    service_node_port_range: Option<PortRange>,
    /// Addresses of pods, a part of which every node gets: a range, or one of each family [default: 10.244.0.0/16]
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    cluster_cidr: Option<Vec<IpNet>>,
    /// Prefix length of a node's part of the IPv4 range [default: 24]
    #[arg(long, value_name = "BITS")]
    node_cidr_mask_size_ipv4: Option<u8>,
    /// Prefix length of a node's part of the IPv6 range [default: 64]
    #[arg(long, value_name = "BITS")]
    node_cidr_mask_size_ipv6: Option<u8>,
    /// Parts to run in this process [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    components: Option<Vec<Component>>,
    /// Certificate authority of kubelets' serving certificates [default: not verified, as upstream]
    #[arg(long, value_name = "FILE")]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Kubeconfig of the API server, when it is not one of the components here
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Directory of keys and certificates [default: DATA_DIR/pki]
    #[arg(long, value_name = "DIR")]
    pki_dir: Option<PathBuf>,
}

/// A list in YAML is a sequence, or text with commas as on the command line.
fn list<'de, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Sequence(Vec<String>),
    }
    let words = match Option::<Either>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Either::Text(text)) => text.split(',').map(|word| word.trim().to_owned()).collect(),
        Some(Either::Sequence(words)) => words,
    };
    words
        .into_iter()
        .map(|word| {
            let text = serde::de::value::StrDeserializer::<D::Error>::new(&word);
            T::deserialize(text).map_err(|error| D::Error::custom(format!("{word:?}: {error}")))
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// `FIRST-LAST`, or upstream's `FIRST+COUNT`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct PortRange(RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a range of ports: expected FIRST-LAST, such as 30000-32767");
        let port = |word: &str| word.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            (port(first)?, port(last)?)
        } else if let Some((first, count)) = text.split_once('+') {
            let first = port(first)?;
            (first, first.checked_add(port(count)?).ok_or_else(bad)?)
        } else {
            return Err(bad());
        };
        if first > last { Err(bad()) } else { Ok(Self(first..=last)) }
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Everything decided.
#[derive(Debug)]
pub(crate) struct Settings {
    /// This host's name: lower case; empty if it has none.
    pub(crate) hostname: String,
    pub(crate) data_dir: PathBuf,
    /// `None`: start one.
    pub(crate) etcd: Option<EtcdConfig>,
    /// 0: a free one.
    pub(crate) etcd_client_port: u16,
    pub(crate) bind_address: IpAddr,
    pub(crate) secure_port: u16,
    pub(crate) advertise_address: IpAddr,
    pub(crate) service_cluster_ip_range: Ranges,
    pub(crate) service_node_port_range: RangeInclusive<u16>,
    pub(crate) cluster_cidr: Ranges,
    pub(crate) node_cidr_masks: NodeMasks,
    pub(crate) components: Vec<Component>,
    pub(crate) kubelet_certificate_authority: Option<PathBuf>,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) pki_dir: PathBuf,
}

impl Settings {
    pub(crate) fn runs(&self, component: Component) -> bool {
        self.components.contains(&component)
    }

    /// Where a process on this host reaches the API server.
    pub(crate) fn local_url(&self) -> String {
        let address = match self.bind_address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            address => address,
        };
        format!("https://{}", SocketAddr::new(address, self.secure_port))
    }
}

impl Options {
    /// Reads a configuration file's text.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        // A file of comments only is the document `null`.
        let parsed: Option<Self> = serde_yaml_ng::from_str(text)?;
        Ok(parsed.unwrap_or_default())
    }

    /// These options, and `other`'s where there are none.
    pub(crate) fn over(self, other: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(other.data_dir),
            etcd_endpoints: self.etcd_endpoints.or(other.etcd_endpoints),
            etcd_cafile: self.etcd_cafile.or(other.etcd_cafile),
            etcd_certfile: self.etcd_certfile.or(other.etcd_certfile),
            etcd_keyfile: self.etcd_keyfile.or(other.etcd_keyfile),
            etcd_client_port: self.etcd_client_port.or(other.etcd_client_port),
            bind_address: self.bind_address.or(other.bind_address),
            secure_port: self.secure_port.or(other.secure_port),
            advertise_address: self.advertise_address.or(other.advertise_address),
            service_cluster_ip_range: self.service_cluster_ip_range.or(other.service_cluster_ip_range),
            service_node_port_range: self.service_node_port_range.or(other.service_node_port_range),
            cluster_cidr: self.cluster_cidr.or(other.cluster_cidr),
            node_cidr_mask_size_ipv4: self.node_cidr_mask_size_ipv4.or(other.node_cidr_mask_size_ipv4),
            node_cidr_mask_size_ipv6: self.node_cidr_mask_size_ipv6.or(other.node_cidr_mask_size_ipv6),
            components: self.components.or(other.components),
            kubelet_certificate_authority: self.kubelet_certificate_authority.or(other.kubelet_certificate_authority),
            kubeconfig: self.kubeconfig.or(other.kubeconfig),
            pki_dir: self.pki_dir.or(other.pki_dir),
        }
    }

    /// Fills in the defaults and refuses what cannot work.
    pub(crate) fn resolve(self) -> anyhow::Result<Settings> {
        let data_dir = self.data_dir.clone().unwrap_or_else(default_data_dir);
        let components = self.components.clone().unwrap_or_else(|| ALL.to_vec());
        ensure!(!components.is_empty(), "--components names none");
        let apiserver = components.contains(&Component::Apiserver);
        ensure!(
            apiserver || self.kubeconfig.is_some(),
            "--components without apiserver needs --kubeconfig to find one"
        );
        ensure!(
            !apiserver || self.kubeconfig.is_none(),
            "--kubeconfig is for --components without apiserver: with it, the other components need no file"
        );
        let etcd = self.etcd()?;
        let services = Ranges::new("--service-cluster-ip-range", self.service_cluster_ip_range, net(10, 96, 12))?;
        let pods = Ranges::new("--cluster-cidr", self.cluster_cidr, net(10, 244, 16))?;
        ranges::check(&services, &pods)?;
        let node_cidr_masks = NodeMasks::new(self.node_cidr_mask_size_ipv4, self.node_cidr_mask_size_ipv6, &pods)?;
        let primary_is_ipv4 = ranges::is_ipv4(&services.primary);
        // A listener on `::` takes IPv4 as well.
        let any = if primary_is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let bind_address = self.bind_address.unwrap_or(any);
        let secure_port = self.secure_port.unwrap_or(6443);
        ensure!(secure_port != 0, "secure-port must be a port from 1 to 65535");
        let advertise_address = match self.advertise_address {
            Some(address) => address,
            None => host_address(bind_address, primary_is_ipv4)?,
        };
        ensure!(
            !advertise_address.is_unspecified() && !advertise_address.is_loopback(),
            "--advertise-address must be an address at which the members of the cluster reach this host, \
             not {advertise_address}"
        );
        ensure!(
            !apiserver || advertise_address.is_ipv4() == primary_is_ipv4,
            "--advertise-address {advertise_address} must be of the family of --service-cluster-ip-range {}, where the \
             Service `kubernetes` leads to it",
            services.primary
        );
        Ok(Settings {
            hostname: hostname()?,
            pki_dir: self.pki_dir.unwrap_or_else(|| data_dir.join("pki")),
            data_dir,
            etcd,
            etcd_client_port: self.etcd_client_port.unwrap_or(0),
            bind_address,
            secure_port,
            advertise_address,
            service_cluster_ip_range: services,
            service_node_port_range: self.service_node_port_range.map_or(30000..=32767, |range| range.0),
            cluster_cidr: pods,
            node_cidr_masks,
            components,
            kubelet_certificate_authority: self.kubelet_certificate_authority,
            kubeconfig: self.kubeconfig,
        })
    }

    fn etcd(&self) -> anyhow::Result<Option<EtcdConfig>> {
        let Some(endpoints) = &self.etcd_endpoints else {
            for (flag, value) in [
                ("--etcd-cafile", &self.etcd_cafile),
                ("--etcd-certfile", &self.etcd_certfile),
                ("--etcd-keyfile", &self.etcd_keyfile),
            ] {
                ensure!(value.is_none(), "{flag} is of no use without --etcd-endpoints");
            }
            return Ok(None);
        };
        ensure!(
            self.etcd_client_port.is_none(),
            "--etcd-client-port is the port of an etcd started here; --etcd-endpoints names another"
        );
        ensure!(
            !endpoints.is_empty()
                && endpoints.iter().all(|url| url.starts_with("http://") || url.starts_with("https://")),
            "--etcd-endpoints must be URLs, http://HOST:PORT or https://HOST:PORT"
        );
        match (&self.etcd_certfile, &self.etcd_keyfile) {
            (Some(_), None) => bail!("--etcd-certfile needs --etcd-keyfile"),
            (None, Some(_)) => bail!("--etcd-keyfile needs --etcd-certfile"),
            _ => {}
        }
        Ok(Some(EtcdConfig {
            endpoints: endpoints.clone(),
            ca_file: self.etcd_cafile.clone(),
            cert_file: self.etcd_certfile.clone(),
            key_file: self.etcd_keyfile.clone(),
            ..EtcdConfig::default()
        }))
    }
}

fn net(a: u8, b: u8, prefix: u8) -> IpNet {
    // Both callers' lengths are within 32.
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), prefix))
}

/// `/var/lib/skep` for root, else below the home directory.
pub(crate) fn default_data_dir() -> PathBuf {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    match home {
        Some(home) if !nix::unistd::geteuid().is_root() => PathBuf::from(home).join(".local/share/skep"),
        _ => PathBuf::from("/var/lib/skep"),
    }
}

/// The address others reach this host at, as upstream chooses it: the bound one, unless that is none in particular or
/// loopback; then the source address of the default route of the Services' primary family. Nothing is sent to find it out.
fn host_address(bind: IpAddr, ipv4: bool) -> anyhow::Result<IpAddr> {
    if !bind.is_unspecified() && !bind.is_loopback() {
        return Ok(bind);
    }
    // Addresses set aside for documentation: only the routing table is asked about them.
    let (any, far): (SocketAddr, SocketAddr) = if ipv4 {
        ((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into())
    } else {
        ((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into())
    };
    let found = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(far)?;
        socket.local_addr()
    });
    let found = found.context("this host has no default route that tells its address; give --advertise-address")?;
    Ok(found.ip())
}

/// This host's name: lower case; empty if it has none.
fn hostname() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host's name")?;
    Ok(name.to_string_lossy().trim().to_lowercase())
}

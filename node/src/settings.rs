//! What the node runs with: options as a person gave them, and settings with every default filled in.

mod options;
mod words;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use skep_kubelet::Thresholds;
use skep_network::Routing;
use skep_proxy::MapSizes;
use skep_proxy::devices::{Acceleration, NodePortMode};

use self::options::Options;
use self::words::{
    acceleration, addresses, bind_address, direct, duration, is_node_name, label, maglev, one_of_a_family, range,
    ranges, taint, tenth,
};
use crate::host;

/// The command line of a subcommand.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// YAML file with any of these options; the command line wins
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// How to reach the API server.
#[derive(Clone)]
pub(crate) enum Access {
    /// A kubeconfig file.
    Kubeconfig(PathBuf),
    /// A URL, a bearer token and the server's authority.
    Token { server: String, token: String, ca: Option<PathBuf> },
    /// Nothing was said; only `cleanup` can do without.
    None,
}

/// Everything decided.
pub(crate) struct Settings {
    pub(crate) access: Access,
    pub(crate) node_name: String,
    pub(crate) hostname: String,
    /// Empty: the address that leads to the API server.
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) data_dir: PathBuf,
    pub(crate) containerd: String,
    pub(crate) register_node: bool,
    pub(crate) taints: Vec<Taint>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) cloud_provider: Option<String>,
    pub(crate) node_status_update_frequency: Duration,
    pub(crate) cgroup_root: PathBuf,
    pub(crate) bpf_root: PathBuf,
    pub(crate) cni_bin_dir: PathBuf,
    pub(crate) cni_conf_dir: PathBuf,
    /// One, or one of each family with the primary first.
    pub(crate) service_cidrs: Vec<IpNet>,
    pub(crate) node_routing: Routing,
    pub(crate) vxlan_id: u32,
    pub(crate) vxlan_port: u16,
    /// `None`: found by addresses and routes.
    pub(crate) devices: Option<Vec<String>>,
    pub(crate) acceleration: Acceleration,
    pub(crate) masquerade: bool,
    /// Are packets handed to pods directly?
    pub(crate) direct: bool,
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Capacities of the maps of Services.
    pub(crate) maps: MapSizes,
    pub(crate) node_port_mode: NodePortMode,
    /// Size of the Maglev tables; zero: backends are chosen at random.
    pub(crate) maglev: u32,
    pub(crate) least_connections: bool,
    /// Capacities of NetworkPolicy's maps; `None`: it is not enforced.
    pub(crate) network_policy: Option<skep_policy::Sizes>,
    pub(crate) pod_mtu: Option<u32>,
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// Service addresses on which this node answers DNS.
    pub(crate) dns_addresses: Vec<IpAddr>,
    pub(crate) cluster_domain: String,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) metrics_bind_address: Option<SocketAddr>,
    pub(crate) healthz_bind_address: Option<SocketAddr>,
    pub(crate) client_ca_file: Option<PathBuf>,
    pub(crate) pod_logs_dir: PathBuf,
    pub(crate) max_pods: u32,
    pub(crate) eviction_hard: Thresholds,
}

impl Arguments {
    /// Reads the file, if any, and fills in the defaults.
    pub(crate) fn settings(self) -> anyhow::Result<Settings> {
        let from_file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                // A file of comments only is the document `null`.
                let parsed: Option<Options> =
                    serde_yaml_ng::from_str(&text).with_context(|| format!("in {}", path.display()))?;
                parsed.unwrap_or_default()
            }
            None => Options::default(),
        };
        self.options.over(from_file).decide()
    }
}

impl Options {
    /// These options, and `other`'s where there are none.
    fn over(self, other: Self) -> Self {
        macro_rules! first {
            ($($field:ident),* $(,)?) => { Self { $($field: self.$field.or(other.$field)),* } };
        }
        first!(
            kubeconfig,
            server,
            token,
            certificate_authority,
            node_name,
            hostname_override,
            node_ip,
            data_dir,
            containerd,
            register_node,
            register_with_taints,
            node_labels,
            cloud_provider,
            node_status_update_frequency,
            pod_manifest_path,
            cgroup_root,
            bpf_root,
            cni_bin_dir,
            cni_conf_dir,
            service_cluster_ip_range,
            node_routing,
            vxlan_id,
            vxlan_port,
            devices,
            acceleration,
            masquerade,
            host_routing,
            cluster_cidr,
            max_flows,
            max_affinities,
            max_peers,
            service_capacity,
            endpoint_capacity,
            backend_choice,
            maglev_table_size,
            node_port_mode,
            enforce_network_policy,
            max_policy_identities,
            max_policy_rules,
            max_policy_flows,
            pod_mtu,
            cluster_dns,
            serve_dns,
            cluster_domain,
            resolv_conf,
            address,
            port,
            metrics_bind_address,
            healthz_bind_address,
            client_ca_file,
            pod_logs_dir,
            max_pods,
            eviction_hard,
        )
    }

    fn decide(self) -> anyhow::Result<Settings> {
        ensure!(self.pod_manifest_path.is_none(), "--pod-manifest-path: static pods are not supported yet");
        let access = match (self.kubeconfig, self.server, self.token) {
            (Some(path), ..) => Access::Kubeconfig(path),
            (None, Some(server), Some(token)) => Access::Token { server, token, ca: self.certificate_authority },
            _ => Access::None,
        };
        let node_name = match self.node_name.or(self.hostname_override.clone()) {
            Some(name) => name,
            None => host::name()?,
        };
        let node_name = node_name.trim().to_lowercase();
        ensure!(is_node_name(&node_name), "{node_name:?} is not a node name: lower case letters, digits, '-' and '.'");
        let service_cidrs = match self.service_cluster_ip_range {
            Some(list) => ranges("--service-cluster-ip-range", &list)?,
            None => ranges("--service-cluster-ip-range", &["10.96.0.0/12".to_owned()])?,
        };
        let node_ips = addresses("--node-ip", &self.node_ip.unwrap_or_default())?;
        one_of_a_family("--node-ip", &node_ips)?;
        let (cluster_dns, mut dns_addresses) = match self.cluster_dns {
            Some(list) => addresses("--cluster-dns", &list).map(|given| (given.clone(), given))?,
            None => {
                let tenths: Vec<IpAddr> = service_cidrs.iter().filter_map(tenth).collect();
                (tenths.first().copied().into_iter().collect(), tenths)
            }
        };
        // Any other address is somebody else's server.
        let answered = self.serve_dns.unwrap_or(true);
        dns_addresses.retain(|address| answered && service_cidrs.iter().any(|range| range.contains(address)));
        let frequency = self.node_status_update_frequency.as_deref().unwrap_or("10s");
        let data_dir = self.data_dir.unwrap_or_else(|| "/var/lib/skep-node".into());
        let data_dir = std::path::absolute(&data_dir).with_context(|| format!("--data-dir {}", data_dir.display()))?;
        let node_routing = self.node_routing.as_deref().unwrap_or("auto").parse().context("--node-routing")?;
        let (vxlan_id, vxlan_port) = (self.vxlan_id.unwrap_or(4321), self.vxlan_port.unwrap_or(8472));
        ensure!((1..1 << 24).contains(&vxlan_id), "--vxlan-id: {vxlan_id} is not 1 to 16777215");
        ensure!(vxlan_port != 0, "--vxlan-port cannot be 0");
        if let Some(mtu) = self.pod_mtu {
            ensure!((1280..=65535).contains(&mtu), "--pod-mtu: {mtu} is not 1280 to 65535");
        }
        let maps = MapSizes::default();
        let size = |flag: &str, given: Option<u32>, default: u32, most: u32| {
            let size = given.unwrap_or(default);
            ensure!((1024..=most).contains(&size), "--{flag}: {size} is not 1024 to {most}");
            Ok(size)
        };
        let most = MapSizes::MOST;
        let peers = size("max-peers", self.max_peers, maps.tcp_peers, most.tcp_peers)?;
        let maps = MapSizes {
            services: size("service-capacity", self.service_capacity, maps.services, most.services)?,
            backends: size("endpoint-capacity", self.endpoint_capacity, maps.backends, most.backends)?,
            sticky: size("max-affinities", self.max_affinities, maps.sticky, most.sticky)?,
            udp_peers: peers,
            tcp_peers: peers,
            flows: size("max-flows", self.max_flows, maps.flows, most.flows)?,
            ..maps
        };
        let sizes = skep_policy::Sizes::default();
        let sizes = skep_policy::Sizes {
            identities: self.max_policy_identities.unwrap_or(sizes.identities),
            rules: self.max_policy_rules.unwrap_or(sizes.rules),
            flows: self.max_policy_flows.unwrap_or(sizes.flows),
        };
        for (flag, size) in [("identities", sizes.identities), ("rules", sizes.rules), ("flows", sizes.flows)] {
            ensure!((1024..=1 << 24).contains(&size), "--max-policy-{flag}: {size} is not 1024 to 16777216");
        }
        let enforces = self.enforce_network_policy.unwrap_or(true);
        Ok(Settings {
            access,
            hostname: self.hostname_override.unwrap_or_else(|| node_name.clone()),
            node_name,
            node_ips,
            data_dir,
            containerd: self.containerd.unwrap_or_else(|| "/run/containerd/containerd.sock".to_owned()),
            register_node: self.register_node.unwrap_or(true),
            taints: self.register_with_taints.iter().flatten().map(|text| taint(text)).collect::<Result<_, _>>()?,
            labels: self.node_labels.iter().flatten().map(|text| label(text)).collect::<Result<_, _>>()?,
            cloud_provider: self.cloud_provider.filter(|name| !name.is_empty()),
            node_status_update_frequency: duration(frequency).ok_or_else(|| {
                anyhow!("--node-status-update-frequency: {frequency:?} is not a duration such as 10s")
            })?,
            cgroup_root: self.cgroup_root.unwrap_or_else(|| "/".into()),
            bpf_root: self.bpf_root.unwrap_or_else(|| "/sys/fs/bpf/skep".into()),
            cni_bin_dir: self.cni_bin_dir.unwrap_or_else(|| "/opt/cni/bin".into()),
            cni_conf_dir: self.cni_conf_dir.unwrap_or_else(|| "/etc/cni/net.d".into()),
            service_cidrs,
            node_routing,
            vxlan_id,
            vxlan_port,
            devices: self.devices,
            acceleration: acceleration(self.acceleration.as_deref())?,
            masquerade: self.masquerade.unwrap_or(false),
            direct: direct(self.host_routing.as_deref(), enforces)?,
            cluster_cidrs: self
                .cluster_cidr
                .iter()
                .flatten()
                .map(|text| range("--cluster-cidr", text))
                .collect::<Result<_, _>>()?,
            maps,
            node_port_mode: self.node_port_mode.unwrap_or_default(),
            maglev: maglev(self.backend_choice.as_deref(), self.maglev_table_size)?,
            least_connections: self.backend_choice.as_deref() == Some("least-connections"),
            network_policy: enforces.then_some(sizes),
            pod_mtu: self.pod_mtu,
            cluster_dns,
            dns_addresses,
            cluster_domain: self.cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
            resolv_conf: self.resolv_conf.unwrap_or_else(|| "/etc/resolv.conf".into()),
            address: self.address.unwrap_or(IpAddr::from([0, 0, 0, 0])),
            port: self.port.unwrap_or(10250),
            metrics_bind_address: bind_address(self.metrics_bind_address, "127.0.0.1:10249")
                .context("--metrics-bind-address")?,
            healthz_bind_address: bind_address(self.healthz_bind_address, "0.0.0.0:10256")
                .context("--healthz-bind-address")?,
            client_ca_file: self.client_ca_file,
            pod_logs_dir: self.pod_logs_dir.unwrap_or_else(|| "/var/log/pods".into()),
            max_pods: self.max_pods.unwrap_or(110),
            eviction_hard: match self.eviction_hard {
                Some(text) => text.parse().context("--eviction-hard")?,
                None => Thresholds::default(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file: Options = serde_yaml_ng::from_str("node-name: from-file\nport: 1\nnode-ip: [192.0.2.1]").unwrap();
        let options = Options { node_name: Some("From-Flag".into()), ..Default::default() };
        let settings = options.over(file).decide().unwrap();
        assert_eq!((settings.node_name.as_str(), settings.port), ("from-flag", 1));
        assert_eq!(settings.node_ips, [IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(settings.cluster_dns, [IpAddr::from([10, 96, 0, 10])]);
    }

    fn decided(yaml: &str) -> Result<Settings, String> {
        let options: Options = serde_yaml_ng::from_str(&format!("node-name: n\n{yaml}")).unwrap();
        options.decide().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn of_two_service_ranges_both_have_a_dns_address_and_pods_are_told_the_first() {
        let text = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
        let dns = |yaml: &str| decided(yaml).map(|s| (text(&s.cluster_dns), text(&s.dns_addresses))).unwrap();
        let both = |told: &str, answered: &str| (told.to_owned(), answered.to_owned());
        assert_eq!(dns(""), both("10.96.0.10", "10.96.0.10"));
        let dual = "service-cluster-ip-range: 10.96.0.0/12,fd96::/108";
        assert_eq!(dns(dual), both("10.96.0.10", "10.96.0.10 fd96::a"));
        assert_eq!(
            dns("service-cluster-ip-range: [\"fd96::/108\", 10.96.0.0/12]"),
            both("fd96::a", "fd96::a 10.96.0.10")
        );
        assert_eq!(
            dns(&format!("{dual}\ncluster-dns: 192.0.2.53,fd96::53")),
            both("192.0.2.53 fd96::53", "fd96::53"),
            "who is outside the ranges is somebody else's server"
        );
        assert_eq!(dns(&format!("{dual}\nserve-dns: false")), both("10.96.0.10", ""));
        assert_eq!(dns("service-cluster-ip-range: 10.96.0.0/30"), both("", ""));
    }

    #[test]
    fn ranges_and_addresses_come_one_of_a_family() {
        for (yaml, complaint) in [
            ("node-ip: 192.0.2.1,192.0.2.2", "--node-ip: 2 are of one family"),
            ("node-ip: [\"fd00::1\", 192.0.2.2, \"fd00::2\"]", "--node-ip: 2 are of one family"),
            ("service-cluster-ip-range: 10.96.0.0/12,10.112.0.0/12", "--service-cluster-ip-range: 2 are of one family"),
            ("service-cluster-ip-range: []", "--service-cluster-ip-range: no range"),
            ("service-cluster-ip-range: 10.96.0.0", "--service-cluster-ip-range: \"10.96.0.0\" is not a CIDR"),
        ] {
            let error = decided(yaml).err().unwrap();
            assert!(error.contains(complaint), "{yaml}: {error}");
        }
        let settings = decided("node-ip: fd00::1,192.0.2.2\nservice-cluster-ip-range: 10.96.3.4/12").unwrap();
        assert_eq!(settings.node_ips.len(), 2);
        assert_eq!(settings.service_cidrs, ["10.96.0.0/12".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = serde_yaml_ng::from_str::<Options>("node-nam: x").unwrap_err().to_string();
        assert!(error.contains("node-nam"), "{error}");
    }

    #[test]
    fn backends_are_chosen_at_random_or_from_tables_of_known_sizes() {
        let read = |choice, size| maglev(choice, size).map_err(|error| error.to_string());
        assert_eq!(read(None, None), Ok(0));
        assert_eq!(read(Some("random"), Some(251)), Ok(0));
        assert_eq!(read(Some("least-connections"), None), Ok(0));
        assert_eq!([read(Some("maglev"), None), read(Some("maglev"), Some(251))], [Ok(1021), Ok(251)]);
        assert!(read(Some("maglev"), Some(1000)).is_err_and(|error| error.contains("none of [251")));
        assert!(
            read(Some("Maglev"), None).is_err_and(|error| error.contains("none of random, least-connections, maglev"))
        );
    }

    #[test]
    fn packets_go_past_the_host_unless_somebody_else_may_judge_them_there() {
        let read = |how, enforces| direct(how, enforces).map_err(|error| error.to_string());
        assert_eq!([read(None, true), read(None, false)], [Ok(true), Ok(false)]);
        assert_eq!([read(Some("bpf"), false), read(Some("legacy"), true)], [Ok(true), Ok(false)]);
        assert!(read(Some("BPF"), true).is_err_and(|error| error.contains("neither bpf nor legacy")));
    }

    #[test]
    fn capacities_are_read_within_their_bounds() {
        let decide = |text: &str| -> Result<MapSizes, String> {
            let options: Options = serde_yaml_ng::from_str(text).unwrap();
            options.decide().map(|settings| settings.maps).map_err(|error| error.to_string())
        };
        let node = "node-name: a\nnode-ip: [192.0.2.1]\n";
        assert_eq!(decide(node), Ok(MapSizes::default()));
        let text =
            format!("{node}service-capacity: 2048\nendpoint-capacity: 4096\nmax-peers: 8192\nmax-affinities: 1024");
        let wanted = MapSizes {
            services: 2048,
            backends: 4096,
            udp_peers: 8192,
            tcp_peers: 8192,
            sticky: 1024,
            ..MapSizes::default()
        };
        assert_eq!(decide(&text), Ok(wanted));
        let error = decide(&format!("{node}service-capacity: 2000000")).unwrap_err();
        assert_eq!(error, "--service-capacity: 2000000 is not 1024 to 1048576");
    }

    #[test]
    fn taints_and_durations_are_read() {
        let taint = taint("a/b=c:NoSchedule").unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()),
            ("a/b", Some("c"), "NoSchedule")
        );
        assert!(super::taint("a:Never").is_err());
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!([duration("0s"), duration("x"), duration("10")], [None; 3]);
    }
}

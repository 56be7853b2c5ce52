//! The options as a person gives them: flags, or a configuration file with the same names.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use skep_proxy::devices::NodePortMode;

/// The flags of `run`; a configuration file has the same names.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Options {
    /// Kubeconfig with the node's credentials (user system:node:NAME, group system:nodes)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "token"])]
    pub(super) kubeconfig: Option<PathBuf>,
    /// API server, with --token instead of a kubeconfig
    #[arg(long, value_name = "URL", requires = "token")]
    pub(super) server: Option<String>,
    /// Bearer token for --server
    #[arg(long, value_name = "T", env = "SKEP_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// Certificate authority of --server
    #[arg(long, value_name = "FILE")]
    pub(super) certificate_authority: Option<PathBuf>,
    /// Name of the Node object [default: the host name]
    #[arg(long, value_name = "N")]
    pub(super) node_name: Option<String>,
    /// Host name to show [default: the node's name]
    #[arg(long, value_name = "N")]
    pub(super) hostname_override: Option<String>,
    /// The node's address; two, separated by a comma, for dual stack [default: the one that leads to the API server]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub(super) node_ip: Option<Vec<String>>,
    /// Directory for everything the node keeps [default: /var/lib/skep-node]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// containerd's socket [default: /run/containerd/containerd.sock]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) containerd: Option<String>,
    /// Create the Node object [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) register_node: Option<bool>,
    /// Taints of the new Node: KEY[=VALUE]:EFFECT,..
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub(super) register_with_taints: Option<Vec<String>>,
    /// Labels of the Node: KEY=VALUE,..
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub(super) node_labels: Option<Vec<String>>,
    /// `external`: wait for a cloud controller to initialize the node
    #[arg(long, value_name = "NAME")]
    pub(super) cloud_provider: Option<String>,
    /// How often the node's status is computed [default: 10s]
    #[arg(long, value_name = "D")]
    pub(super) node_status_update_frequency: Option<String>,
    /// Directory of static pods (not supported yet)
    #[arg(long, value_name = "DIR")]
    pub(super) pod_manifest_path: Option<PathBuf>,
    /// Cgroup below which pods live and whose processes see Services [default: /]
    #[arg(long, value_name = "DIR")]
    pub(super) cgroup_root: Option<PathBuf>,
    /// Where BPF maps and links are pinned [default: /sys/fs/bpf/skep]
    #[arg(long, value_name = "DIR")]
    pub(super) bpf_root: Option<PathBuf>,
    /// Where containerd looks for CNI plugins [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    pub(super) cni_bin_dir: Option<PathBuf>,
    /// Where containerd looks for CNI configurations [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    pub(super) cni_conf_dir: Option<PathBuf>,
    /// Addresses of Services, which must never leave the node; two ranges, separated by a comma, for dual stack, as
    /// skep-server has them [default: 10.96.0.0/12]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub(super) service_cluster_ip_range: Option<Vec<String>>,
    /// How packets get to the pods of other nodes: auto (direct to those on one Ethernet with this node, vxlan to the
    /// others), direct, vxlan, or routes (the network's routers do it) [default: auto]
    #[arg(long, value_name = "HOW")]
    pub(super) node_routing: Option<String>,
    /// VXLAN network identifier, the same on all nodes [default: 4321]
    #[arg(long, value_name = "N")]
    pub(super) vxlan_id: Option<u32>,
    /// UDP port of the VXLAN, the same on all nodes [default: 8472]
    #[arg(long, value_name = "PORT")]
    pub(super) vxlan_port: Option<u16>,
    /// Devices by which clients outside the cluster reach this node's Services: NAME,.. [default: the Ethernet devices that
    /// have the node's addresses or the default route]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub(super) devices: Option<Vec<String>>,
    /// Forward the packets of connections from outside to pods of other nodes on --devices before the kernel makes anything of
    /// them (XDP): disabled, native (in the driver, which must be able to), or best-effort (behind it where it is not)
    /// [default: disabled]
    #[arg(long, value_name = "HOW")]
    pub(super) acceleration: Option<String>,
    /// Give what pods send out of the cluster the node's address, so that it is answered [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) masquerade: Option<bool>,
    /// How packets get to the pods of this node: bpf (handed to the pod by the kernel programs, past the node's stack and its
    /// packet filters), or legacy (through the node's stack) [default: bpf, legacy with --enforce-network-policy=false]
    #[arg(long, value_name = "HOW")]
    pub(super) host_routing: Option<String>,
    /// Addresses besides those of nodes, pods and Services to which --masquerade shows pods' own: CIDR,..
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub(super) cluster_cidr: Option<Vec<String>>,
    /// Connections from outside that are remembered at once; each takes 328 bytes of the kernel's memory [default: 65536]
    #[arg(long, value_name = "N")]
    pub(super) max_flows: Option<u32>,
    /// Clients of Services with affinity whose backend is remembered; also UDP sockets that are not connected [default: 32768]
    #[arg(long, value_name = "N")]
    pub(super) max_affinities: Option<u32>,
    /// Sockets that are shown a Service's address as their peer's, of TCP and UDP each [default: 32768]
    #[arg(long, value_name = "N")]
    pub(super) max_peers: Option<u32>,
    /// Ports of Services there is room for at first; when they become more, so does the room, up to 1048576 [default: 65536]
    #[arg(long, value_name = "N")]
    pub(super) service_capacity: Option<u32>,
    /// Endpoints of Services there is room for at first, likewise up to 4194304 [default: 262144]
    #[arg(long, value_name = "N")]
    pub(super) endpoint_capacity: Option<u32>,
    /// How answers get from a backend on another node to a client outside: snat (through this node), dsr (from the backend's
    /// node, which sees the client's address), or hybrid (dsr for TCP, snat for UDP) [default: snat]
    #[arg(long, value_name = "HOW")]
    pub(super) node_port_mode: Option<NodePortMode>,
    /// How clients get a backend: random, least-connections (of two random ones the one with fewer open connections from
    /// this node), or, clients outside, maglev, by which a connection that comes to another node gets the same
    /// one there even when others came or went meanwhile [default: random]
    #[arg(long, value_name = "HOW")]
    pub(super) backend_choice: Option<String>,
    /// Places in the table of each Service port that clients outside reach, with --backend-choice maglev; the same on all
    /// nodes, and a hundred times the endpoints to share them evenly: 251, 509, 1021, 2039, 4093, 8191, 16381, 32749 or
    /// 65521 [default: 1021]
    #[arg(long, value_name = "N")]
    pub(super) maglev_table_size: Option<u32>,
    /// Enforce NetworkPolicy; `false` where somebody else does [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) enforce_network_policy: Option<bool>,
    /// Pods' addresses in the whole cluster, and prefixes of ipBlocks, that policies can be enforced with [default: 262144]
    #[arg(long, value_name = "N")]
    pub(super) max_policy_identities: Option<u32>,
    /// Peers and ports that policies can allow to pods of this node [default: 262144]
    #[arg(long, value_name = "N")]
    pub(super) max_policy_rules: Option<u32>,
    /// Connections of isolated pods that are remembered at once [default: 65536]
    #[arg(long, value_name = "N")]
    pub(super) max_policy_flows: Option<u32>,
    /// Largest packet of pods in bytes [default: the node's device's, less 50 (IPv6: 70) where node-routing is vxlan, or auto
    /// and a node is on another network]
    #[arg(long, value_name = "BYTES")]
    pub(super) pod_mtu: Option<u32>,
    /// DNS servers of pods: IP,.. [default: the tenth Service address, of the first range]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub(super) cluster_dns: Option<Vec<String>>,
    /// Answer on those of --cluster-dns that are Service addresses; `false` where pods of the cluster do [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) serve_dns: Option<bool>,
    /// DNS domain of the cluster [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub(super) cluster_domain: Option<String>,
    /// The node's resolver configuration [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    pub(super) resolv_conf: Option<PathBuf>,
    /// Address of the node server [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub(super) address: Option<IpAddr>,
    /// Port of the node server [default: 10250]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,
    /// Where /metrics is served, as kube-proxy does; '' for nowhere [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) metrics_bind_address: Option<String>,
    /// Where the health of the service data plane is told, as kube-proxy does; '' for nowhere [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) healthz_bind_address: Option<String>,
    /// Certificate authority of the node server's clients [default: the API server's, from the kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub(super) client_ca_file: Option<PathBuf>,
    /// Directory of container logs [default: /var/log/pods]
    #[arg(long, value_name = "DIR")]
    pub(super) pod_logs_dir: Option<PathBuf>,
    /// Highest number of pods [default: 110]
    #[arg(long, value_name = "N")]
    pub(super) max_pods: Option<u32>,
    /// When the node is under pressure: SIGNAL<QUANTITY|PERCENT,.. [default: upstream's, such as nodefs.available<10%]
    #[arg(long, value_name = "LIST")]
    pub(super) eviction_hard: Option<String>,
}

/// A list in YAML is a sequence, or text with commas as on the command line.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Sequence(Vec<String>),
    }
    Ok(Option::<Either>::deserialize(deserializer)?.map(|either| match either {
        Either::Text(text) => text.split(',').map(|word| word.trim().to_owned()).collect(),
        Either::Sequence(words) => words,
    }))
}

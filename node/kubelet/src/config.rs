//! What the kubelet is told at its start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

use crate::eviction::Thresholds;

/// Settings of one node's kubelet; defaults are upstream's.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// The machine's host name, shown as the `Hostname` address.
    pub hostname: String,
    /// The node's addresses, the first is the primary one.
    pub node_ips: Vec<IpAddr>,
    /// Pods' volumes, serving certificate and other state.
    pub data_dir: PathBuf,
    /// Container logs, `<namespace>_<name>_<uid>/<container>/<attempt>.log` below.
    pub pod_logs_dir: PathBuf,
    /// Cgroup below which `kubepods` lies, `/` for the root of every hierarchy.
    pub cgroup_root: PathBuf,
    /// Where seccomp profiles of type Localhost are looked up.
    pub seccomp_dir: PathBuf,
    /// Create the Node object if it is missing.
    pub register_node: bool,
    /// Taints of the Node when it is created.
    pub register_with_taints: Vec<Taint>,
    /// Additional labels of the Node.
    pub node_labels: BTreeMap<String, String>,
    /// `external`: the node starts with upstream's uninitialized taint and leaves addresses to the cloud controller.
    pub cloud_provider: Option<String>,
    /// DNS servers for pods of policy ClusterFirst.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The node's own resolver configuration.
    pub resolv_conf: PathBuf,
    /// Where the node server listens.
    pub bind_address: IpAddr,
    /// Port of the node server, also told in `status.daemonEndpoints`.
    pub port: u16,
    /// PEM of the authorities whose client certificates the node server accepts; without it nobody is let in.
    pub client_ca: Option<String>,
    /// Highest number of pods on this node.
    pub max_pods: u32,
    /// When the node counts as being under pressure.
    pub eviction_hard: Thresholds,
    /// How often the node status is computed; sent when changed.
    pub node_status_update_frequency: Duration,
    /// How often it is sent even when unchanged.
    pub node_status_report_frequency: Duration,
}

impl Config {
    /// Upstream's defaults for a node called `name` at `ip`.
    pub fn new(name: impl Into<String>, ip: IpAddr, data_dir: impl Into<PathBuf>) -> Self {
        let (name, data_dir) = (name.into(), data_dir.into());
        Self {
            hostname: name.clone(),
            node_name: name,
            node_ips: vec![ip],
            seccomp_dir: data_dir.join("seccomp"),
            data_dir,
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            cgroup_root: PathBuf::from("/"),
            register_node: true,
            register_with_taints: Vec::new(),
            node_labels: BTreeMap::new(),
            cloud_provider: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            bind_address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            client_ca: None,
            max_pods: 110,
            eviction_hard: Thresholds::default(),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
        }
    }
}

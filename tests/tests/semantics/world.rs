//! A cluster with a Service for each pair of policies, whose slices are written by hand.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use skep_tests::scrape;
use xtask::wait;

use crate::prober::Prober;
use crate::table::{Conditions, Endpoint, Hint, Origin, Policy, State, Target};

/// The addresses of one family.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) family: &'static str,
    /// Of the nodes ([`Shape`]).
    pub(crate) nodes: [&'static str; 2],
    /// Of the client outside.
    client: &'static str,
    /// Of all Services.
    services: &'static str,
    /// What comes before the last part of ClusterIPs, and of addresses of balancers and others.
    prefixes: [&'static str; 2],
}

pub(crate) const IP4: Net = Net {
    family: "IPv4",
    nodes: ["10.111.0.1", "10.111.0.2"],
    client: "10.111.0.100",
    services: "10.112.0.0/16",
    prefixes: ["10.112.0.", "203.0.113."],
};
pub(crate) const IP6: Net = Net {
    family: "IPv6",
    nodes: ["fd00:111::1", "fd00:111::2"],
    client: "fd00:111::64",
    services: "fd00:112::/108",
    prefixes: ["fd00:112::", "2001:db8::"],
};

impl Net {
    fn cluster_ip(&self, service: usize) -> String {
        format!("{}{}", self.prefixes[0], 50 + service)
    }

    /// The client outside has a route to each by way of one node.
    fn balancer(&self, service: usize, node: usize) -> String {
        format!("{}{}", self.prefixes[1], 10 + 2 * service + node)
    }

    fn external(&self, service: usize, node: usize) -> String {
        format!("{}{}", self.prefixes[1], 50 + 2 * service + node)
    }
}

fn at(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Zones of the nodes.
const ZONES: [&str; 2] = ["one", "two"];

/// Pods whose names stand in the table, and those that only ask: with the node (from 1) each is on.
const ENDPOINTS: [(&str, usize); 4] = [("a1", 1), ("a2", 1), ("b1", 2), ("b2", 2)];
const CLIENTS: [(&str, usize); 2] = [("c1", 1), ("c2", 2)];
const HOSTS: [(&str, usize); 2] = [("h1", 1), ("h2", 2)];

const COUNTED: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_total";
const PENDING: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";

/// A Service, and where it is reached.
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) internal: Policy,
    pub(crate) external: Policy,
    number: usize,
    node_port: String,
}

impl Service {
    /// Where an origin at node `node` (from 0) finds it.
    pub(crate) fn address(&self, net: &Net, target: Target, node: usize) -> String {
        match target {
            Target::ClusterIP => at(&net.cluster_ip(self.number), "80"),
            Target::NodePort => at(net.nodes[node], &self.node_port),
            Target::NodePortElsewhere => at(net.nodes[1 - node], &self.node_port),
            Target::LoadBalancer => at(&net.balancer(self.number, node), "80"),
            Target::ExternalIP => at(&net.external(self.number, node), "80"),
        }
    }

    /// The policy that is for connections to `target`.
    pub(crate) fn policy(&self, target: Target) -> Policy {
        if target == Target::ClusterIP { self.internal } else { self.external }
    }
}

pub(crate) struct World {
    pub(crate) net: &'static Net,
    pub(crate) cluster: TestCluster,
    pub(crate) services: Vec<Service>,
    /// The addresses of pods, by name.
    pub(crate) pods: BTreeMap<&'static str, String>,
}

impl World {
    /// Everything runs, and no Service has an endpoint.
    pub(crate) fn start(net: &'static Net) -> Result<Self> {
        let shape = if net.family == IP4.family { Shape::nodes(2) } else { Shape::dual_stack(2) };
        let cluster = TestCluster::start_shape(&shape)?;
        for (node, zone) in cluster.nodes().into_iter().zip(ZONES) {
            cluster.kubectl(&["label", "node", &node.spec().name, &format!("topology.kubernetes.io/zone={zone}")])?;
        }
        let policies = [Policy::Cluster, Policy::Local];
        let pairs = policies.into_iter().flat_map(|internal| policies.map(|external| (internal, external)));
        let mut services: Vec<Service> = (0..)
            .zip(pairs)
            .map(|(number, (internal, external))| Service {
                name: format!("{internal:?}-{external:?}").to_lowercase(),
                internal,
                external,
                number,
                node_port: String::new(),
            })
            .collect();
        let pods = ENDPOINTS.iter().chain(&CLIENTS).map(|(name, node)| pod(&cluster, name, *node, false));
        let hosts = HOSTS.iter().map(|(name, node)| pod(&cluster, name, *node, true));
        cluster.apply(&pods.chain(hosts).chain(services.iter().map(|one| service(net, one))).collect::<String>())?;
        for service in &mut services {
            let ingress: Vec<String> =
                (0..2).map(|node| format!(r#"{{"ip":"{}"}}"#, net.balancer(service.number, node))).collect();
            let status = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{}]}}}}}}"#, ingress.join(","));
            let patch = ["patch", "service", &service.name, "--subresource=status", "--type=merge", "-p", &status];
            cluster.kubectl(&patch)?;
            service.node_port = cluster.get(&["service", &service.name], "{.spec.ports[0].nodePort}")?;
            for (node, via) in net.nodes.iter().enumerate() {
                for address in [net.balancer(service.number, node), net.external(service.number, node)] {
                    cluster.outside()?.ip(&["route", "add", &address, "via", via])?;
                }
            }
        }
        cluster.wait_ready_pods("for=semantics", ENDPOINTS.len() + CLIENTS.len() + HOSTS.len())?;
        let mut pods = BTreeMap::new();
        for (name, _) in ENDPOINTS.iter().chain(&CLIENTS) {
            let addresses = cluster.get(&["pod", name], "{.status.podIPs[*].ip}")?;
            let address = addresses.split(' ').find(|address| address.contains(':') == (net.family == IP6.family));
            pods.insert(*name, address.with_context(|| format!("{name} has {addresses}"))?.to_owned());
        }
        Ok(Self { net, cluster, services, pods })
    }

    /// Lets the client outside send to ClusterIPs by way of node `node` (from 0).
    pub(crate) fn lead_outside(&self, node: usize) -> Result<()> {
        self.cluster.outside()?.ip(&["route", "replace", self.net.services, "via", self.net.nodes[node]]).map(drop)
    }

    /// A prober at an origin on, or by way of, node `node` (from 0).
    pub(crate) fn prober(&self, origin: Origin, node: usize) -> Result<Prober> {
        // Two that have an address in common have no port in common: who answers one would be taken for the other's.
        let port = if origin == Origin::Process { "63200" } else { "61000" };
        let in_pod = |pod: &str| self.cluster.parts().kubectl(&["exec", "-i", pod, "--", "toolbox", "probe", port]);
        Prober::start(match origin {
            Origin::Pod => in_pod(CLIENTS[node].0),
            Origin::Endpoint => in_pod(["a1", "b1"][node]),
            Origin::HostNetwork => in_pod(HOSTS[node].0),
            Origin::Process => self.cluster.toolbox_on(self.cluster.nodes()[node], &["probe", port]),
            Origin::Outside => self.cluster.outside_toolbox(&["probe", port])?,
        })
    }

    /// The address of an origin.
    pub(crate) fn own_address(&self, origin: Origin, node: usize) -> &str {
        let pod = |name: &str| self.pods.get(name).map_or("", String::as_str);
        match origin {
            Origin::Pod => pod(CLIENTS[node].0),
            Origin::Endpoint => pod(["a1", "b1"][node]),
            Origin::HostNetwork | Origin::Process => self.net.nodes[node],
            Origin::Outside => self.net.client,
        }
    }

    /// Gives every Service the endpoints of `state`, and waits until both nodes have written that.
    pub(crate) fn set(&self, state: &State) -> Result<()> {
        let counts =
            |name| self.cluster.nodes().into_iter().map(|node| scrape::value(node, name)).collect::<Result<Vec<_>>>();
        let before = counts(COUNTED)?;
        let slices = self.services.iter().map(|service| self.slice(service, state));
        self.cluster.apply(&slices.collect::<Result<String>>()?)?;
        let changes = self.services.len() as f64;
        wait::until("both nodes know the endpoints", LIMIT, || {
            let seen = counts(COUNTED)?.iter().zip(&before).all(|(now, before)| *now >= before + changes);
            ensure!(seen && counts(PENDING)?.iter().all(|pending| *pending == 0.0), "they do not");
            Ok(())
        })
    }

    fn slice(&self, service: &Service, state: &State) -> Result<String> {
        let endpoints = state.endpoints.iter().map(|endpoint| self.endpoint(endpoint)).collect::<Result<Vec<_>>>()?;
        Ok(format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  labels: {{ kubernetes.io/service-name: {name}, endpointslice.kubernetes.io/managed-by: semantics.skep.test }}
  annotations: {{ state: '{state}' }}
addressType: {family}
ports: [{{ name: tcp, port: 8080, protocol: TCP }}, {{ name: udp, port: 8080, protocol: UDP }}]
endpoints: [{endpoints}]
",
            name = service.name,
            family = self.net.family,
            state = state.name,
            endpoints = endpoints.join(", ")
        ))
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Result<String> {
        let address = self.pods.get(endpoint.pod).context("no such pod")?;
        let node_name = |number: usize| &self.cluster.nodes()[number - 1].spec().name;
        let mut text = format!("{{ addresses: ['{address}'], conditions: {{ {} }}", conditions(endpoint.conditions));
        if endpoint.placed {
            let (_, number) = ENDPOINTS.iter().find(|(name, _)| *name == endpoint.pod).context("no such endpoint")?;
            text += &format!(", nodeName: {}", node_name(*number));
        }
        match endpoint.hint {
            Hint::None => {}
            Hint::Zone(zone) => text += &format!(", hints: {{ forZones: [{{ name: {zone} }}] }}"),
            Hint::NodeAndZone(node, zone) => {
                let node = node_name(node);
                text += &format!(", hints: {{ forNodes: [{{ name: {node} }}], forZones: [{{ name: {zone} }}] }}");
            }
        }
        Ok(text + " }")
    }
}

fn conditions(conditions: Conditions) -> String {
    let named = ["ready", "serving", "terminating"].into_iter().zip(conditions);
    let said = named.filter_map(|(name, value)| Some(format!("{name}: {}", value?)));
    said.collect::<Vec<_>>().join(", ")
}

fn pod(cluster: &TestCluster, name: &str, node: usize, host_network: bool) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ for: semantics }} }}
spec:
  nodeName: {node}
  hostNetwork: {host_network}
  terminationGracePeriodSeconds: 1
  containers:
    - name: tell
      image: localhost/skep/toolbox:1
      command: [toolbox, tell, '8080']
      readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
",
        node = cluster.nodes()[node - 1].spec().name
    )
}

/// Without a selector: nobody else writes its slices.
fn service(net: &Net, service: &Service) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  type: LoadBalancer
  ipFamilies: [{family}]
  clusterIP: '{cluster_ip}'
  externalIPs: ['{first}', '{second}']
  internalTrafficPolicy: {internal:?}
  externalTrafficPolicy: {external:?}
  ports:
    - {{ name: tcp, port: 80, targetPort: 8080, nodePort: {port} }}
    - {{ name: udp, port: 80, targetPort: 8080, nodePort: {port}, protocol: UDP }}
",
        name = service.name,
        family = net.family,
        cluster_ip = net.cluster_ip(service.number),
        first = net.external(service.number, 0),
        second = net.external(service.number, 1),
        internal = service.internal,
        external = service.external,
        port = 30_500 + service.number,
    )
}

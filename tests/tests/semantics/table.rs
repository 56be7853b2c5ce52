//! What upstream says of each case. Nothing in here is read from skep's own code.
//!
//! Pods `a1` and `a2` are on node 1 (zone `one`), `b1` and `b2` on node 2 (zone `two`).

/// The conditions of an endpoint: ready, serving, terminating.
pub(crate) type Conditions = [Option<bool>; 3];

const READY: Conditions = [Some(true), Some(true), Some(false)];
/// Not ready, and not about to end.
const UNREADY: Conditions = [Some(false), Some(false), Some(false)];
/// Terminates, and still answers.
const LEAVING: Conditions = [Some(false), Some(true), Some(true)];
/// Terminates, and answers no more.
const GONE: Conditions = [Some(false), Some(false), Some(true)];
/// Nobody has said anything.
const UNSAID: Conditions = [None, None, None];
/// What `publishNotReadyAddresses` makes of pods that are not ready, and of those that terminate.
const PUBLISHED: Conditions = [Some(true), Some(false), Some(false)];
const PUBLISHED_LEAVING: Conditions = [Some(true), Some(true), Some(true)];

/// For whom an endpoint is meant.
#[derive(Clone, Copy)]
pub(crate) enum Hint {
    None,
    /// For clients in that zone.
    Zone(&'static str),
    /// For clients on that node (from 1), and for those in that zone.
    NodeAndZone(usize, &'static str),
}

/// One endpoint in a slice.
pub(crate) struct Endpoint {
    pub(crate) pod: &'static str,
    pub(crate) conditions: Conditions,
    pub(crate) hint: Hint,
    /// Does the slice say on which node it is?
    pub(crate) placed: bool,
}

const fn at(pod: &'static str, conditions: Conditions) -> Endpoint {
    Endpoint { pod, conditions, hint: Hint::None, placed: true }
}

const fn hinted(pod: &'static str, conditions: Conditions, hint: Hint) -> Endpoint {
    Endpoint { pod, conditions, hint, placed: true }
}

const fn nowhere(pod: &'static str, conditions: Conditions) -> Endpoint {
    Endpoint { pod, conditions, hint: Hint::None, placed: false }
}

/// Endpoints, and what follows for each policy on either node. Sets are names between blanks; empty where nobody is left.
pub(crate) struct State {
    pub(crate) name: &'static str,
    pub(crate) endpoints: &'static [Endpoint],
    /// Who may answer under policy `Cluster`, as node 1 and node 2 see it.
    pub(crate) cluster: [&'static str; 2],
    /// Who may answer under policy `Local`, on node 1 and node 2.
    pub(crate) local: [&'static str; 2],
    pub(crate) source: &'static str,
}

/// "Usable" endpoints, and where they count.
const TOPOLOGY: &str = "pkg/proxy/topology.go, CategorizeEndpoints";
const KEP_1669: &str = "KEP-1669: terminating endpoints serve where no ready one is left, for Cluster and Local apart";
const SLICES: &str = "discovery/v1 EndpointConditions: what unset conditions mean; ready and publishNotReadyAddresses";
const HINTS: &str =
    "topology.go, topologyModeFromHints: every ready endpoint has hints, and one is for here; else none count";
const KEP_3015: &str = "KEP-3015: hints for nodes come before those for zones";

pub(crate) const STATES: &[State] = &[
    State {
        name: "ready on both nodes",
        endpoints: &[at("a1", READY), at("a2", READY), at("b1", READY)],
        cluster: ["a1 a2 b1", "a1 a2 b1"],
        local: ["a1 a2", "b1"],
        source: TOPOLOGY,
    },
    State {
        name: "ready on node 1 alone",
        endpoints: &[at("a1", READY)],
        cluster: ["a1", "a1"],
        local: ["a1", ""],
        source: TOPOLOGY,
    },
    State { name: "no endpoint", endpoints: &[], cluster: ["", ""], local: ["", ""], source: TOPOLOGY },
    State {
        name: "none ready",
        endpoints: &[at("a1", UNREADY), at("b1", UNREADY)],
        cluster: ["", ""],
        local: ["", ""],
        source: TOPOLOGY,
    },
    State {
        name: "all terminating, still serving",
        endpoints: &[at("a1", LEAVING), at("b1", LEAVING)],
        cluster: ["a1 b1", "a1 b1"],
        local: ["a1", "b1"],
        source: KEP_1669,
    },
    State {
        name: "all terminating, none serving",
        endpoints: &[at("a1", GONE), at("b1", GONE)],
        cluster: ["", ""],
        local: ["", ""],
        source: KEP_1669,
    },
    State {
        name: "ready on node 1, terminating on node 2",
        endpoints: &[at("a1", READY), at("b1", LEAVING)],
        cluster: ["a1", "a1"],
        local: ["a1", "b1"],
        source: KEP_1669,
    },
    State {
        name: "ready and terminating on one node",
        endpoints: &[at("a1", READY), at("a2", LEAVING), at("b1", READY)],
        cluster: ["a1 b1", "a1 b1"],
        local: ["a1", "b1"],
        source: KEP_1669,
    },
    State {
        name: "terminating, still serving on node 1 alone",
        endpoints: &[at("a1", LEAVING), at("a2", UNREADY), at("b1", GONE)],
        cluster: ["a1", "a1"],
        local: ["a1", ""],
        source: KEP_1669,
    },
    State {
        name: "conditions unset",
        endpoints: &[at("a1", UNSAID), at("b1", UNREADY)],
        cluster: ["a1", "a1"],
        local: ["a1", ""],
        source: SLICES,
    },
    State {
        name: "published while not ready, and while terminating",
        endpoints: &[at("a1", PUBLISHED), at("b1", PUBLISHED_LEAVING), at("b2", UNREADY)],
        cluster: ["a1 b1", "a1 b1"],
        local: ["a1", "b1"],
        source: SLICES,
    },
    State {
        name: "on a node that nobody knows",
        endpoints: &[nowhere("a1", READY), nowhere("b1", READY)],
        cluster: ["a1 b1", "a1 b1"],
        local: ["", ""],
        source: "pkg/proxy/endpointslicecache.go: local are those whose nodeName is this node's",
    },
    State {
        name: "hints for both zones",
        endpoints: &[hinted("a1", READY, Hint::Zone("one")), hinted("b1", READY, Hint::Zone("two")), at("b2", UNREADY)],
        cluster: ["a1", "b1"],
        local: ["a1", "b1"],
        source: HINTS,
    },
    State {
        name: "hints for zones across, which Local ignores",
        endpoints: &[hinted("a1", READY, Hint::Zone("two")), hinted("b1", READY, Hint::Zone("one"))],
        cluster: ["b1", "a1"],
        local: ["a1", "b1"],
        source: HINTS,
    },
    State {
        name: "a hint is missing",
        endpoints: &[hinted("a1", READY, Hint::Zone("one")), at("b1", READY)],
        cluster: ["a1 b1", "a1 b1"],
        local: ["a1", "b1"],
        source: HINTS,
    },
    State {
        name: "hints for one zone only",
        endpoints: &[hinted("a1", READY, Hint::Zone("one")), hinted("b1", READY, Hint::Zone("one"))],
        cluster: ["a1 b1", "a1 b1"],
        local: ["a1", "b1"],
        source: HINTS,
    },
    State {
        name: "hints for nodes and zones",
        endpoints: &[
            hinted("a1", READY, Hint::NodeAndZone(1, "two")),
            hinted("a2", READY, Hint::NodeAndZone(2, "two")),
            hinted("b1", READY, Hint::NodeAndZone(2, "two")),
        ],
        cluster: ["a1", "a2 b1"],
        local: ["a1 a2", "b1"],
        source: KEP_3015,
    },
    State {
        name: "hints of terminating endpoints",
        endpoints: &[hinted("a1", LEAVING, Hint::Zone("one")), hinted("b1", LEAVING, Hint::Zone("two"))],
        cluster: ["a1 b1", "a1 b1"],
        local: ["a1", "b1"],
        source: "topology.go: terminating endpoints are taken whatever their hints",
    },
];

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// Who asks. Each exists on (or comes by) both nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A pod that is nobody's endpoint.
    Pod,
    /// A pod that is an endpoint itself: `a1` or `b1`.
    Endpoint,
    /// A pod in the node's network.
    HostNetwork,
    /// A process of the node.
    Process,
    /// A client outside, whose packets come by the node.
    Outside,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    ClusterIP,
    /// The node port at the node where the origin is, or by which it comes.
    NodePort,
    /// The node port at the other node.
    NodePortElsewhere,
    LoadBalancer,
    ExternalIP,
}

/// Where nobody may answer although the Service has endpoints elsewhere. (Where it has none at all, it is refused: REJECT.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    Refused,
    Dropped,
}

/// Whose address the backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The client's own.
    Own,
    /// The client's own if the backend is on the node that the connection comes to, else that node's.
    OwnIfHere,
}

/// Which endpoints a connection may get.
pub(crate) struct Way {
    pub(crate) from: &'static [Origin],
    pub(crate) to: &'static [Target],
    /// `internalTrafficPolicy` for a ClusterIP, `externalTrafficPolicy` for everything else.
    pub(crate) under: Policy,
    /// The endpoints are those of this policy.
    pub(crate) uses: Policy,
    pub(crate) without: Without,
    pub(crate) seen: Seen,
    pub(crate) source: &'static str,
    /// Where skep does otherwise on purpose: the row says what skep does, this what upstream's proxy does.
    pub(crate) differs: Option<&'static str>,
}

const INSIDE: &[Origin] = &[Origin::Pod, Origin::Endpoint, Origin::HostNetwork, Origin::Process];
const OUTSIDE: &[Origin] = &[Origin::Outside];
const EXTERNAL: &[Target] = &[Target::LoadBalancer, Target::ExternalIP];

pub(crate) const WAYS: &[Way] = &[
    Way {
        from: INSIDE,
        to: &[Target::ClusterIP],
        under: Policy::Cluster,
        uses: Policy::Cluster,
        without: Without::Refused,
        seen: Seen::Own,
        source: "Virtual IPs and Service Proxies, Internal traffic policy: Cluster uses all ready endpoints",
        differs: None,
    },
    Way {
        from: INSIDE,
        to: &[Target::ClusterIP],
        under: Policy::Local,
        uses: Policy::Local,
        without: Without::Refused,
        seen: Seen::Own,
        source: "KEP-2086: only node-local endpoints; without one it behaves as if there were none",
        differs: Some("upstream's proxy drops where there are endpoints elsewhere (kubernetes#106497)"),
    },
    Way {
        from: INSIDE,
        to: EXTERNAL,
        under: Policy::Cluster,
        uses: Policy::Cluster,
        without: Without::Refused,
        seen: Seen::Own,
        source: "Virtual IPs and Service Proxies, External traffic policy: Cluster uses all ready endpoints",
        differs: Some("upstream's proxy hides the client behind its node"),
    },
    Way {
        from: INSIDE,
        to: EXTERNAL,
        under: Policy::Local,
        uses: Policy::Cluster,
        without: Without::Refused,
        seen: Seen::Own,
        source: "ServiceSpec.externalTrafficPolicy: from within the cluster these addresses always have Cluster semantics",
        differs: None,
    },
    Way {
        from: INSIDE,
        to: &[Target::NodePort],
        under: Policy::Cluster,
        uses: Policy::Cluster,
        without: Without::Refused,
        seen: Seen::Own,
        source: "Virtual IPs and Service Proxies, External traffic policy",
        differs: Some("upstream's proxy hides the client behind its node"),
    },
    Way {
        from: INSIDE,
        to: &[Target::NodePort],
        under: Policy::Local,
        uses: Policy::Cluster,
        without: Without::Refused,
        seen: Seen::Own,
        source: "pkg/proxy/iptables/proxier.go: what pods and the node itself send to the external chain is short-circuited",
        differs: None,
    },
    Way {
        from: INSIDE,
        to: &[Target::NodePortElsewhere],
        under: Policy::Cluster,
        uses: Policy::Cluster,
        without: Without::Refused,
        seen: Seen::OwnIfHere,
        source: "Virtual IPs and Service Proxies, External traffic policy",
        differs: None,
    },
    Way {
        from: INSIDE,
        to: &[Target::NodePortElsewhere],
        under: Policy::Local,
        uses: Policy::Local,
        without: Without::Dropped,
        seen: Seen::Own,
        source: "ServiceSpec.externalTrafficPolicy: clients in the cluster mind the policy when they pick a node for a node port",
        differs: Some("upstream's proxy takes all pods for local if it was told the cluster's range (DetectLocalMode)"),
    },
    Way {
        from: OUTSIDE,
        to: &[Target::NodePort, Target::LoadBalancer, Target::ExternalIP],
        under: Policy::Cluster,
        uses: Policy::Cluster,
        without: Without::Refused,
        seen: Seen::OwnIfHere,
        source: "Virtual IPs and Service Proxies, External traffic policy: Cluster; the source may be lost",
        differs: Some("upstream's proxy hides the client in any case"),
    },
    Way {
        from: OUTSIDE,
        to: &[Target::NodePort, Target::LoadBalancer, Target::ExternalIP],
        under: Policy::Local,
        uses: Policy::Local,
        without: Without::Dropped,
        seen: Seen::Own,
        source: "ServiceSpec.externalTrafficPolicy: node-local endpoints, the client's address is kept, else dropped",
        differs: None,
    },
    Way {
        from: OUTSIDE,
        to: &[Target::ClusterIP],
        under: Policy::Cluster,
        uses: Policy::Cluster,
        without: Without::Refused,
        seen: Seen::OwnIfHere,
        source: "pkg/proxy/iptables/proxier.go: a ClusterIP that is routed to a node is served under the internal policy",
        differs: Some("upstream's proxy hides the client in any case"),
    },
    Way {
        from: OUTSIDE,
        to: &[Target::ClusterIP],
        under: Policy::Local,
        uses: Policy::Local,
        without: Without::Dropped,
        seen: Seen::Own,
        source: "pkg/proxy/iptables/proxier.go: as above; without a local endpoint the packet is dropped",
        differs: Some("upstream's proxy hides the client in any case"),
    },
];

//! One question to the cluster: what is expected of it, and what was met.

use std::collections::BTreeSet;

use crate::table::{Origin, Policy, Seen, State, Target, WAYS, Way, Without};
use crate::world::{Service, World};

pub(crate) const TARGETS: [Target; 5] =
    [Target::ClusterIP, Target::NodePort, Target::NodePortElsewhere, Target::LoadBalancer, Target::ExternalIP];

const SILENCE: &str = "silence";

/// Where it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) origin: Origin,
    /// The node (from 0) it is on or comes by.
    pub(crate) node: usize,
}

/// One combination.
pub(crate) struct Case {
    /// For [`crate::prober::Prober::ask`].
    pub(crate) question: String,
    what: String,
    expected: BTreeSet<String>,
    met: BTreeSet<String>,
    /// Has a connection been lost? (Addresses and ports are few here, so that now and then a client has the same port for two
    /// ways to one backend, which then takes one connection for the other.) It is asked anew, and may not happen again.
    pub(crate) lost: bool,
}

impl Case {
    /// All that the table has for a place, in a state.
    pub(crate) fn all(world: &World, state: &State, place: Place) -> Vec<Self> {
        let mut cases = Vec::new();
        for service in &world.services {
            for target in TARGETS {
                for way in rows(place.origin, target, service.policy(target)) {
                    let new = |protocol| Self::new(world, state, place, service, target, protocol, way);
                    cases.extend(["tcp", "udp"].map(new));
                }
            }
        }
        cases
    }

    fn new(
        world: &World,
        state: &State,
        place: Place,
        service: &Service,
        target: Target,
        protocol: &str,
        way: &Way,
    ) -> Self {
        // The node that chooses: the other one has its own view.
        let node = if target == Target::NodePortElsewhere { 1 - place.node } else { place.node };
        let Place { origin, node: by } = place;
        let differs = way.differs.map(|differs| format!("; differs: {differs}")).unwrap_or_default();
        Self {
            question: format!("{protocol} {}", service.address(world.net, target, place.node)),
            what: format!(
                "{}: {origin:?} at node {} to {target:?} of {} ({protocol}) [{}; {}{differs}]",
                state.name,
                by + 1,
                service.name,
                state.source,
                way.source
            ),
            expected: expected(world, state, place, way, node),
            met: BTreeSet::new(),
            lost: false,
        }
    }

    /// Notes what was met. False if it has to be asked again.
    pub(crate) fn note(&mut self, mut met: BTreeSet<String>) -> bool {
        if !self.lost && !self.expected.contains(SILENCE) && met.remove(SILENCE) {
            self.lost = true;
            self.met.extend(met);
            return false;
        }
        self.met.extend(met);
        self.met == self.expected || !self.met.is_subset(&self.expected)
    }

    /// What is wrong, if anything is.
    pub(crate) fn verdict(&self) -> Option<String> {
        (self.met != self.expected).then(|| format!("{}: {:?} instead of {:?}", self.what, self.met, self.expected))
    }
}

/// The rows for an origin, a target and a policy: one, or none where nobody asks.
pub(crate) fn rows(origin: Origin, target: Target, policy: Policy) -> impl Iterator<Item = &'static Way> {
    WAYS.iter().filter(move |way| way.from.contains(&origin) && way.to.contains(&target) && way.under == policy)
}

/// `<pod>@<address>` of all who may answer, or the one error; as node `node` chooses.
fn expected(world: &World, state: &State, place: Place, way: &Way, node: usize) -> BTreeSet<String> {
    let set = match way.uses {
        Policy::Cluster => state.cluster[node],
        Policy::Local => state.local[node],
    };
    if set.is_empty() {
        let none_at_all = state.cluster.iter().chain(&state.local).all(|set| set.is_empty());
        let refused = none_at_all || way.without == Without::Refused;
        return BTreeSet::from([if refused { "refused" } else { SILENCE }.to_owned()]);
    }
    let own = world.own_address(place.origin, place.node);
    let seen = |pod: &str| match way.seen {
        Seen::Own => own,
        Seen::OwnIfHere if is_on(state, pod, node) => own,
        Seen::OwnIfHere => world.net.nodes[node],
    };
    set.split(' ').map(|pod| format!("{pod}@{}", seen(pod))).collect()
}

/// Does the slice say that the pod is on node `node`?
fn is_on(state: &State, pod: &str, node: usize) -> bool {
    let placed = state.endpoints.iter().any(|endpoint| endpoint.pod == pod && endpoint.placed);
    placed && pod.starts_with(["a", "b"][node])
}

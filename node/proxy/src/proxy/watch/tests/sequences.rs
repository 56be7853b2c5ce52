//! Any sequence of events leaves in the maps what a plain reading of them asks for.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    prelude::*,
    test_runner::{Config as Cases, TestCaseError, TestRunner},
};

use super::*;

const EXTERNAL: &str = "192.0.2.1";

#[derive(Clone, Debug)]
enum Step {
    /// Service `n` with an address of a few, ports 80 or 81 or both, at an external address, too, and with a node port.
    Service(usize, Spec),
    NoService(usize),
    /// The endpoints of Service `n`.
    Slice(usize, BTreeSet<u8>),
    NoSlice(usize),
    /// Pod `n` with a host port: where, and the pod's address.
    Pod(usize, (&'static str, u16), u8),
    NoPod(usize),
    /// A new list of Services that lacks one.
    Relist(usize),
    /// Another daemon.
    Restart,
}

#[derive(Clone, Debug)]
struct Spec {
    vip: u8,
    ports: BTreeSet<u16>,
    external: bool,
    node_port: Option<u16>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ports = proptest::collection::btree_set(80_u16..82, 1..3);
    let spec = (0..3_u8, ports, any::<bool>(), proptest::option::of(30_000_u16..30_002));
    let spec = spec.prop_map(|(vip, ports, external, node_port)| Spec { vip, ports, external, node_port });
    let places = prop_oneof![Just((EXTERNAL, 80)), Just(("", 30_000)), Just(("", 30_001)), Just((EXTERNAL, 30_000))];
    let step = prop_oneof![
        6 => (0..3_usize, spec).prop_map(|(n, spec)| Step::Service(n, spec)),
        3 => (0..3_usize).prop_map(Step::NoService),
        4 => (0..3_usize, proptest::collection::btree_set(1..4_u8, 0..3)).prop_map(|(n, at)| Step::Slice(n, at)),
        1 => (0..3_usize).prop_map(Step::NoSlice),
        4 => (0..3_usize, places, 1..3_u8).prop_map(|(n, place, ip)| Step::Pod(n, place, ip)),
        2 => (0..3_usize).prop_map(Step::NoPod),
        1 => (0..3_usize).prop_map(Step::Relist),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..25)
}

/// What the API has, and who asked for each frontend when.
#[derive(Default)]
struct World {
    services: BTreeMap<usize, Spec>,
    slices: BTreeMap<usize, BTreeSet<u8>>,
    pods: BTreeMap<usize, ((&'static str, u16), u8)>,
    /// In the order of asking; a pod is known by its number and `true`.
    asked: BTreeMap<String, Vec<(bool, usize)>>,
}

impl World {
    /// The frontends of each port of a Service.
    fn of_service(&self, n: usize) -> BTreeMap<u16, Vec<String>> {
        let Some(spec) = self.services.get(&n) else { return BTreeMap::new() };
        let first = *spec.ports.first().unwrap();
        let of = |port: &u16| {
            let mut all = vec![format!("10.97.0.{}:{port}", spec.vip)];
            all.extend(spec.external.then(|| format!("{EXTERNAL}:{port}")));
            all.extend(spec.node_port.filter(|_| *port == first).map(|node_port| format!("0.0.0.0:{node_port}")));
            (*port, all)
        };
        spec.ports.iter().map(of).collect()
    }

    fn of_pod(&self, n: usize) -> Option<String> {
        let ((at, port), _) = self.pods.get(&n)?;
        Some(format!("{}:{port}", if at.is_empty() { "0.0.0.0" } else { at }))
    }

    /// Notes what somebody asks for now.
    fn ask(&mut self, who: (bool, usize)) {
        let now: BTreeSet<String> = match who {
            (false, n) => self.of_service(n).into_values().flatten().collect(),
            (true, n) => self.of_pod(n).into_iter().collect(),
        };
        for (frontend, asked) in &mut self.asked {
            asked.retain(|other| *other != who || now.contains(frontend));
        }
        for frontend in now {
            let asked = self.asked.entry(frontend).or_default();
            if !asked.contains(&who) {
                asked.push(who);
            }
        }
    }

    /// The last Service that asked for it, else the last pod.
    fn winner(&self, frontend: &str) -> Option<(bool, usize)> {
        let asked = self.asked.get(frontend)?;
        asked.iter().rfind(|(is_pod, _)| !is_pod).or(asked.last()).copied()
    }

    /// Two daemons may differ about it.
    fn is_disputed(&self) -> bool {
        self.asked.values().any(|asked| asked.iter().filter(|(is_pod, _)| !is_pod).count() > 1)
    }

    /// As [`Ground::served`].
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for n in self.services.keys() {
            let backends: Vec<String> =
                self.slices.get(n).into_iter().flatten().map(|ip| format!("10.0.0.{ip}")).collect();
            for mut won in self.of_service(*n).into_values() {
                won.retain(|frontend| self.winner(frontend) == Some((false, *n)));
                won.sort();
                if !won.is_empty() {
                    lines.push(format!("s{n} {} {}", won.join(","), backends.join(",")));
                }
            }
        }
        for (n, (_, ip)) in &self.pods {
            if let Some(at) = self.of_pod(*n).filter(|at| self.winner(at) == Some((true, *n))) {
                lines.push(format!("p{n} {at} 10.1.0.{ip}"));
            }
        }
        lines.sort();
        lines
    }
}

fn api_service(n: usize, spec: &Spec) -> Service {
    let ports: Vec<u16> = spec.ports.iter().copied().collect();
    let mut service = service(&format!("s{n}"), &format!("10.97.0.{}", spec.vip), &ports);
    let inside = service.spec.as_mut().unwrap();
    inside.external_ips = spec.external.then(|| vec![EXTERNAL.into()]);
    inside.ports.as_mut().unwrap()[0].node_port = spec.node_port.map(i32::from);
    service
}

fn api_slice(n: usize, addresses: &BTreeSet<u8>) -> EndpointSlice {
    let addresses: Vec<String> = addresses.iter().map(|ip| format!("10.0.0.{ip}")).collect();
    slice(&format!("s{n}"), &addresses.iter().map(String::as_str).collect::<Vec<_>>())
}

fn api_pod(n: usize, ((at, port), ip): ((&str, u16), u8)) -> Pod {
    host_port_pod(&format!("p{n}"), at, port, &format!("10.1.0.{ip}"))
}

async fn tell(ground: &Ground, keeper: &mut Option<Keeper>, world: &mut World, step: Step) {
    let Some(told) = keeper.as_mut() else { return };
    match step {
        Step::Service(n, spec) => {
            told.service_event(Event::Apply(api_service(n, &spec))).await;
            world.services.insert(n, spec);
            world.ask((false, n));
        }
        Step::NoService(n) => {
            told.service_event(Event::Delete(service(&format!("s{n}"), "10.97.0.1", &[]))).await;
            world.services.remove(&n);
            world.ask((false, n));
        }
        Step::Slice(n, addresses) => {
            told.slice_event(Event::Apply(api_slice(n, &addresses))).await;
            world.slices.insert(n, addresses);
        }
        Step::NoSlice(n) => {
            told.slice_event(Event::Delete(api_slice(n, &BTreeSet::new()))).await;
            world.slices.remove(&n);
        }
        Step::Pod(n, place, ip) => {
            told.pod_event(Event::Apply(api_pod(n, (place, ip)))).await;
            world.pods.insert(n, (place, ip));
            world.ask((true, n));
        }
        Step::NoPod(n) => {
            told.pod_event(Event::Delete(api_pod(n, (("", 1), 1)))).await;
            world.pods.remove(&n);
            world.ask((true, n));
        }
        Step::Relist(n) => {
            world.services.remove(&n);
            list_services(told, world.services.iter().map(|(n, spec)| api_service(*n, spec))).await;
            world.ask((false, n));
        }
        Step::Restart if world.is_disputed() => {}
        Step::Restart => {
            // The former one lets go of the maps first.
            drop(keeper.take());
            let told = keeper.insert(ground.keeper());
            list_services(told, world.services.iter().map(|(n, spec)| api_service(*n, spec))).await;
            list_slices(told, world.slices.iter().map(|(n, addresses)| api_slice(*n, addresses))).await;
            list_pods(told, world.pods.iter().map(|(n, pod)| api_pod(*n, *pod))).await;
            world.asked.values_mut().for_each(|asked| asked.sort_unstable());
        }
    }
}

#[test]
fn any_sequence_of_events_leaves_what_the_api_asks_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let ground = Ground::new();
    let keeper = std::cell::RefCell::new(Some(ground.keeper()));
    let cases = Cases { cases: 64, failure_persistence: None, ..Cases::default() };
    let run = |steps: Vec<Step>| {
        let mut keeper = keeper.borrow_mut();
        runtime.block_on(async {
            let mut world = World::default();
            let empty = keeper.as_mut().unwrap();
            list_services(empty, []).await;
            list_slices(empty, []).await;
            list_pods(empty, []).await;
            prop_assert_eq!(ground.served(), Vec::<String>::new());
            let used: Vec<usize> = empty.programmer.fill().map(|fill| fill.used).into();
            prop_assert_eq!(used, [0; 5], "an empty API leaves nothing in the maps");
            for step in steps {
                let last = format!("{step:?}");
                tell(&ground, &mut keeper, &mut world, step).await;
                let mut found = ground.served();
                found.sort();
                prop_assert_eq!(found, world.lines(), "after {}", last);
                prop_assert_eq!(keeper.as_mut().unwrap().programmer.check().unwrap(), 0);
            }
            Ok::<(), TestCaseError>(())
        })
    };
    TestRunner::new(cases).run(&steps(), run).unwrap();
}

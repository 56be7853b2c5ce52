//! The way around is never open to a pod that is isolated: it is closed before, and opened after.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use super::rig::{Rig, addr};
use crate::{
    Bypass, BypassError, Model, Place,
    kernel::{Maps, Paths},
};

/// A way around that looks at the policies' maps whenever it is told something.
#[derive(Clone, Debug)]
struct Way {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeSet<Place>,
    calls: usize,
    fails: bool,
}

impl Way {
    /// As a former daemon left it.
    fn new(root: &Path, open: BTreeSet<Place>) -> Self {
        Self { root: root.to_owned(), state: Arc::new(Mutex::new(State { open, ..State::default() })) }
    }

    fn open(&self) -> BTreeSet<Place> {
        self.state.lock().unwrap().open.clone()
    }

    fn set_fails(&self, fails: bool) {
        self.state.lock().unwrap().fails = fails;
    }

    /// What is in force isolates nobody whom packets reach this way.
    fn verify(&self, open: &BTreeSet<Place>) {
        let maps = Maps::open(&Paths::new(&self.root).maps).unwrap();
        for (index, device) in maps.devices_of(maps.state().unwrap().generation).unwrap() {
            let is_open = open.iter().any(|(place, _)| *place == index);
            assert!(device.flags == 0 || !is_open, "device {index} is isolated, and open");
        }
    }

    fn told(&self, change: impl FnOnce(&mut BTreeSet<Place>)) -> Result<(), BypassError> {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        if state.fails {
            return Err("no room".into());
        }
        self.verify(&state.open);
        change(&mut state.open);
        self.verify(&state.open);
        Ok(())
    }
}

impl Bypass for Way {
    fn close_all_but(&self, places: &BTreeSet<Place>) -> Result<(), BypassError> {
        self.told(|open| open.retain(|place| places.contains(place)))
    }

    fn open(&self, places: Option<&BTreeSet<Place>>) -> Result<(), BypassError> {
        self.told(|open| *open = places.unwrap().clone())
    }
}

const A: &[&str] = &["10.1.0.1", "fd01::1"];
const B: &[&str] = &["10.1.0.2"];

fn cluster(rig: &mut Rig) {
    rig.pod("a", &json!({ "app": "a" }), "n0", A);
    rig.pod("b", &json!({ "app": "b" }), "n0", B);
}

fn selects(app: &str, direction: &str) -> Value {
    json!({ "podSelector": { "matchLabels": { "app": app } }, "policyTypes": [direction] })
}

fn places(rig: &Rig, pods: &[&[&str]]) -> BTreeSet<Place> {
    let index = |text: &str| rig.devices.iter().find(|device| device.addresses.contains(&addr(text))).unwrap().index;
    pods.iter().flat_map(|pod| pod.iter().map(|text| (index(text), addr(text)))).collect()
}

#[test]
fn pods_are_closed_before_they_are_isolated_and_opened_after() {
    let mut rig = Rig::new();
    let way = Way::new(rig.root(), BTreeSet::new());
    rig.programmer.set_bypass(Some(Arc::new(way.clone())));
    cluster(&mut rig);
    let (none, all) = (BTreeSet::new(), places(&rig, &[A, B]));
    assert_eq!(way.open(), all);

    rig.policy("one", &selects("a", "Ingress"));
    assert_eq!(way.open(), places(&rig, &[B]));
    // Of a pod that may not send freely, what comes must be seen to know its answers.
    rig.policy("two", &selects("b", "Egress"));
    assert_eq!(way.open(), none);
    rig.remove_policy("one");
    assert_eq!(way.open(), places(&rig, &[A]));
    rig.remove_policy("two");
    assert_eq!(way.open(), all);

    // What changes nothing says nothing.
    let calls = way.state.lock().unwrap().calls;
    rig.pod("far", &json!({ "app": "a" }), "n1", &["10.2.0.1"]);
    assert_eq!(way.state.lock().unwrap().calls, calls);

    // A device nobody knows is not open, and a pod that goes takes its place with it.
    rig.connect(&["10.1.0.9"]);
    rig.devices.remove(1);
    rig.write();
    assert_eq!(way.open(), places(&rig, &[A]));
}

#[test]
fn a_new_daemon_leaves_it_until_its_own_word_is_in_force() {
    let mut rig = Rig::new();
    cluster(&mut rig);
    rig.policy("one", &selects("a", "Ingress"));
    let way = Way::new(rig.root(), places(&rig, &[B]));

    rig.take_over(Model::new("n0"));
    rig.programmer.set_bypass(Some(Arc::new(way.clone())));
    cluster(&mut rig);
    rig.policy("two", &selects("b", "Ingress"));
    assert_eq!(way.open(), places(&rig, &[B]), "the former daemon's word holds");
    rig.programmer.come_into_force().unwrap();
    assert_eq!(way.open(), places(&rig, &[A]));
}

#[test]
fn a_way_that_does_not_close_is_tried_again_and_policies_are_enforced_meanwhile() {
    let mut rig = Rig::new();
    let way = Way::new(rig.root(), BTreeSet::new());
    rig.programmer.set_bypass(Some(Arc::new(way.clone())));
    cluster(&mut rig);
    way.set_fails(true);
    rig.policy("one", &selects("a", "Ingress"));
    assert!(!rig.programmer.is_settled());
    let maps = Maps::open(&Paths::new(rig.root()).maps).unwrap();
    let devices = maps.devices_of(rig.programmer.state().generation).unwrap();
    assert_eq!(devices.iter().filter(|(_, device)| device.flags != 0).count(), 1);
    way.state.lock().unwrap().open.clear();

    way.set_fails(false);
    rig.programmer.retry().unwrap();
    assert!(rig.programmer.is_settled());
    assert_eq!(way.open(), places(&rig, &[B]));
}

//! Whole clusters: after every change the programs say what the reference says.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    cluster::{Event, change, event, peers, start},
    craft::{SYN, icmp, tcp, udp},
    rig::{Rig, Side},
};
use crate::{Direction, Model, PodDevice, reference, reference::Cluster};

/// Ports at the edges of what policies name; with the protocol's name as the reference has it.
const KINDS: [(&str, u16); 8] =
    [("TCP", 79), ("TCP", 80), ("TCP", 1000), ("TCP", 1001), ("TCP", 8080), ("UDP", 53), ("UDP", 80), ("ICMP", 0)];

fn frame(protocol: &str, from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    let (source, destination) = ((from, 40_000).into(), (to, port).into());
    match protocol {
        "TCP" => tcp(source, destination, SYN),
        "UDP" => udp(source, destination),
        _ => icmp(from, to, if from.is_ipv4() { 8 } else { 128 }, 1),
    }
}

/// The cluster's local pods have the devices of their places.
fn devices(cluster: &Cluster, places: &[PodDevice]) -> Vec<PodDevice> {
    let mut all = Vec::new();
    for pod in cluster.pods.iter().filter(|pod| is_here(pod)) {
        let addresses = reference::addresses(pod);
        let place = places.iter().find(|place| place.addresses == addresses).unwrap();
        all.push(place.clone());
    }
    all
}

fn is_here(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    reference::seen(pod) && pod.spec.as_ref().unwrap().node_name.as_deref() == Some("n0")
}

fn compare(rig: &mut Rig, cluster: &Cluster) -> Result<(), TestCaseError> {
    for pod in cluster.pods.iter().filter(|pod| is_here(pod)) {
        for own in reference::addresses(pod) {
            for peer in peers().into_iter().filter(|peer| peer.is_ipv4() == own.is_ipv4()) {
                for (protocol, port) in KINDS {
                    for (direction, side, from, to) in
                        [(Direction::Ingress, Side::ToPod, peer, own), (Direction::Egress, Side::FromPod, own, peer)]
                    {
                        let expected = cluster.allows(pod, own, direction, peer, protocol, port);
                        let found = rig.passes(side, &own.to_string(), &frame(protocol, from, to, port));
                        prop_assert_eq!(
                            found,
                            expected,
                            "{:?} of {} with {} {} {}, policies {}",
                            direction,
                            own,
                            peer,
                            protocol,
                            port,
                            serde_json::to_string(&cluster.policies).unwrap()
                        );
                    }
                }
            }
        }
    }
    prop_assert_eq!(rig.programmer.check().unwrap(), 0, "entries that are not as they should be");
    Ok(())
}

#[test]
fn programs_agree_with_the_reference_after_every_change() {
    let mut rig = Rig::new();
    for slot in 0..super::cluster::PODS {
        rig.connect(&[&format!("10.1.0.{slot}"), &format!("fd00::{slot}")]);
    }
    let places = std::mem::take(&mut rig.devices);
    let rig = std::cell::RefCell::new(rig);
    let config = ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() };
    let events = prop::collection::vec((event(), prop::bool::weighted(0.3)), 1..40);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let done = runner.run(&events, |events: Vec<(Event, bool)>| {
        let mut rig = rig.borrow_mut();
        let ((mut cluster, model), mut slots) = (start(), Default::default());
        rig.begin(model);
        for (event, look) in events {
            change(&mut cluster, &mut rig.world.model, &mut slots, event);
            if look {
                rig.devices = devices(&cluster, &places);
                rig.write();
                compare(&mut rig, &cluster)?;
            }
        }
        rig.devices = devices(&cluster, &places);
        rig.write();
        compare(&mut rig, &cluster)
    });
    done.unwrap();
    // The last word: an empty cluster leaves an empty kernel, but for "all of IPv4 is nobody's".
    let mut rig = rig.into_inner();
    rig.devices.clear();
    rig.begin(Model::new("n0"));
    assert_eq!(rig.programmer.entries(), (0, 1, 0));
}

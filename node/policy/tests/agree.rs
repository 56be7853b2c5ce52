//! The compiled tables say what the API's text says, whatever the cluster and in whatever order it came to be.

#[path = "common/cluster.rs"]
mod cluster;

use proptest::prelude::*;
use skep_policy::{Direction, Mirror, TCP, UDP, reference, reference::Cluster};

use cluster::{Event, PODS, change, event, peers, start};

/// Every local pod, both directions, every kind of peer, ports at the edges of the ranges.
fn compare(cluster: &Cluster, mirror: &Mirror) -> Result<usize, TestCaseError> {
    let mut asked = 0;
    for pod in &cluster.pods {
        let local = pod.spec.as_ref().unwrap().node_name.as_deref() == Some("n0");
        if !reference::seen(pod) || !local {
            continue;
        }
        for own in reference::addresses(pod) {
            for peer in peers().into_iter().filter(|peer| peer.is_ipv4() == own.is_ipv4()) {
                let ports = [79, 80, 1000, 1001, 8080].map(|port| ("TCP", TCP, port));
                for (name, protocol, port) in
                    ports.into_iter().chain([("UDP", UDP, 53), ("UDP", UDP, 80), ("ICMP", 1, 0)])
                {
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let expected = cluster.allows(pod, own, direction, peer, name, port);
                        let found = mirror.allows(own, direction, peer, protocol, port);
                        asked += 1;
                        prop_assert_eq!(
                            found,
                            expected,
                            "{:?} of {} with {} {} {}, policies {}",
                            direction,
                            own,
                            peer,
                            name,
                            port,
                            serde_json::to_string(&cluster.policies).unwrap()
                        );
                    }
                }
            }
        }
    }
    Ok(asked)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn tables_agree_with_the_reference_after_every_change(events in prop::collection::vec((event(), any::<bool>()), 1..40)) {
        let ((mut cluster, mut model), mut mirror, mut places) = (start(), Mirror::default(), Default::default());
        for (event, look) in events {
            change(&mut cluster, &mut model, &mut places, event);
            if look {
                mirror.apply(&model.changes());
                compare(&cluster, &mirror)?;
            }
        }
        mirror.apply(&model.changes());
        compare(&cluster, &mirror)?;
        prop_assert!(model.changes().is_empty());

        // What is left once everything is gone is nothing: no number, table or prefix leaks.
        for slot in 0..PODS {
            change(&mut cluster, &mut model, &mut places, Event::RemovePod(slot));
            change(&mut cluster, &mut model, &mut places, Event::RemovePolicy(slot));
        }
        ["ns0", "ns1", "ns2"].iter().for_each(|name| model.remove_namespace(name));
        ["n0", "n1"].iter().for_each(|name| model.remove_node(name));
        mirror.apply(&model.changes());
        prop_assert_eq!(&mirror, &Mirror::default());
        prop_assert_eq!(model.identities(), 0);
    }
}

//! `Reader::trace` of a socket says what its `connect` does.

use std::{collections::BTreeSet, collections::HashMap, net::SocketAddr};

use skep_proxy::{
    Backend, Frontend, Kind, Protocol, Service,
    maps::reader::trace::{Client, Outcome, Question},
};

use crate::{
    agent::Request,
    ground::{Network, VIP, backend, port_of},
};

/// With three backends, the chance that one is never chosen is below 1e-15.
const CONNECTS: usize = 100;

const NODE: &str = "10.231.0.1:30080";

fn service(kind: Kind, cluster: &[u8], local: &[u8], internal_local: bool, affinity: Option<u32>) -> Service {
    let at: SocketAddr = if kind == Kind::NodePort { "0.0.0.0:30080".parse().unwrap() } else { VIP.into() };
    let frontend = Frontend { address: at.ip(), port: at.port(), protocol: Protocol::Tcp };
    let backends = |list: &[u8], local| list.iter().map(|n| Backend { address: backend(*n).into(), local }).collect();
    Service {
        frontends: [(frontend, kind)].into(),
        cluster: backends(cluster, false),
        local: if internal_local { backends(local, true) } else { Vec::new() },
        internal_local,
        affinity,
        ..Service::default()
    }
}

#[test]
fn trace_and_connect_agree_under_every_policy() {
    let mut network = Network::new(4);
    let mut proxy = network.ground.load();
    let cookie = network.client.ask(&Request::NetnsCookie).number;
    let node: SocketAddr = NODE.parse().unwrap();
    proxy.programmer().set_node_addresses(&HashMap::from([(node.ip(), 0)])).unwrap();
    let name = port_of(VIP, Protocol::Tcp);
    for kind in [Kind::ClusterIP, Kind::NodePort, Kind::LoadBalancer, Kind::ExternalIP] {
        for (cluster, local) in [(&[][..], &[][..]), (&[0], &[]), (&[0, 1, 2], &[]), (&[0, 1], &[3])] {
            for (internal_local, affinity) in [(false, None), (true, None), (false, Some(3600))] {
                let wanted = service(kind, cluster, local, internal_local, affinity);
                proxy.programmer().apply(&name, &wanted).unwrap();
                let to = if kind == Kind::NodePort { node } else { VIP.into() };
                agree(&mut network, cookie, to, affinity.is_some());
            }
        }
        proxy.programmer().remove(&name).unwrap();
    }
}

fn agree(network: &mut Network, cookie: u64, to: SocketAddr, affinity: bool) {
    let ask = |network: &Network| {
        let client = Client::Socket { netns: cookie };
        network.ground.reader().trace(&Question { client, to, protocol: Protocol::Tcp }).unwrap()
    };
    let trace = ask(network);
    let answer = network.client.ask(&Request::Tcp { to, times: CONNECTS, mapped: false });
    match &trace.outcome {
        Outcome::Refused { .. } => answer.expect_failures("ECONNREFUSED", CONNECTS),
        Outcome::Backends { candidates } => {
            let said: BTreeSet<String> = candidates.iter().map(|candidate| candidate.address.to_string()).collect();
            let did: BTreeSet<String> = answer.expect_no_failure().from.keys().cloned().collect();
            if !affinity {
                assert_eq!(did, said, "{trace:?}");
                return;
            }
            assert!(did.len() == 1 && did.is_subset(&said), "{did:?} {trace:?}");
            // Now that the client is known, there is no choice left.
            let Outcome::Backends { candidates } = ask(network).outcome else { panic!("{trace:?}") };
            assert_eq!(candidates.len(), 1, "{trace:?}");
            assert!(did.contains(&candidates[0].address.to_string()), "{did:?} {candidates:?}");
        }
        other => panic!("{other:?}: {trace:?}"),
    }
}

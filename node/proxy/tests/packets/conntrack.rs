//! What a reader tells of connections and drops is what the programs did.

use skep_ebpf_common::{
    conntrack::{Flow, Reply, Tuple},
    kind,
    packet::Drop,
    service_flags,
};
use skep_proxy::{Protocol, maps::reader::conntrack::FlowRecord};

use crate::{
    craft::{ACK, Craft, FIN, RST, SYN, TCP, UDP, read},
    pinned::Pinned,
    rig::{IP4, IP6, Rig},
};

#[test]
fn a_connection_is_shown_with_its_ends_and_where_it_stands() {
    let mut rig = Rig::new();
    let pinned = Pinned::new(&rig);
    let reader = pinned.reader();
    for net in [IP4, IP6] {
        rig.forget();
        let (service, _) = rig.serve(net.node, TCP, kind::NODE_PORT, &[(net.here, true)]);
        let state = |wanted: &str| {
            let [record] = &reader.flows().unwrap()[..] else { panic!("one connection, two entries") };
            let FlowRecord { client, frontend, backend, source, .. } = record;
            let ends = [client, frontend, backend, source].map(ToString::to_string);
            assert_eq!(ends, [net.client, net.node, net.here, net.client]);
            assert_eq!(
                (record.protocol, record.service.as_deref()),
                (Protocol::Tcp, Some(&*format!("service {service}")))
            );
            assert_eq!((record.state, record.entries, record.over), (wanted, "both", false));
            assert!(record.has_end(net.here.parse().unwrap()) && !record.has_address("9.9.9.9".parse().unwrap()));
            assert!(record.remembered_seconds > 0);
        };
        let ask =
            |rig: &mut Rig, flags| rig.run("from_device", &Craft::new(TCP, net.client, net.node).flags(flags).frame());
        let answer =
            |rig: &mut Rig, flags| rig.run("from_pod", &Craft::new(TCP, net.here, net.client).flags(flags).frame());
        ask(&mut rig, SYN);
        state("opening");
        answer(&mut rig, SYN | ACK);
        state("established");
        ask(&mut rig, FIN | ACK);
        state("closing");
        answer(&mut rig, FIN | ACK);
        state("closed");
        answer(&mut rig, RST);
        state("reset");
    }
}

#[test]
fn a_connection_of_which_one_entry_was_pushed_out_is_shown_all_the_same() {
    let mut rig = Rig::new();
    let pinned = Pinned::new(&rig);
    let reader = pinned.reader();
    rig.serve(IP4.node, UDP, kind::NODE_PORT, &[(IP4.there, false)]);
    let (_, frame) = rig.run("from_device", &Craft::new(UDP, IP4.client, IP4.node).frame());
    let source = read(&frame).from;
    let whole = reader.flows().unwrap();
    assert_eq!((whole.len(), whole[0].source, whole[0].state, whole[0].entries), (1, source, "unanswered", "both"));

    let (reply_key, _) = rig.replies()[0];
    let (key, flow) = rig.flows()[0];
    rig.map::<Tuple, Reply>("REPLIES").remove(&reply_key).unwrap();
    assert_eq!(reader.flows().unwrap()[0], FlowRecord { entries: "flow", ..whole[0].clone() });
    rig.map::<Tuple, Reply>("REPLIES").insert(reply_key, Reply::new(&key, flow.used).sealed(&reply_key), 0).unwrap();
    rig.map::<Tuple, Flow>("FLOWS").remove(&key).unwrap();
    assert_eq!(reader.flows().unwrap()[0], FlowRecord { entries: "reply", service: None, ..whole[0].clone() });
    // Silent for longer than is remembered.
    rig.map::<Tuple, Reply>("REPLIES").insert(reply_key, Reply::new(&key, 0).sealed(&reply_key), 0).unwrap();
    let record = &reader.flows().unwrap()[0];
    assert!(record.over && record.remembered_seconds == 0, "{record:?}");
}

#[test]
fn status_counts_drops_by_reason_and_entries_of_every_map() {
    let mut rig = Rig::new();
    let pinned = Pinned::new(&rig);
    let reader = pinned.reader();
    let (service, _) = rig.serve(IP4.node, TCP, kind::NODE_PORT, &[(IP4.there, false)]);
    rig.run("from_device", &Craft::new(TCP, IP4.client, IP4.node).frame());
    rig.set_backends(service, service_flags::EXTERNAL_LOCAL, &[(IP4.there, false)]);
    for port in [1, 2, 3] {
        rig.run("from_device", &Craft::new(TCP, &format!("192.0.2.77:{port}"), IP4.node).frame());
    }
    let status = reader.status().unwrap();
    let drops: Vec<_> = status.drops.iter().filter(|drop| drop.packets > 0).collect();
    assert_eq!(drops.len(), 1, "{drops:?}");
    assert_eq!((drops[0].reason, drops[0].packets), (Drop::NoLocalEndpoints.name(), 3));
    let entries = |name: &str| status.maps.iter().find(|map| map.name == name).unwrap().entries;
    assert_eq!(["FLOWS", "REPLIES", "FRAGMENTS", "INSIDE", "SERVICES"].map(entries), [1, 1, 0, 0, 1]);
    // Nothing is attached here, which is what the warnings say.
    assert_eq!((status.devices.len(), status.warnings.len()), (0, status.programs.len()));
}

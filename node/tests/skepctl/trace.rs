//! `skepctl service trace`.

use serde_json::Value;

use crate::node::{Node, error, table};

#[test]
fn what_a_socket_would_get_is_said_in_words_and_in_json() {
    let node = Node::new(&table());
    let text = node.run(&["service", "trace", "10.96.0.10:53/udp"]);
    for part in [
        "this process -> 10.96.0.10:53/UDP (socket)",
        "10.96.0.10:53/UDP is the ClusterIP of kube-system/kube-dns:dns",
        "goes to this backend of kube-system/kube-dns:dns",
        "10.128.0.5:5353",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // By name: every port.
    let json: Value =
        serde_json::from_str(&node.run(&["service", "trace", "kube-system/kube-dns", "-o", "json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(json[0]["outcome"]["candidates"][0]["address"], "10.128.0.5:5353");
    // Without a protocol, those that are served.
    let both = node.run(&["service", "trace", "10.96.0.10:53"]);
    assert_eq!(both.matches("goes to this backend").count(), 2, "{both}");
}

#[test]
fn why_nobody_answers_is_said() {
    let node = Node::new(&table());
    let ends = |to: &str| {
        let text = node.run(&["service", "trace", to]);
        text.lines().last().unwrap().to_owned()
    };
    assert_eq!(ends("default/empty"), "refused: default/empty: it has no ready endpoint anywhere (no-endpoints)");
    assert!(ends("10.96.0.10:54/tcp").ends_with("the address is a Service's own, and this port none of it (no-port)"));
    assert_eq!(ends("192.0.2.7:80"), "passes as it is: no Service");
}

#[test]
fn questions_that_make_no_sense_here_are_refused_with_a_reason() {
    let node = Node::new(&table());
    let fails = |arguments: &[&str]| {
        let arguments = [&["service", "trace", "10.96.0.10:53"], arguments].concat();
        error(&node.command(&arguments).output().unwrap())
    };
    assert_eq!(fails(&["--path", "packet"]), "error: whose packet? Give --from");
    assert!(fails(&["--from", "fd00::1"]).contains("of different families"));
    assert!(fails(&["--from", "203.0.113.7", "--path", "socket"]).contains("is not on this node"));
    assert!(fails(&["--from", "127.0.0.1", "--path", "packet"]).contains("served at its sockets only"));
    assert!(fails(&["--from", "default/web-0"]).contains("Give its address, or --kubeconfig FILE"));
    let outside = node.run(&["service", "trace", "10.96.0.10:53/tcp", "--from", "203.0.113.7"]);
    assert!(outside.contains("no program sees packets on this node"), "{outside}");
}

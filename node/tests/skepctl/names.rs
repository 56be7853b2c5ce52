//! Names of backends from an API server.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::PathBuf,
    thread,
};

use serde_json::{Value, json};

use crate::node::{Node, dns, error};

/// An API server that knows one list of EndpointSlices, and the kubeconfig to reach it. It ends with the test's process.
fn api(node: &Node) -> PathBuf {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
            let wanted = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices?\
                          &labelSelector=kubernetes.io%2Fservice-name%3Dkube-dns";
            assert!(request.contains(wanted), "{request}");
            let body = slices().to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
            stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).unwrap();
        }
    });
    kubeconfig(node, &url)
}

fn kubeconfig(node: &Node, url: &str) -> PathBuf {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let path = node.dir.path().join("kubeconfig");
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn slices() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": {"resourceVersion": "1"},
        "items": [{
            "metadata": {"name": "kube-dns-1", "namespace": "kube-system"}, "addressType": "IPv4",
            "endpoints": [{
                "addresses": ["10.128.0.5"], "nodeName": "n2", "zone": "west",
                "conditions": {"ready": false, "serving": true, "terminating": true},
                "targetRef": {"kind": "Pod", "namespace": "kube-system", "name": "dns-x"},
            }],
        }],
    })
}

#[test]
fn backends_have_names_where_a_kubeconfig_is_at_hand() {
    let node = Node::new(&dns());
    let config = api(&node);
    let config = config.to_str().unwrap();
    let text = node.run(&["service", "get", "kube-system/kube-dns:dns", "--kubeconfig", config]);
    let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(last[..5], ["10.128.0.5:5353", "n2", "kube-system/dns-x", "west", "serving"], "{text}");
    let text = node.run(&["service", "get", "kube-system/kube-dns", "--kubeconfig", config, "-o", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    for port in 0..2 {
        let backend = &json[port]["backends"][0];
        assert_eq!((&backend["pod"], &backend["state"]), (&json!("kube-system/dns-x"), &json!("serving")));
        assert_eq!(backend["address"], "10.128.0.5:5353");
    }
    let text = node.run(&["service", "trace", "10.96.0.10:53/udp", "--kubeconfig", config]);
    assert!(text.contains("kube-system/dns-x"), "{text}");
}

#[test]
fn without_an_api_server_the_maps_are_shown_all_the_same_unless_it_was_named() {
    let node = Node::new(&dns());
    let get = ["service", "get", "kube-system/kube-dns:dns"];
    let text = node.run(&get);
    assert!(text.contains("10.128.0.5:5353"), "{text}");
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = kubeconfig(&node, &format!("http://{closed}"));
    let named = [&get[..], &["--kubeconfig", config.to_str().unwrap()]].concat();
    let output = node.command(&named).output().unwrap();
    assert!(error(&output).starts_with("error: listing the EndpointSlices of kube-system/kube-dns"), "{output:?}");
    let output = node.command(&get).env("KUBECONFIG", &config).output().unwrap();
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("10.128.0.5:5353"),
        "{output:?}"
    );
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("warning: no names of pods"), "{output:?}");
}

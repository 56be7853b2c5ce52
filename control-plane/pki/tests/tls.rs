//! Certificates and kubeconfigs in the hands of a real TLS stack.

use std::sync::Arc;

use rustls::{ClientConnection, ServerConnection};
use skep_pki::{
    Authority, CertRequest, CertificateInfo, Identity, Kubeconfig, LEAF_VALIDITY, ReloadableIdentity, client_config,
    server_config, unverified_client_config,
};

fn authority() -> Authority {
    Authority::create("kubernetes", LEAF_VALIDITY).unwrap()
}

/// Shakes hands in memory; returns the client's certificate as the server saw it, or the first error.
fn handshake(
    server: Arc<rustls::ServerConfig>,
    client: rustls::ClientConfig,
    name: &str,
) -> Result<Option<Vec<u8>>, rustls::Error> {
    let mut client = ClientConnection::new(Arc::new(client), name.to_owned().try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(server.peer_certificates().map(|chain| chain[0].to_vec()))
}

fn served(ca: &Authority, sans: &[&str]) -> Arc<ReloadableIdentity> {
    ReloadableIdentity::new(&ca.issue(&CertRequest::server("kube-apiserver", sans.iter().copied())).unwrap()).unwrap()
}

#[test]
fn a_client_with_many_groups_is_known_by_all_of_them() {
    let ca = authority();
    let groups = ["system:masters", "developers", "grüße", "system:nodes"];
    let client = ca.issue(&CertRequest::client("jane", groups)).unwrap();
    let server = Arc::new(server_config(served(&ca, &["localhost"]), Some(ca.certificate())).unwrap());
    let seen = handshake(server, client_config(ca.certificate(), Some(&client)).unwrap(), "localhost").unwrap();
    let info = CertificateInfo::from_der("client", &seen.expect("a client certificate")).unwrap();
    assert_eq!(info.common_name, "jane");
    assert_eq!(info.organizations, groups);
}

#[test]
fn names_long_enough_for_long_lengths_survive() {
    let ca = authority();
    let groups: Vec<String> = (0..400).map(|n| format!("group-{n}-{}", "x".repeat(n % 140))).collect();
    let client = ca.issue(&CertRequest::client("jane", groups.clone())).unwrap();
    assert_eq!(CertificateInfo::from_pem("client", &client.certificate).unwrap().organizations, groups);
}

#[test]
fn a_client_without_a_certificate_is_let_through_and_a_stranger_is_not() {
    let (ca, other) = (authority(), authority());
    let server = Arc::new(server_config(served(&ca, &["localhost"]), Some(ca.certificate())).unwrap());
    let anonymous = client_config(ca.certificate(), None).unwrap();
    assert_eq!(handshake(Arc::clone(&server), anonymous, "localhost").unwrap(), None);
    let stranger = other.issue(&CertRequest::client("jane", ["system:masters"])).unwrap();
    let stranger = client_config(ca.certificate(), Some(&stranger)).unwrap();
    handshake(Arc::clone(&server), stranger, "localhost").expect_err("signed by another authority");
    let server_cert = ca.issue(&CertRequest::server("jane", ["localhost"])).unwrap();
    let misused = client_config(ca.certificate(), Some(&server_cert)).unwrap();
    handshake(server, misused, "localhost").expect_err("a server certificate is no client's");
}

#[test]
fn a_client_refuses_a_name_the_server_certificate_lacks() {
    let ca = authority();
    let server = Arc::new(server_config(served(&ca, &["localhost", "10.0.0.1", "fd00::1"]), None).unwrap());
    for name in ["localhost", "10.0.0.1", "fd00::1"] {
        handshake(Arc::clone(&server), client_config(ca.certificate(), None).unwrap(), name).unwrap();
    }
    handshake(server, client_config(ca.certificate(), None).unwrap(), "10.0.0.2").expect_err("not its name");
}

#[test]
fn an_unverified_server_still_learns_who_calls() {
    let (ca, own) = (authority(), authority());
    let client = ca.issue(&CertRequest::client("kube-apiserver-kubelet-client", ["system:masters"])).unwrap();
    let server = Arc::new(server_config(served(&own, &["node"]), Some(ca.certificate())).unwrap());
    let seen = handshake(server, unverified_client_config(Some(&client)).unwrap(), "10.0.0.7").unwrap().unwrap();
    let info = CertificateInfo::from_der("client", &seen).unwrap();
    assert_eq!(info.common_name, "kube-apiserver-kubelet-client");
}

#[test]
fn a_replaced_identity_is_served_to_new_connections() {
    let ca = authority();
    let identity = served(&ca, &["old.example"]);
    let server = Arc::new(server_config(Arc::clone(&identity), None).unwrap());
    let shake = |name: &str| handshake(Arc::clone(&server), client_config(ca.certificate(), None).unwrap(), name);
    shake("new.example").expect_err("not yet");
    identity.replace(&ca.issue(&CertRequest::server("kube-apiserver", ["new.example"])).unwrap()).unwrap();
    shake("new.example").unwrap();
    let broken = Identity { certificate: "nonsense".to_owned(), key: "nonsense".to_owned() };
    identity.replace(&broken).expect_err("broken");
    shake("new.example").unwrap();
}

#[test]
fn a_kubeconfig_gives_back_what_was_put_in() {
    let ca = authority();
    let identity = ca.issue(&CertRequest::client("system:node:n1", ["system:nodes"])).unwrap();
    let made = Kubeconfig::new("https://127.0.0.1:6443", ca.certificate(), "system:node:n1", &identity);
    let read = Kubeconfig::parse("kubeconfig", &made.to_yaml().unwrap()).unwrap().credentials().unwrap();
    assert_eq!(read.server, "https://127.0.0.1:6443");
    assert_eq!(read.ca.as_deref(), Some(ca.certificate()));
    assert_eq!(read.identity, Some(identity));
    assert_eq!(read.token, None);
}

#[test]
fn a_kubeconfig_may_name_files_relative_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    std::fs::write(dir.path().join("ca.crt"), ca.certificate()).unwrap();
    std::fs::write(dir.path().join("token"), "secret\n").unwrap();
    let file = dir.path().join("config");
    let text = "
apiVersion: v1
kind: Config
preferences: {}
clusters: [{name: c, cluster: {server: 'https://h:1', certificate-authority: ca.crt, tls-server-name: h}}]
users: [{name: u, user: {tokenFile: token}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: n}}]
current-context: x
";
    std::fs::write(&file, text).unwrap();
    let loaded = Kubeconfig::load(&file).unwrap();
    let read = loaded.credentials().unwrap();
    assert_eq!(read.ca.as_deref(), Some(ca.certificate()));
    assert_eq!(read.token.as_deref(), Some("secret"));
    assert_eq!(read.namespace.as_deref(), Some("n"));
    assert!(loaded.to_yaml().unwrap().contains("tls-server-name: h"), "unknown fields are kept");
}

#[test]
fn a_broken_kubeconfig_says_what_is_wrong() {
    for (text, expected) in [
        ("[]", "not a kubeconfig"),
        ("kind: Pod", "kind is \"Pod\""),
        ("kind: Config", "context \"\" is not in it"),
        ("contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x", "cluster \"c\" is not in it"),
        (
            "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n\
             clusters: [{name: c, cluster: {server: s, certificate-authority-data: '%%'}}]\nusers: [{name: u, user: {}}]",
            "certificate-authority-data",
        ),
    ] {
        let error = Kubeconfig::parse("k", text).and_then(|parsed| parsed.credentials()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

//! The PKI directory, on a real file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use skep_pki::{Authority, CA_VALIDITY, CertRequest, CertificateInfo, Pki, list, renew};

fn sans(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn create(dir: &Path) -> Pki {
    Pki::load_or_create(dir, &sans(&["localhost", "127.0.0.1"])).expect("create")
}

fn failure(dir: &Path) -> String {
    Pki::load_or_create(dir, &sans(&["localhost"])).expect_err("must not load").to_string()
}

#[test]
fn loading_again_gives_what_was_created_and_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let first = create(&dir);
    let second = create(&dir);
    assert_eq!(first.ca().certificate(), second.ca().certificate());
    assert_eq!(first.apiserver(), second.apiserver());
    assert_eq!(first.service_account_key(), second.service_account_key());
    let mut names: Vec<String> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        [
            ".lock",
            "apiserver-kubelet-client.crt",
            "apiserver-kubelet-client.key",
            "apiserver.crt",
            "apiserver.key",
            "ca.crt",
            "ca.key",
            "front-proxy-ca.crt",
            "front-proxy-ca.key",
            "front-proxy-client.crt",
            "front-proxy-client.key",
            "sa.key",
            "sa.pub"
        ]
    );
    for name in names.iter().filter(|name| name.ends_with(".key")) {
        let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn servers_started_at_once_agree_on_one_pki() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<Pki> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| create(dir.path()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for pki in &all {
        assert_eq!(pki.ca().certificate(), all[0].ca().certificate());
        assert_eq!(pki.apiserver(), all[0].apiserver());
        assert_eq!(pki.service_account_public_key(), all[0].service_account_public_key());
    }
}

#[test]
fn a_pair_whose_maker_died_after_the_key_is_completed_for_that_key() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    for name in ["ca", "apiserver"] {
        let key = fs::read_to_string(dir.path().join(format!("{name}.key"))).unwrap();
        fs::remove_file(dir.path().join(format!("{name}.crt"))).unwrap();
        create(dir.path());
        assert_eq!(key, fs::read_to_string(dir.path().join(format!("{name}.key"))).unwrap());
    }
}

#[test]
fn a_new_name_has_the_server_certificate_issued_anew_with_the_old_names_kept() {
    let dir = tempfile::tempdir().unwrap();
    let before = create(dir.path());
    let after = Pki::load_or_create(dir.path(), &sans(&["localhost", "10.96.0.1"])).unwrap();
    assert_ne!(before.apiserver().certificate, after.apiserver().certificate);
    assert_eq!(before.apiserver().key, after.apiserver().key);
    let info = CertificateInfo::from_pem("apiserver.crt", &after.apiserver().certificate).unwrap();
    assert_eq!(info.sans, ["localhost", "10.96.0.1", "127.0.0.1"]);
    assert_eq!(info.issuer, "kubernetes");
    assert_eq!(before.apiserver_kubelet_client(), after.apiserver_kubelet_client());
}

#[test]
fn a_certificate_near_its_end_is_issued_anew() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    let ca = Authority::from_pem(
        "ca",
        &fs::read_to_string(dir.path().join("ca.crt")).unwrap(),
        &fs::read_to_string(dir.path().join("ca.key")).unwrap(),
    )
    .unwrap();
    let mut request = CertRequest::server("kube-apiserver", ["localhost", "127.0.0.1"]);
    request.validity = Duration::from_secs(60);
    let short = ca.issue(&request).unwrap();
    fs::write(dir.path().join("apiserver.crt"), &short.certificate).unwrap();
    fs::write(dir.path().join("apiserver.key"), &short.key).unwrap();
    let reloaded = create(dir.path());
    assert_ne!(reloaded.apiserver().certificate, short.certificate);
    assert_eq!(reloaded.apiserver().key, short.key);
}

#[test]
fn renewal_keeps_keys_and_names_and_refuses_authorities() {
    let dir = tempfile::tempdir().unwrap();
    let before = create(dir.path());
    assert_eq!(renew(dir.path(), &[]).unwrap(), ["apiserver", "apiserver-kubelet-client", "front-proxy-client"]);
    let after = create(dir.path());
    assert_ne!(before.apiserver().certificate, after.apiserver().certificate);
    assert_eq!(before.apiserver().key, after.apiserver().key);
    let names = |pki: &Pki| CertificateInfo::from_pem("apiserver.crt", &pki.apiserver().certificate).unwrap().sans;
    assert_eq!(names(&before), names(&after));
    let error = renew(dir.path(), &sans(&["ca"])).unwrap_err().to_string();
    assert!(error.starts_with("ca: not a certificate that can be renewed"), "{error}");
    assert_eq!(list(dir.path()).unwrap().len(), 5);
}

#[test]
fn broken_files_are_named() {
    for (file, contents) in [
        ("ca.crt", "nonsense"),
        ("ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("ca.key", "nonsense"),
        ("apiserver.crt", ""),
        ("apiserver.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("front-proxy-client.crt", "nonsense"),
        ("sa.key", "nonsense"),
        ("sa.pub", "nonsense"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path());
        fs::write(dir.path().join(file), contents).unwrap();
        let error = failure(dir.path());
        assert!(error.contains(&dir.path().join(file).display().to_string()), "{file}: {error}");
    }
}

#[test]
fn files_of_another_pki_are_refused_by_name() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    create(other.path());
    for (files, expected) in [
        (&["apiserver.key"][..], "apiserver.crt does not belong to"),
        (&["apiserver.key", "apiserver.crt"], "apiserver.crt does not belong to the certificate authority beside it"),
        (&["ca.crt"], "ca.crt does not belong to"),
        (&["sa.pub"], "sa.pub does not belong to"),
    ] {
        let _ = fs::remove_dir_all(dir.path());
        create(dir.path());
        for file in files {
            fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
        }
        let error = failure(dir.path());
        assert!(error.contains(expected), "{files:?}: {error}");
    }
}

#[test]
fn a_certificate_without_its_key_is_not_replaced_in_silence() {
    for file in ["ca.key", "apiserver.key", "sa.key"] {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path());
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = failure(dir.path());
        assert!(error.contains(&format!("{file} is missing: put back the key")), "{error}");
    }
}

#[test]
fn an_authority_cuts_what_it_issues_to_its_own_life() {
    let ca = Authority::create("short", Duration::from_secs(3600)).unwrap();
    let mut request = CertRequest::client("someone", ["a"]);
    request.validity = CA_VALIDITY;
    let issued = CertificateInfo::from_pem("issued", &ca.issue(&request).unwrap().certificate).unwrap();
    let own = CertificateInfo::from_pem("ca", ca.certificate()).unwrap();
    assert_eq!(issued.not_after, own.not_after);
    assert!(own.is_ca && !issued.is_ca);
}

#[test]
fn an_rsa_authority_in_kubeadms_key_form_issues_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ca.key"), include_str!("keys/pkcs1.pem")).unwrap();
    fs::write(dir.path().join("sa.key"), include_str!("keys/sec1.pem")).unwrap();
    let first = create(dir.path());
    assert_eq!(first.apiserver(), create(dir.path()).apiserver(), "its signatures verify");
    assert!(first.service_account_key().starts_with("-----BEGIN PRIVATE KEY-----"));
    let jane = first.ca().issue(&CertRequest::client("jane", ["a", "b", "c"])).unwrap();
    let info = CertificateInfo::from_pem("jane", &jane.certificate).unwrap();
    assert_eq!(info.organizations, ["a", "b", "c"]);
    let server = skep_pki::ReloadableIdentity::new(first.apiserver()).unwrap();
    skep_pki::server_config(server, Some(first.ca().certificate())).unwrap();
}

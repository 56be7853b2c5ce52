//! The PKI directory, with the file names of kubeadm: what is missing is made, what is near its end is made anew.
//!
//! Every pair is made key first, and a renewal keeps the key: at any moment, also after a crash, a certificate on disk
//! belongs to the key beside it. One process at a time works on a directory.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData as _};

use crate::files::{self, DirLock};
use crate::{Authority, CA_VALIDITY, CertRequest, CertificateInfo, Error, Identity, Result, certificate, key};

/// An authority's file name (without ending) and common name.
struct CaSpec {
    name: &'static str,
    common_name: &'static str,
}

const CA: CaSpec = CaSpec { name: "ca", common_name: "kubernetes" };
const FRONT_PROXY_CA: CaSpec = CaSpec { name: "front-proxy-ca", common_name: "front-proxy-ca" };

const APISERVER: &str = "apiserver";
const KUBELET_CLIENT: &str = "apiserver-kubelet-client";
const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
/// Every certificate of the directory, authorities first.
const NAMES: [&str; 5] = [CA.name, FRONT_PROXY_CA.name, APISERVER, KUBELET_CLIENT, FRONT_PROXY_CLIENT];

/// The PKI of one control plane, loaded.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    ca: Arc<Authority>,
    front_proxy_ca: Authority,
    apiserver: Identity,
    apiserver_kubelet_client: Identity,
    front_proxy_client: Identity,
    service_account_key: String,
    service_account_public_key: String,
}

impl Pki {
    /// Loads the PKI below `dir` (made if absent, for its owner alone), making what is missing and re-issuing
    /// certificates that are near their end or that lack one of `apiserver_sans`.
    ///
    /// Names a certificate already has are kept: two servers that share a directory would otherwise take turns.
    ///
    /// # Errors
    /// Naming the file that is unreadable, no certificate or key, or does not belong to its neighbour.
    pub fn load_or_create(dir: &Path, apiserver_sans: &[String]) -> Result<Self> {
        files::create_dir(dir)?;
        let _lock = DirLock::acquire(dir)?;
        let ca = authority(dir, &CA)?;
        let front_proxy_ca = authority(dir, &FRONT_PROXY_CA)?;
        let apiserver = leaf(dir, APISERVER, &ca, &CertRequest::server("kube-apiserver", apiserver_sans), false)?;
        let apiserver_kubelet_client = leaf(dir, KUBELET_CLIENT, &ca, &kubelet_client_request(), false)?;
        let front_proxy_client = leaf(dir, FRONT_PROXY_CLIENT, &front_proxy_ca, &front_proxy_request(), false)?;
        let (service_account_key, service_account_public_key) = service_account(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            ca: Arc::new(ca),
            front_proxy_ca,
            apiserver,
            apiserver_kubelet_client,
            front_proxy_client,
            service_account_key,
            service_account_public_key,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cluster's authority: servers and clients (`ca.crt`).
    pub fn ca(&self) -> &Arc<Authority> {
        &self.ca
    }

    /// The authority of aggregation's front proxies (`front-proxy-ca.crt`).
    pub fn front_proxy_ca(&self) -> &Authority {
        &self.front_proxy_ca
    }

    /// What the API server serves with (`apiserver.crt`).
    pub fn apiserver(&self) -> &Identity {
        &self.apiserver
    }

    /// What the API server calls kubelets with (`apiserver-kubelet-client.crt`).
    pub fn apiserver_kubelet_client(&self) -> &Identity {
        &self.apiserver_kubelet_client
    }

    /// What the API server calls aggregated API servers with (`front-proxy-client.crt`).
    pub fn front_proxy_client(&self) -> &Identity {
        &self.front_proxy_client
    }

    /// The key that signs service account tokens (`sa.key`, PKCS#8 PEM, ECDSA P-256 when made here).
    pub fn service_account_key(&self) -> &str {
        &self.service_account_key
    }

    /// The key that verifies service account tokens (`sa.pub`, SubjectPublicKeyInfo PEM).
    pub fn service_account_public_key(&self) -> &str {
        &self.service_account_public_key
    }
}

/// The names an API server answers to: those every cluster has, and this one's addresses.
pub fn apiserver_sans(hostname: &str, domain: &str, addresses: &[IpAddr]) -> Vec<String> {
    let mut sans: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    sans.push(format!("kubernetes.default.svc.{domain}"));
    sans.push("localhost".to_owned());
    if !hostname.is_empty() && !sans.iter().any(|name| name == hostname) {
        sans.push(hostname.to_owned());
    }
    let loopback = ["127.0.0.1", "::1"].map(str::to_owned);
    for address in addresses.iter().map(IpAddr::to_string).chain(loopback) {
        if !sans.contains(&address) {
            sans.push(address);
        }
    }
    sans
}

/// A certificate of a PKI directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name: the file's, without ending.
    pub name: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub info: CertificateInfo,
}

/// The certificates below `dir`, authorities first. Absent ones are left out.
///
/// # Errors
/// Naming the file that cannot be read or is no certificate.
pub fn list(dir: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for name in NAMES {
        let path = certificate_path(dir, name);
        if let Some(pem) = files::read(&path)? {
            let info = CertificateInfo::from_pem(&path.display().to_string(), &pem)?;
            entries.push(Entry { name, path, info });
        }
    }
    Ok(entries)
}

/// Re-issues the certificates called `names` below `dir` (all that authorities issued when empty), each for its key and
/// names of before; returns the names done. A server that runs serves the new one after a restart.
///
/// # Errors
/// When a name is unknown or an authority's, or a file is missing or broken.
pub fn renew(dir: &Path, names: &[String]) -> Result<Vec<&'static str>> {
    let leaves = [APISERVER, KUBELET_CLIENT, FRONT_PROXY_CLIENT];
    if let Some(unknown) = names.iter().find(|name| !leaves.contains(&name.as_str())) {
        let known = leaves.join(", ");
        return Err(Error::invalid(unknown, format!("not a certificate that can be renewed; there are: {known}")));
    }
    let _lock = DirLock::acquire(dir)?;
    let chosen: Vec<_> =
        leaves.into_iter().filter(|leaf| names.is_empty() || names.iter().any(|n| n == leaf)).collect();
    for name in &chosen {
        let path = certificate_path(dir, name);
        let missing = || Error::Missing { path: path.clone(), hint: "`skep-server run` makes it".to_owned() };
        let old = CertificateInfo::from_pem(&path.display().to_string(), &files::read(&path)?.ok_or_else(missing)?)?;
        let (ca, request) = match *name {
            APISERVER => (&CA, CertRequest::server(old.common_name, old.sans)),
            KUBELET_CLIENT => (&CA, kubelet_client_request()),
            _ => (&FRONT_PROXY_CA, front_proxy_request()),
        };
        leaf(dir, name, &authority(dir, ca)?, &request, true)?;
    }
    Ok(chosen)
}

/// `system:masters`, as kubeadm before 1.29: its `kubeadm:cluster-admins` of later needs a binding that kubeadm makes.
fn kubelet_client_request() -> CertRequest {
    CertRequest::client("kube-apiserver-kubelet-client", ["system:masters"])
}

fn front_proxy_request() -> CertRequest {
    CertRequest::client("front-proxy-client", [""; 0])
}

fn certificate_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.crt"))
}

fn key_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key"))
}

fn read_key(path: &Path) -> Result<Option<KeyPair>> {
    files::read(path)?.map(|pem| key::parse(&path.display().to_string(), &pem)).transpose()
}

fn new_key(path: &Path) -> Result<KeyPair> {
    let key = key::generate()?;
    files::write_private(path, &key.serialize_pem())?;
    Ok(key)
}

/// Loads an authority; makes it when neither file is there (or only the key: the maker died in between).
fn authority(dir: &Path, spec: &CaSpec) -> Result<Authority> {
    let (certificate_path, key_path) = (certificate_path(dir, spec.name), key_path(dir, spec.name));
    let name = certificate_path.display().to_string();
    let (pem, key) = match (files::read(&certificate_path)?, read_key(&key_path)?) {
        (Some(pem), Some(key)) => (pem, key),
        (Some(_), None) => {
            let hint = format!("put back the key that {name} was made with");
            return Err(Error::Missing { path: key_path, hint });
        }
        (None, key) => {
            let key = key.map_or_else(|| new_key(&key_path), Ok)?;
            let authority = Authority::create_for_key(spec.common_name, CA_VALIDITY, key)?;
            files::write_public(&certificate_path, authority.certificate())?;
            tracing::info!(file = %name, "created certificate authority");
            return Ok(authority);
        }
    };
    let info = CertificateInfo::from_pem(&name, &pem)?;
    let now = Timestamp::now();
    if info.is_expired(now) {
        return Err(Error::Expired { name, not_after: info.not_after });
    }
    if info.is_near_expiry(now) {
        tracing::warn!(file = %name, not_after = %info.not_after, "certificate authority is near its end: replace it");
    }
    let der = certificate::first(&name, &pem)?.to_vec();
    if !certificate::carries_key(&certificate::parse(&name, &der)?, &key.subject_public_key_info()) {
        return Err(mismatch(&name, &key_path));
    }
    Authority::assemble(&name, pem, der, key)
}

/// Loads a certificate and its key; issues it when absent, near its end, without a requested name, or `force`d.
fn leaf(dir: &Path, name: &str, ca: &Authority, request: &CertRequest, force: bool) -> Result<Identity> {
    let (certificate_path, key_path) = (certificate_path(dir, name), key_path(dir, name));
    let name = certificate_path.display().to_string();
    let pem = files::read(&certificate_path)?;
    let key = read_key(&key_path)?;
    let mut request = request.clone();
    let reason = match (&pem, &key) {
        (Some(pem), Some(key)) => {
            let der = certificate::first(&name, pem)?;
            let parsed = certificate::parse(&name, &der)?;
            if !certificate::carries_key(&parsed, &key.subject_public_key_info()) {
                return Err(mismatch(&name, &key_path));
            }
            if !ca.signed(&parsed) {
                return Err(Error::Mismatch {
                    name,
                    other: "the certificate authority beside it".to_owned(),
                    reason: "another one signed it; remove it and it will be issued anew".to_owned(),
                });
            }
            let info = CertificateInfo::from_der(&name, &der)?;
            let had: BTreeSet<&String> = info.sans.iter().collect();
            let lacks = request.sans.iter().any(|san| !had.contains(san));
            if !force && !lacks && !info.is_near_expiry(Timestamp::now()) {
                return Ok(Identity { certificate: pem.clone(), key: key.serialize_pem() });
            }
            for san in info.sans {
                if !request.sans.contains(&san) {
                    request.sans.push(san);
                }
            }
            if force {
                "renewal was requested"
            } else if lacks {
                "it lacked a name of this server"
            } else {
                "its end was near"
            }
        }
        (Some(_), None) => {
            let hint = format!("put back the key that {name} was made with, or remove that file too");
            return Err(Error::Missing { path: key_path, hint });
        }
        (None, _) => "it was absent",
    };
    let key = key.map_or_else(|| new_key(&key_path), Ok)?;
    let identity = ca.issue_for_key(&request, &key)?;
    files::write_public(&certificate_path, &identity.certificate)?;
    tracing::info!(file = %name, reason, "issued certificate");
    Ok(identity)
}

fn mismatch(name: &str, key_path: &Path) -> Error {
    Error::Mismatch {
        name: name.to_owned(),
        other: key_path.display().to_string(),
        reason: "the certificate was made for another key".to_owned(),
    }
}

/// The service account key pair: private and public PEM.
fn service_account(dir: &Path) -> Result<(String, String)> {
    let (key_path, public_path) = (dir.join("sa.key"), dir.join("sa.pub"));
    let public = files::read(&public_path)?;
    let key = match read_key(&key_path)? {
        Some(key) => key,
        None if public.is_some() => {
            let hint = format!("put back the key of {}, or remove that file too", public_path.display());
            return Err(Error::Missing { path: key_path, hint });
        }
        None => new_key(&key_path)?,
    };
    let expected = key.public_key_pem();
    match public {
        // Upstream allows several keys in the file (rotation): ours must be among them.
        Some(public) if holds_key(&public, &expected) => Ok((key.serialize_pem(), public)),
        Some(_) => Err(Error::Mismatch {
            name: public_path.display().to_string(),
            other: key_path.display().to_string(),
            reason: "it is the public half of another key; remove it and it will be written anew".to_owned(),
        }),
        None => {
            files::write_public(&public_path, &expected)?;
            Ok((key.serialize_pem(), expected))
        }
    }
}

fn holds_key(pem: &str, expected: &str) -> bool {
    let squeeze = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    squeeze(pem).contains(&squeeze(expected))
}

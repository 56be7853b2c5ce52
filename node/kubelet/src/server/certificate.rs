//! The node server's certificate: self-signed at first start, as upstream's default, and kept.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use skep_pki::{Authority, CertRequest, CertificateInfo, Identity, ReloadableIdentity};

use crate::{Config, Error};

/// A year, upstream's validity.
const VALIDITY: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

pub(super) fn tls_config(config: &Config) -> Result<rustls::ServerConfig, Error> {
    let identity = load_or_create(config)?;
    let identity = ReloadableIdentity::new(&identity).map_err(certificate_error)?;
    if config.client_ca.is_none() {
        tracing::warn!("no client CA is known: the node server will let nobody in, and kubectl logs will not work");
    }
    skep_pki::server_config(identity, config.client_ca.as_deref()).map_err(certificate_error)
}

fn certificate_error(error: skep_pki::Error) -> Error {
    Error::Certificate(error.to_string())
}

fn paths(config: &Config) -> (PathBuf, PathBuf) {
    let dir = config.data_dir.join("pki");
    (dir.join("kubelet.crt"), dir.join("kubelet.key"))
}

fn load_or_create(config: &Config) -> Result<Identity, Error> {
    let (certificate_path, key_path) = paths(config);
    let wanted = names(config);
    if let (Ok(certificate), Ok(key)) = (fs::read_to_string(&certificate_path), fs::read_to_string(&key_path))
        && let Ok(info) = CertificateInfo::from_pem("kubelet.crt", &certificate)
        && !info.is_near_expiry(Timestamp::now())
        && wanted.iter().all(|name| info.sans.contains(name))
    {
        return Ok(Identity { certificate, key });
    }
    let dir = config.data_dir.join("pki");
    fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
    let now = Timestamp::now().as_second();
    let authority =
        Authority::create(&format!("{}-ca@{now}", config.node_name), VALIDITY).map_err(certificate_error)?;
    let request = CertRequest::server(format!("{}@{now}", config.node_name), wanted);
    let mut identity = authority.issue(&request).map_err(certificate_error)?;
    identity.certificate.push_str(authority.certificate());
    skep_pki::write_public(&certificate_path, &identity.certificate).map_err(certificate_error)?;
    skep_pki::write_private(&key_path, &identity.key).map_err(certificate_error)?;
    Ok(identity)
}

fn names(config: &Config) -> Vec<String> {
    let mut names = vec![config.hostname.to_lowercase()];
    names.extend(config.node_ips.iter().map(ToString::to_string));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_kept_and_renewed_for_new_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new("node-1", [192, 0, 2, 1].into(), dir.path());
        let first = load_or_create(&config).unwrap();
        assert_eq!(load_or_create(&config).unwrap().certificate, first.certificate);
        config.node_ips.push([192, 0, 2, 2].into());
        assert_ne!(load_or_create(&config).unwrap().certificate, first.certificate);
    }
}

//! Client certificates.

use rustls::ServerConnection;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::UserInfo;

/// What a connection's certificate makes of its client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presented {
    /// The user, if a certificate of the cluster's authority names one.
    pub(crate) user: Option<UserInfo>,
    /// Whether the certificate is of the front proxies' authority.
    pub(crate) is_front_proxy: bool,
    /// The certificate's common name.
    pub(crate) common_name: String,
}

/// What the client's certificate says; nothing without one. The handshake has verified it against one of the authorities;
/// `front_proxy_ca` (PEM) tells which.
pub(crate) fn presented(connection: &ServerConnection, front_proxy_ca: Option<&str>) -> Result<Presented, String> {
    match connection.peer_certificates() {
        Some([certificate, chain @ ..]) => {
            let last = chain.last().unwrap_or(certificate);
            let is_front_proxy = front_proxy_ca.is_some_and(|pem| skep_pki::is_issued_by(last, pem));
            let (name, groups) = subject(certificate)?;
            let user = (!is_front_proxy).then(|| UserInfo::authenticated(name.clone(), groups));
            Ok(Presented { user, is_front_proxy, common_name: name })
        }
        _ => Ok(Presented::default()),
    }
}

fn subject(der: &[u8]) -> Result<(String, Vec<String>), String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .next()
        .and_then(|attribute| attribute.as_str().ok())
        .filter(|name| !name.is_empty())
        .ok_or("the certificate's subject has no common name")?;
    let groups = subject.iter_organization().filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned);
    Ok((name.to_owned(), groups.collect()))
}

//! Who a client is: its certificate says.

use rustls::ServerConnection;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::user::UserInfo;

/// The user a client certificate names: its common name, with its organisations as groups. None without a certificate.
///
/// The handshake has verified the certificate against the client CA.
pub(crate) fn certificate_user(connection: &ServerConnection) -> Result<Option<UserInfo>, String> {
    match connection.peer_certificates() {
        Some([certificate, ..]) => user_of(certificate).map(Some),
        _ => Ok(None),
    }
}

fn user_of(der: &[u8]) -> Result<UserInfo, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .next()
        .and_then(|attribute| attribute.as_str().ok())
        .filter(|name| !name.is_empty())
        .ok_or("the certificate's subject has no common name")?;
    let groups = subject.iter_organization().filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned);
    Ok(UserInfo::authenticated(name, groups))
}

//! What a certificate says.

use std::net::IpAddr;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{Error, Result, tls};

/// The parts of an X.509 certificate that this project reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Subject CN; the user name of a client certificate. Empty when absent.
    pub common_name: String,
    /// Subject O, in order; the groups of a client certificate.
    pub organizations: Vec<String>,
    /// Subject alternative names: DNS names and IP addresses in text form, in order.
    pub sans: Vec<String>,
    /// Issuer CN. Empty when absent.
    pub issuer: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Whether the certificate may sign others.
    pub is_ca: bool,
}

impl CertificateInfo {
    /// Reads the first certificate of a PEM text. `name` is what errors call it (a file name).
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none or it does not parse.
    pub fn from_pem(name: &str, pem: &str) -> Result<Self> {
        Self::from_der(name, first(name, pem)?.as_ref())
    }

    /// Reads a DER certificate. `name` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it does not parse.
    pub fn from_der(name: &str, der: &[u8]) -> Result<Self> {
        let certificate = parse(name, der)?;
        let text = |value: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            value.and_then(|value| value.as_str().ok()).unwrap_or_default().to_owned()
        };
        let sans = certificate
            .subject_alternative_name()
            .map_err(|error| Error::invalid(name, format!("bad subject alternative name: {error}")))?
            .map(|extension| extension.value.general_names.iter().filter_map(san_text).collect())
            .unwrap_or_default();
        Ok(Self {
            common_name: text(certificate.subject().iter_common_name().next()),
            organizations: certificate
                .subject()
                .iter_organization()
                .filter_map(|value| value.as_str().ok().map(str::to_owned))
                .collect(),
            sans,
            issuer: text(certificate.issuer().iter_common_name().next()),
            not_before: timestamp(certificate.validity().not_before.timestamp()),
            not_after: timestamp(certificate.validity().not_after.timestamp()),
            is_ca: certificate.is_ca(),
        })
    }

    /// Whether the certificate's time is up at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.not_after
    }

    /// Whether less than a fifth of its life is left at `now`: time for the next one.
    pub fn is_near_expiry(&self, now: Timestamp) -> bool {
        let life = self.not_after.as_second() - self.not_before.as_second();
        self.not_after.as_second() - now.as_second() < life / 5
    }
}

/// Whether one of the authorities of a PEM text signed a DER certificate. Times are not looked at.
pub fn is_issued_by(der: &[u8], authorities: &str) -> bool {
    let Ok(certificate) = parse("certificate", der) else { return false };
    tls::certificates_from_pem("certificate authority", authorities).is_ok_and(|all| {
        all.iter().any(|authority| {
            parse("certificate authority", authority).is_ok_and(|authority| {
                certificate.issuer() == authority.subject()
                    && certificate.verify_signature(Some(authority.public_key())).is_ok()
            })
        })
    })
}

fn timestamp(seconds: i64) -> Timestamp {
    let bound = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(seconds).unwrap_or(bound)
}

fn san_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// The first certificate of a PEM text.
pub(crate) fn first(name: &str, pem: &str) -> Result<CertificateDer<'static>> {
    // certificates_from_pem never returns an empty list.
    tls::certificates_from_pem(name, pem)?
        .into_iter()
        .next()
        .ok_or_else(|| Error::invalid(name, "no certificate in it"))
}

pub(crate) fn parse<'a>(name: &str, der: &'a [u8]) -> Result<X509Certificate<'a>> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|error| Error::invalid(name, format!("not an X.509 certificate: {error}")))
}

/// Whether `certificate` carries `public_key` (a DER SubjectPublicKeyInfo).
pub(crate) fn carries_key(certificate: &X509Certificate<'_>, public_key: &[u8]) -> bool {
    certificate.public_key().raw == public_key
}

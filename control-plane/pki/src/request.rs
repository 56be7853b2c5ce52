//! Certificate signing requests (PKCS #10): what they ask for, and certificates made of them.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::{Authority, Error, Result};

/// A request whose signature shows that the asker has the key.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    /// Subject CN; empty when absent.
    pub common_name: String,
    /// Subject O, in order.
    pub organizations: Vec<String>,
    /// DNS names it asks for.
    pub dns_names: Vec<String>,
    /// IP addresses it asks for.
    pub addresses: Vec<IpAddr>,
    /// Whether it asks for names of other kinds: mail addresses, URIs.
    pub has_other_names: bool,
    parsed: CertificateSigningRequestParams,
}

impl SigningRequest {
    /// Reads a PEM request. `name` is what errors call it.
    ///
    /// # Errors
    /// When it is none, asks for something unknown, or its signature does not belong to its key.
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|error| Error::invalid(name, format!("not a PEM certificate request: {error}")))?;
        let broken = |why: String| Error::invalid(name, format!("not a usable certificate request: {why}"));
        let (_, raw) = X509CertificationRequest::from_der(&der).map_err(|error| broken(error.to_string()))?;
        let subject = &raw.certification_request_info.subject;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().ok().map(str::to_owned);
        let common_name = subject.iter_common_name().find_map(text).unwrap_or_default();
        let organizations = subject.iter_organization().filter_map(text).collect();
        let parsed = CertificateSigningRequestParams::from_der(&der).map_err(|error| broken(error.to_string()))?;
        let (mut dns_names, mut addresses, mut has_other_names) = (Vec::new(), Vec::new(), false);
        for san in &parsed.params.subject_alt_names {
            match san {
                SanType::DnsName(name) => dns_names.push(name.to_string()),
                SanType::IpAddress(address) => addresses.push(*address),
                _ => has_other_names = true,
            }
        }
        Ok(Self { common_name, organizations, dns_names, addresses, has_other_names, parsed })
    }
}

impl Authority {
    /// The certificate (PEM) a request asks for, with `usages` (upstream's names, such as `client auth`) and for `validity`,
    /// cut short by the authority's own.
    ///
    /// # Errors
    /// When a usage is unknown or a name cannot be written into a certificate.
    pub fn sign(&self, request: &SigningRequest, usages: &[String], validity: Duration) -> Result<String> {
        let mut key_usages = Vec::new();
        let mut extended = Vec::new();
        for usage in usages {
            match purpose(usage) {
                Some(Purpose::Key(purpose)) => key_usages.push(purpose),
                Some(Purpose::Extended(purpose)) => extended.push(purpose),
                None => return Err(Error::invalid("certificate request", format!("unrecognized usage {usage:?}"))),
            }
        }
        let not_after = SystemTime::now() + validity;
        let mut params = self.params(&request.common_name, request.organizations.first(), not_after);
        params.subject_alt_names.clone_from(&request.parsed.params.subject_alt_names);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = key_usages;
        params.extended_key_usages = extended;
        self.issue_params(params, &request.parsed.public_key, &request.organizations, &request.common_name)
    }
}

enum Purpose {
    Key(KeyUsagePurpose),
    Extended(ExtendedKeyUsagePurpose),
}

fn purpose(usage: &str) -> Option<Purpose> {
    use ExtendedKeyUsagePurpose as E;
    use KeyUsagePurpose as K;
    Some(match usage {
        "signing" | "digital signature" => Purpose::Key(K::DigitalSignature),
        "content commitment" => Purpose::Key(K::ContentCommitment),
        "key encipherment" => Purpose::Key(K::KeyEncipherment),
        "data encipherment" => Purpose::Key(K::DataEncipherment),
        "key agreement" => Purpose::Key(K::KeyAgreement),
        "cert sign" => Purpose::Key(K::KeyCertSign),
        "crl sign" => Purpose::Key(K::CrlSign),
        "encipher only" => Purpose::Key(K::EncipherOnly),
        "decipher only" => Purpose::Key(K::DecipherOnly),
        "any" => Purpose::Extended(E::Any),
        "server auth" => Purpose::Extended(E::ServerAuth),
        "client auth" => Purpose::Extended(E::ClientAuth),
        "code signing" => Purpose::Extended(E::CodeSigning),
        "email protection" | "s/mime" => Purpose::Extended(E::EmailProtection),
        "timestamping" => Purpose::Extended(E::TimeStamping),
        "ocsp signing" => Purpose::Extended(E::OcspSigning),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::{CA_VALIDITY, CertificateInfo};

    fn request(common_name: &str, organization: &str, names: &[&str]) -> String {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_becomes_the_certificate_it_asks_for() {
        let authority = Authority::create("ca", CA_VALIDITY).unwrap();
        let pem = request("system:node:n1", "system:nodes", &["n1.example", "192.0.2.7"]);
        let request = SigningRequest::from_pem("r", pem.as_bytes()).unwrap();
        assert_eq!(
            (request.common_name.as_str(), &*request.organizations),
            ("system:node:n1", &["system:nodes".to_owned()][..])
        );
        assert_eq!(request.dns_names, ["n1.example"]);
        assert_eq!(request.addresses, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        let usages = ["digital signature".to_owned(), "client auth".to_owned()];
        let signed = authority.sign(&request, &usages, Duration::from_secs(3600)).unwrap();
        let info = CertificateInfo::from_pem("signed", &signed).unwrap();
        assert_eq!((info.common_name.as_str(), info.issuer.as_str()), ("system:node:n1", "ca"));
        assert_eq!(info.sans, ["n1.example", "192.0.2.7"]);
        assert!(!info.is_ca && info.not_after.as_second() - info.not_before.as_second() <= 3600 + 300);
        let error = authority.sign(&request, &["flying".to_owned()], Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("unrecognized usage \"flying\""), "{error}");
    }

    #[test]
    fn what_is_no_request_is_refused_by_name() {
        let good = request("a", "b", &[]);
        // One whose content is not what was signed.
        let other = request("c", "b", &[]);
        let mixed: String = good.lines().take(2).chain(other.lines().skip(2)).map(|line| format!("{line}\n")).collect();
        for text in ["", "nonsense", &good[..good.len() / 2], &mixed] {
            let error = SigningRequest::from_pem("x.csr", text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("x.csr: "), "{error}");
        }
    }
}

//! A certificate authority and what it issues.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};

use crate::{Error, Result, certificate, key, subject, tls};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a certificate authority lives: ten years, as kubeadm's.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// How long an issued certificate lives: a year, as kubeadm's.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * DAY.as_secs());
/// Certificates start this long ago, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Proving a server's name.
    Server,
    /// Proving a client's user and groups.
    Client,
    /// Both: etcd peers, for one.
    ServerAndClient,
}

/// What to issue.
#[derive(Clone, Debug)]
pub struct CertRequest {
    /// Subject CN: a client's user name.
    pub common_name: String,
    /// Subject O: a client's groups.
    pub organizations: Vec<String>,
    /// DNS names and IP addresses (told apart by their form) a server answers to.
    pub sans: Vec<String>,
    /// What it is for.
    pub usage: Usage,
    /// How long it lives, cut short by the life of its authority.
    pub validity: Duration,
}

impl CertRequest {
    /// A client certificate for `user` in `groups`, valid for [`LEAF_VALIDITY`].
    pub fn client(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            common_name: user.into(),
            organizations: groups.into_iter().map(Into::into).collect(),
            sans: Vec::new(),
            usage: Usage::Client,
            validity: LEAF_VALIDITY,
        }
    }

    /// A server certificate for `sans`, valid for [`LEAF_VALIDITY`].
    pub fn server(common_name: impl Into<String>, sans: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            common_name: common_name.into(),
            organizations: Vec::new(),
            sans: sans.into_iter().map(Into::into).collect(),
            usage: Usage::Server,
            validity: LEAF_VALIDITY,
        }
    }
}

/// A certificate and its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate (chain), leaf first.
    pub certificate: String,
    /// The private key, PKCS#8. Never logged.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A certificate authority: its certificate and the key that signs.
pub struct Authority {
    certificate: String,
    der: Vec<u8>,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority with a key of its own.
    ///
    /// # Errors
    /// When the system's random source fails or the name cannot be written into a certificate.
    pub fn create(common_name: &str, validity: Duration) -> Result<Self> {
        Self::create_for_key(common_name, validity, key::generate()?)
    }

    /// Makes a self-signed authority for a key that exists.
    pub(crate) fn create_for_key(common_name: &str, validity: Duration, key: KeyPair) -> Result<Self> {
        let mut params = params(common_name, None, SystemTime::now() + validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        // As kubeadm's: verifiers that ignore the common name find the authority's own name here.
        params.subject_alt_names = CertificateParams::new(vec![common_name.to_owned()])
            .map(|names| names.subject_alt_names)
            .unwrap_or_default();
        let certificate = params.self_signed(&key).map_err(issue_error(common_name))?;
        Self::assemble(common_name, certificate.pem(), certificate.der().to_vec(), key)
    }

    /// Takes up an authority from its PEM certificate and private key. `name` is what errors call it.
    ///
    /// # Errors
    /// When either does not parse, the certificate is no authority's, or the two do not belong together.
    pub fn from_pem(name: &str, certificate_pem: &str, key_pem: &str) -> Result<Self> {
        let key = key::parse(name, key_pem)?;
        let der = certificate::first(name, certificate_pem)?;
        Self::assemble(name, certificate_pem.to_owned(), der.to_vec(), key)
    }

    pub(crate) fn assemble(name: &str, certificate: String, der: Vec<u8>, key: KeyPair) -> Result<Self> {
        let not_after = {
            let parsed = certificate::parse(name, &der)?;
            if !parsed.is_ca() {
                return Err(Error::invalid(name, "not the certificate of a certificate authority"));
            }
            if !certificate::carries_key(&parsed, &key.subject_public_key_info()) {
                return Err(Error::Mismatch {
                    name: name.to_owned(),
                    other: "its private key".to_owned(),
                    reason: "the certificate was made for another key".to_owned(),
                });
            }
            SystemTime::UNIX_EPOCH
                + Duration::from_secs(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
        };
        let issuer = Issuer::from_ca_cert_der(&der.as_slice().into(), key)
            .map_err(|error| Error::invalid(name, format!("cannot issue with it: {error}")))?;
        Ok(Self { certificate, der, not_after, issuer })
    }

    /// The authority's certificate as PEM: what others trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate for a new key.
    ///
    /// # Errors
    /// [`Error::Issue`] when a name cannot be written into a certificate.
    pub fn issue(&self, request: &CertRequest) -> Result<Identity> {
        self.issue_for_key(request, &key::generate()?)
    }

    /// Issues a certificate for a key that exists.
    pub(crate) fn issue_for_key(&self, request: &CertRequest, key: &KeyPair) -> Result<Identity> {
        let not_after = SystemTime::now() + request.validity;
        let mut params = self.params(&request.common_name, request.organizations.first(), not_after);
        params.subject_alt_names =
            CertificateParams::new(request.sans.clone()).map_err(issue_error(&request.common_name))?.subject_alt_names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match request.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::ServerAndClient => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        let certificate = self.issue_params(params, key, &request.organizations, &request.common_name)?;
        Ok(Identity { certificate, key: key.serialize_pem() })
    }

    /// What every certificate of this authority begins with.
    pub(crate) fn params(
        &self,
        common_name: &str,
        organization: Option<&String>,
        not_after: SystemTime,
    ) -> CertificateParams {
        params(common_name, organization, not_after.min(self.not_after))
    }

    /// Signs a certificate for a public key; the PEM.
    pub(crate) fn issue_params(
        &self,
        params: CertificateParams,
        key: &impl PublicKeyData,
        organizations: &[String],
        common_name: &str,
    ) -> Result<String> {
        let certificate = params.signed_by(key, &self.issuer).map_err(issue_error(common_name))?;
        if organizations.len() < 2 {
            return Ok(certificate.pem());
        }
        let parsed = certificate::parse("new certificate", certificate.der())?;
        let replaced = subject::replace(&parsed, organizations, common_name, self.issuer.key())?;
        Ok(tls::certificate_pem(&replaced))
    }

    /// Whether this authority signed `certificate`.
    pub(crate) fn signed(&self, certificate: &x509_parser::certificate::X509Certificate<'_>) -> bool {
        certificate::parse("certificate authority", &self.der)
            .is_ok_and(|own| certificate.verify_signature(Some(own.public_key())).is_ok())
    }
}

fn params(common_name: &str, organization: Option<&String>, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization.as_str());
    }
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    params.not_before = (SystemTime::now() - BACKDATE).into();
    params.not_after = not_after.into();
    params
}

fn issue_error(common_name: &str) -> impl FnOnce(rcgen::Error) -> Error {
    let common_name = common_name.to_owned();
    move |source| Error::Issue { common_name, source }
}

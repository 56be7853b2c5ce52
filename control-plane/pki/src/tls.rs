//! rustls configurations made of this crate's certificates.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{Error, Identity, Result};

/// All certificates of a PEM text, at least one. `name` is what errors call it.
///
/// # Errors
/// [`Error::Invalid`] when there is none or the PEM is broken.
pub fn certificates_from_pem(name: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::invalid(name, format!("not a PEM certificate: {error}")))?;
    if certificates.is_empty() {
        return Err(Error::invalid(name, "no certificate in it (no \"BEGIN CERTIFICATE\")"));
    }
    Ok(certificates)
}

/// The first private key of a PEM text. `name` is what errors call it.
///
/// # Errors
/// [`Error::Invalid`] when there is none or the PEM is broken.
pub fn private_key_from_pem(name: &str, pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| Error::invalid(name, format!("not a PEM private key: {error}")))
}

pub(crate) fn certificate_pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut pem = String::with_capacity(encoded.len() + encoded.len() / 64 + 64);
    pem.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII: any index is a character boundary.
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(name: &str, pem: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates_from_pem(name, pem)? {
        store.add(certificate)?;
    }
    Ok(store)
}

fn certified_key(identity: &Identity) -> Result<CertifiedKey> {
    let certificates = certificates_from_pem("server certificate", &identity.certificate)?;
    let key = private_key_from_pem("server key", &identity.key)?;
    Ok(CertifiedKey::from_der(certificates, key, &provider())?)
}

/// A server's certificate that can be replaced while it serves: new connections get the new one.
#[derive(Debug)]
pub struct ReloadableIdentity(
    // A std lock: it is held for one pointer copy, never across an await.
    RwLock<Arc<CertifiedKey>>,
);

impl ReloadableIdentity {
    /// Starts with `identity`.
    ///
    /// # Errors
    /// When its certificate and key do not parse or do not belong together.
    pub fn new(identity: &Identity) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(certified_key(identity)?)))))
    }

    /// Serves `identity` from now on.
    ///
    /// # Errors
    /// As [`Self::new`]; the old identity then stays.
    pub fn replace(&self, identity: &Identity) -> Result<()> {
        let next = Arc::new(certified_key(identity)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

impl ResolvesServerCert for ReloadableIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A server configuration for HTTP/2 and HTTP/1.1 (by ALPN).
///
/// With `client_ca` (PEM), a client may present a certificate; one that no authority in it signed, or that is outside its
/// time, fails the handshake. A client without one is let through, for other ways to authenticate.
///
/// # Errors
/// When the PEM does not parse.
pub fn server_config(identity: Arc<ReloadableIdentity>, client_ca: Option<&str>) -> Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        Some(pem) => {
            let roots = Arc::new(roots("client certificate authority", pem)?);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated().build()?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(identity);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client configuration that trusts `ca` (PEM) alone and presents `identity`, if any. No ALPN: the caller knows what it
/// speaks.
///
/// # Errors
/// When the PEM does not parse or certificate and key do not belong together.
pub fn client_config(ca: &str, identity: Option<&Identity>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots("certificate authority", ca)?);
    match identity {
        Some(identity) => Ok(builder.with_client_auth_cert(chain(identity)?, key(identity)?)?),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// A client configuration that presents `identity`, if any, and takes the server for whom it says it is: what upstream's API server
/// does with kubelets, which sign their own certificates, unless `--kubelet-certificate-authority` is given.
///
/// # Errors
/// When the PEM does not parse or certificate and key do not belong together.
pub fn unverified_client_config(identity: Option<&Identity>) -> Result<ClientConfig> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    match identity {
        Some(identity) => Ok(builder.with_client_auth_cert(chain(identity)?, key(identity)?)?),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn chain(identity: &Identity) -> Result<Vec<CertificateDer<'static>>> {
    certificates_from_pem("client certificate", &identity.certificate)
}

fn key(identity: &Identity) -> Result<PrivateKeyDer<'static>> {
    private_key_from_pem("client key", &identity.key)
}

/// Accepts every certificate whose holder has its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

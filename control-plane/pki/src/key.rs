//! Private keys: made as ECDSA P-256, read in every form upstream's tools write.

use rcgen::KeyPair;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::der::{OCTET_STRING, SEQUENCE, tlv};
use crate::{Error, Result, tls};

/// AlgorithmIdentifier of RSA: 1.2.840.113549.1.1.1 with NULL parameters.
const RSA: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// Object identifier 1.2.840.10045.2.1, id-ecPublicKey, with tag and length.
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// Object identifiers of the curves P-256 and P-384, with tag and length.
const CURVES: [&[u8]; 2] =
    [&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]];
/// The INTEGER 0: version of PKCS#8.
const VERSION: &[u8] = &[0x02, 0x01, 0x00];

/// A new ECDSA P-256 key.
pub(crate) fn generate() -> Result<KeyPair> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::GenerateKey)
}

/// Reads a private key: PKCS#8 ("PRIVATE KEY"), or what kubeadm writes, PKCS#1 ("RSA PRIVATE KEY") and SEC 1
/// ("EC PRIVATE KEY"). `name` is what errors call it.
pub(crate) fn parse(name: &str, pem: &str) -> Result<KeyPair> {
    let pkcs8 = match tls::private_key_from_pem(name, pem)? {
        PrivateKeyDer::Pkcs8(key) => key,
        PrivateKeyDer::Pkcs1(key) => pkcs8(RSA, key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => {
            let der = key.secret_sec1_der();
            let curve = CURVES
                .into_iter()
                .find(|curve| der.windows(curve.len()).any(|window| window == *curve))
                .ok_or_else(|| Error::invalid(name, "an EC key on a curve other than P-256 and P-384"))?;
            pkcs8(&tlv(SEQUENCE, &[EC_PUBLIC_KEY, curve].concat()), der)
        }
        _ => return Err(Error::invalid(name, "a private key of an unknown form")),
    };
    KeyPair::try_from(&pkcs8)
        .map_err(|error| Error::invalid(name, format!("not a usable private key (RSA, ECDSA P-256 or P-384): {error}")))
}

/// Wraps a key of an older form as PKCS#8.
fn pkcs8(algorithm: &[u8], key: &[u8]) -> PrivatePkcs8KeyDer<'static> {
    tlv(SEQUENCE, &[VERSION, algorithm, &tlv(OCTET_STRING, key)].concat()).into()
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData as _;

    use super::*;

    /// Made for this test with `openssl ecparam -name prime256v1 -genkey -noout`.
    const SEC1: &str = include_str!("../tests/keys/sec1.pem");
    /// The same key after `openssl pkcs8 -topk8 -nocrypt`.
    const SEC1_AS_PKCS8: &str = include_str!("../tests/keys/sec1-as-pkcs8.pem");
    /// Made for this test with `openssl genrsa -traditional 2048`.
    const PKCS1: &str = include_str!("../tests/keys/pkcs1.pem");
    /// The same key after `openssl pkcs8 -topk8 -nocrypt`.
    const PKCS1_AS_PKCS8: &str = include_str!("../tests/keys/pkcs1-as-pkcs8.pem");

    #[test]
    fn older_forms_are_the_same_keys() {
        for (old, new) in [(SEC1, SEC1_AS_PKCS8), (PKCS1, PKCS1_AS_PKCS8)] {
            let (old, new) = (parse("old", old).unwrap(), parse("new", new).unwrap());
            assert_eq!(old.subject_public_key_info(), new.subject_public_key_info());
            assert!(old.serialize_pem().starts_with("-----BEGIN PRIVATE KEY-----"));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_by_name() {
        let swapped = PKCS1.replace("RSA PRIVATE", "EC PRIVATE");
        let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        for text in ["", "nonsense", public, &SEC1[..60], &swapped] {
            let error = parse("some.key", text).unwrap_err().to_string();
            assert!(error.starts_with("some.key: "), "{error}");
        }
    }
}

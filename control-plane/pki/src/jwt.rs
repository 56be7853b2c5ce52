//! Signed tokens (RFC 7515 and 7519): ES256 and RS256, signed with a service account key and verified with its public half.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::{Error, Result, key};

/// No token is longer: what is longer is not looked at.
const MAX_LENGTH: usize = 16 * 1024;

/// Why a text is no token that one of the keys signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has not the form of a token.
    #[error("the token is malformed")]
    Malformed,
    /// None of the keys signed it with the algorithm that belongs to the key.
    #[error("no key verifies the token's signature")]
    Signature,
}

/// Signs tokens.
pub struct Signer {
    key: SigningKey,
    random: SystemRandom,
    /// The encoded header, the same of all tokens.
    header: String,
}

enum SigningKey {
    Ecdsa(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer with a private key (PEM; RSA, ECDSA P-256 or P-384).
    ///
    /// # Errors
    /// When it is no such key.
    pub fn from_pem(name: &str, pem: &str) -> Result<Self> {
        let unusable = |why: &dyn std::fmt::Display| Error::invalid(name, format!("cannot sign tokens: {why}"));
        let pair = key::parse(name, pem)?;
        let public = PublicKey::from_spki(name, &rcgen::PublicKeyData::subject_public_key_info(&pair))?;
        let random = SystemRandom::new();
        let der = pair.serialize_der();
        let ecdsa =
            |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, &der, &random).map(|key| SigningKey::Ecdsa(Box::new(key)));
        let key = match public.kind {
            Kind::P256 => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Kind::P384 => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Kind::Rsa => RsaKeyPair::from_pkcs8(&der).map(|key| SigningKey::Rsa(Box::new(key))),
        };
        let key = key.map_err(|error| unusable(&error))?;
        let header = serde_json::json!({"alg": public.kind.algorithm(), "kid": public.id});
        Ok(Self { key, random, header: URL_SAFE_NO_PAD.encode(header.to_string()) })
    }

    /// A token that says `claims`.
    ///
    /// # Errors
    /// When the claims cannot be JSON, or the system gives no randomness.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String> {
        let failed = |why: String| Error::invalid("token", why);
        let claims = serde_json::to_vec(claims).map_err(|error| failed(error.to_string()))?;
        let mut token = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims));
        let no_randomness = |_| failed("the system gives no randomness to sign with".to_owned());
        let signature = match &self.key {
            SigningKey::Ecdsa(key) => {
                key.sign(&self.random, token.as_bytes()).map_err(no_randomness)?.as_ref().to_vec()
            }
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &self.random, token.as_bytes(), &mut signature).map_err(no_randomness)?;
                signature
            }
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// Which algorithm a key signs with: never what a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    Rsa,
}

impl Kind {
    fn algorithm(self) -> &'static str {
        match self {
            Self::P256 => "ES256",
            Self::P384 => "ES384",
            Self::Rsa => "RS256",
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::Rsa => &RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

#[derive(Clone, Debug)]
struct PublicKey {
    /// Upstream's key ID: the hash of the key as DER.
    id: String,
    kind: Kind,
    /// The key as its algorithm wants it: an uncompressed point, or an RSAPublicKey.
    bytes: Vec<u8>,
    /// The members of a JSON Web Key that are particular to its kind.
    jwk: serde_json::Map<String, serde_json::Value>,
}

impl PublicKey {
    fn from_spki(name: &str, der: &[u8]) -> Result<Self> {
        let invalid = |why: &str| Error::invalid(name, format!("not a usable public key: {why}"));
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|error| invalid(&error.to_string()))?;
        let bytes = info.subject_public_key.data.to_vec();
        let base64 = |bytes: &[u8]| serde_json::Value::from(URL_SAFE_NO_PAD.encode(bytes));
        let mut jwk = serde_json::Map::new();
        let kind = if info.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
            let Ok(ParsedKey::RSA(rsa)) = info.parsed() else { return Err(invalid("a broken RSA key")) };
            let significant = |bytes: &[u8]| bytes.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
            jwk.insert("kty".to_owned(), "RSA".into());
            jwk.insert("n".to_owned(), base64(&significant(rsa.modulus)));
            jwk.insert("e".to_owned(), base64(&significant(rsa.exponent)));
            Kind::Rsa
        } else {
            let (kind, curve) = match bytes.len() {
                65 => (Kind::P256, "P-256"),
                97 => (Kind::P384, "P-384"),
                _ => return Err(invalid("neither RSA nor ECDSA P-256 or P-384")),
            };
            let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
            jwk.insert("kty".to_owned(), "EC".into());
            jwk.insert("crv".to_owned(), curve.into());
            jwk.insert("x".to_owned(), base64(x));
            jwk.insert("y".to_owned(), base64(y));
            kind
        };
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, der));
        jwk.insert("use".to_owned(), "sig".into());
        jwk.insert("kid".to_owned(), id.clone().into());
        jwk.insert("alg".to_owned(), kind.algorithm().into());
        Ok(Self { id, kind, bytes, jwk })
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// Verifies tokens with one of several public keys.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<PublicKey>,
}

impl Verifier {
    /// A verifier with all public keys of a PEM text.
    ///
    /// # Errors
    /// When there is none, or one is neither RSA nor ECDSA P-256 or P-384.
    pub fn from_pem(name: &str, pem: &str) -> Result<Self> {
        let keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes())
            .map(|key| {
                let key = key.map_err(|error| Error::invalid(name, format!("not a PEM public key: {error}")))?;
                PublicKey::from_spki(name, &key)
            })
            .collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Err(Error::invalid(name, "no public key in it (no \"BEGIN PUBLIC KEY\")"));
        }
        Ok(Self { keys })
    }

    /// The claims of a token that one of the keys signed. What they say is not looked at.
    ///
    /// # Errors
    /// When it is no token, its claims are not those expected, or no key signed it.
    pub fn verify<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, _) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if token.len() > MAX_LENGTH {
            return Err(TokenError::Malformed);
        }
        let header: Header = decode(header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        let fits =
            |key: &&PublicKey| key.kind.algorithm() == header.alg && (header.kid.is_empty() || header.kid == key.id);
        let verifies = |key: &PublicKey| {
            let public: UnparsedPublicKey<&[u8]> =
                signature::UnparsedPublicKey::new(key.kind.verification(), &key.bytes);
            public.verify(signed.as_bytes(), &signature).is_ok()
        };
        if !self.keys.iter().filter(fits).any(verifies) {
            return Err(TokenError::Signature);
        }
        unverified_claims(token)
    }

    /// The keys as a JSON Web Key Set (RFC 7517).
    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!({"keys": self.keys.iter().map(|key| key.jwk.clone()).collect::<Vec<_>>()})
    }

    /// The algorithms of the keys, each once.
    pub fn algorithms(&self) -> Vec<&'static str> {
        let mut algorithms: Vec<_> = self.keys.iter().map(|key| key.kind.algorithm()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        algorithms
    }
}

/// What a token claims, whoever signed it: only good to tell whose business it is.
///
/// # Errors
/// When it has not the form of a token, or its claims are not those expected.
pub fn unverified_claims<T: DeserializeOwned>(token: &str) -> Result<T, TokenError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(claims), Some(_), None) if token.len() <= MAX_LENGTH => decode(claims),
        _ => Err(TokenError::Malformed),
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RSA: &str = include_str!("../tests/keys/pkcs1.pem");
    const EC: &str = include_str!("../tests/keys/sec1.pem");

    fn pair(pem: &str) -> (Signer, Verifier) {
        let public = key::parse("key", pem).unwrap().public_key_pem();
        (Signer::from_pem("key", pem).unwrap(), Verifier::from_pem("key", &public).unwrap())
    }

    #[test]
    fn what_was_signed_verifies_with_its_key_alone() {
        let (rsa, ec) = (pair(RSA), pair(EC));
        for (own, other) in [(&rsa, &ec), (&ec, &rsa)] {
            let token = own.0.sign(&json!({"sub": "a"})).unwrap();
            assert_eq!(own.1.verify::<Value>(&token), Ok(json!({"sub": "a"})));
            assert_eq!(other.1.verify::<Value>(&token), Err(TokenError::Signature));
            assert_eq!(unverified_claims::<Value>(&token), Ok(json!({"sub": "a"})));
        }
    }

    #[test]
    fn the_key_decides_on_the_algorithm() {
        let (signer, verifier) = pair(EC);
        let token = signer.sign(&json!({})).unwrap();
        let rest = token.split_once('.').unwrap().1;
        for alg in ["none", "None", "HS256", "RS256", "ES384", ""] {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
            assert_eq!(verifier.verify::<Value>(&format!("{header}.{rest}")), Err(TokenError::Signature), "{alg}");
            let unsigned = format!("{header}.{}.", rest.split_once('.').unwrap().0);
            assert_eq!(verifier.verify::<Value>(&unsigned), Err(TokenError::Signature), "{alg}");
        }
    }

    #[test]
    fn what_was_changed_or_is_garbage_is_refused() {
        let (signer, verifier) = pair(EC);
        let token = signer.sign(&json!({"sub": "a"})).unwrap();
        let parts: Vec<_> = token.split('.').collect();
        let other = URL_SAFE_NO_PAD.encode(json!({"sub": "b"}).to_string());
        assert_eq!(verifier.verify::<Value>(&format!("{}.{other}.{}", parts[0], parts[2])), Err(TokenError::Signature));
        for garbage in
            ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", &token[1..], &format!("{token}."), &"x".repeat(20_000)]
        {
            assert!(verifier.verify::<Value>(garbage).is_err(), "{garbage:.20}");
        }
        for end in 0..token.len() {
            assert!(verifier.verify::<Value>(&token[..end]).is_err());
        }
    }

    #[test]
    fn key_sets_name_the_key_of_the_header() {
        let (signer, verifier) = pair(RSA);
        let token = signer.sign(&json!({})).unwrap();
        let header: Value = decode(token.split_once('.').unwrap().0).unwrap();
        let set = verifier.jwks();
        assert_eq!(set["keys"][0]["kid"], header["kid"]);
        assert_eq!(set["keys"][0]["kty"], "RSA");
        assert_eq!(set["keys"][0]["e"], "AQAB");
        assert_eq!(verifier.algorithms(), ["RS256"]);
        assert_eq!(pair(EC).1.jwks()["keys"][0]["crv"], "P-256");
    }

    #[test]
    fn what_is_no_key_is_refused_by_name() {
        for text in ["", "nonsense", RSA] {
            let error = Verifier::from_pem("sa.pub", text).unwrap_err().to_string();
            assert!(error.starts_with("sa.pub: "), "{error}");
        }
    }
}

//! Service accounts' tokens: made by TokenRequest, or (the old kind) kept in a Secret, and whom they identify.
//!
//! A token is good as long as its signature, issuer, audience and time are, and as what it is bound to is there with the
//! same uid: the account, and a Pod, Secret or Node. Signatures are verified once and remembered; what a token is bound to
//! is looked up each time, in the watch cache.

use std::{num::NonZeroUsize, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skep_pki::jwt::{Signer, Verifier, unverified_claims};
use skep_storage::{Object, Resource, Storage};

use super::Identified;
use crate::{
    config::ServiceAccountKeys,
    error::{Error, Result},
    registry::generic::refresh,
    user::UserInfo,
};

/// Clocks may differ by that much.
const LEEWAY: i64 = 60;
/// How long a token outlives the deletion of what it is bound to: a pod that ends may still have to say so.
const DELETED_LEEWAY: i64 = 60;
/// The issuer of tokens that are kept in Secrets.
pub(crate) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// How many tokens' signatures are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const LEGACY_TYPE: &str = "kubernetes.io/service-account-token";

/// Name and uid of an object a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warnafter: Option<i64>,
}

/// What a token claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Claims {
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// What a token that is kept in a Secret claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct LegacyClaims {
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

/// An audience may be a text or a list of them.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

/// Claims whose signature is good.
enum Verified {
    Bound(Box<Claims>),
    Legacy(LegacyClaims),
}

/// Why a token was not taken.
enum Refusal {
    /// Something it needs is not there; the cache may be behind.
    Missing(String),
    Final(String),
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Final(why.into()))
}

/// Makes and reads tokens.
pub(crate) struct ServiceAccounts {
    pub(crate) issuer: String,
    signer: Signer,
    verifier: Verifier,
    storage: Storage,
    accounts: Option<Resource>,
    pods: Option<Resource>,
    secrets: Option<Resource>,
    nodes: Option<Resource>,
    /// By the hash of the token.
    verified: Mutex<LruCache<[u8; 32], Arc<Verified>>>,
}

impl ServiceAccounts {
    pub(crate) fn new(keys: &ServiceAccountKeys, storage: &Storage) -> Result<Self> {
        let config = |error: skep_pki::Error| Error::Config(error.to_string());
        Ok(Self {
            issuer: keys.issuer.clone(),
            signer: Signer::from_pem("service account key", &keys.private).map_err(config)?,
            verifier: Verifier::from_pem("service account public key", &keys.public).map_err(config)?,
            storage: storage.clone(),
            accounts: storage.resource("/registry/serviceaccounts/"),
            pods: storage.resource("/registry/pods/"),
            secrets: storage.resource("/registry/secrets/"),
            nodes: storage.resource("/registry/minions/"),
            verified: Mutex::new(LruCache::new(REMEMBERED)),
        })
    }

    /// The audiences of this server, for tokens that name none.
    pub(crate) fn own_audiences(&self) -> Vec<String> {
        vec![self.issuer.clone()]
    }

    /// A token that says `claims`.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, String> {
        self.signer.sign(claims).map_err(|error| error.to_string())
    }

    /// Whom a token identifies; `None` if it is none of ours.
    pub(crate) async fn authenticate(&self, token: &str, audiences: &[String]) -> Option<Result<Identified, String>> {
        #[derive(Deserialize)]
        struct Issuer {
            iss: String,
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.verified.lock().get(&hash).cloned();
        let verified = match known {
            Some(verified) => verified,
            None => {
                let Issuer { iss } = unverified_claims(token).ok()?;
                let verified = match iss.as_str() {
                    LEGACY_ISSUER => self.verifier.verify(token).map(Verified::Legacy),
                    own if own == self.issuer => {
                        self.verifier.verify(token).map(|claims| Verified::Bound(Box::new(claims)))
                    }
                    _ => return None,
                };
                match verified {
                    Ok(verified) => {
                        let verified = Arc::new(verified);
                        self.verified.lock().put(hash, Arc::clone(&verified));
                        verified
                    }
                    Err(error) => return Some(Err(error.to_string())),
                }
            }
        };
        let now = Timestamp::now().as_second();
        let look = || match &*verified {
            Verified::Bound(claims) => self.bound(claims, audiences, now),
            Verified::Legacy(claims) => self.legacy(claims, token, audiences),
        };
        Some(
            match look() {
                Err(Refusal::Missing(_)) if refresh(&self.storage).await.is_ok() => look(),
                answer => answer,
            }
            .map_err(|(Refusal::Missing(why) | Refusal::Final(why))| why),
        )
    }

    fn bound(&self, claims: &Claims, audiences: &[String], now: i64) -> Result<Identified, Refusal> {
        if now > claims.exp + LEEWAY {
            return refuse("service account token has expired");
        }
        if now + LEEWAY < claims.nbf || now + LEEWAY < claims.iat {
            return refuse("service account token is not valid yet");
        }
        let own = self.own_audiences();
        let wanted = if audiences.is_empty() { &own } else { audiences };
        let meant: Vec<String> = claims.aud.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        if meant.is_empty() {
            return refuse(format!("token audiences {:?} is invalid for the target audiences {wanted:?}", claims.aud));
        }
        let Bound { namespace, serviceaccount: account, pod, secret, node, .. } = &claims.bound;
        let user = user_name(namespace, &account.name);
        if claims.sub != user {
            return refuse("the token's subject is not its service account");
        }
        self.account(namespace, account, now)?;
        let mut identity = identity(namespace, &account.name, &account.uid);
        if !claims.jti.is_empty() {
            let id = format!("JTI={}", claims.jti);
            identity.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![id]);
        }
        let mut say = |key: &str, text: &str| {
            if !text.is_empty() {
                let key = format!("authentication.kubernetes.io/{key}");
                identity.extra.insert(key, vec![text.to_owned()]);
            }
        };
        if let Some(secret) = secret {
            let stored = find(&self.secrets, &format!("/registry/secrets/{namespace}/{}", secret.name))?;
            still(&stored, secret, deletion::<Secret>(&stored), now)?;
        }
        if let Some(pod) = pod {
            let stored = find(&self.pods, &format!("/registry/pods/{namespace}/{}", pod.name))?;
            still(&stored, pod, deletion::<Pod>(&stored), now)?;
            say("pod-name", &pod.name);
            say("pod-uid", &pod.uid);
        }
        if let Some(node) = node {
            // Bound to a pod, a token names its node only to be told apart; bound to the node, it ends with it.
            if pod.is_none() {
                let stored = find(&self.nodes, &format!("/registry/minions/{}", node.name))?;
                still(&stored, node, deletion::<Node>(&stored), now)?;
            }
            say("node-name", &node.name);
            say("node-uid", &node.uid);
        }
        Ok(Identified { user: identity, audiences: meant })
    }

    fn legacy(&self, claims: &LegacyClaims, token: &str, audiences: &[String]) -> Result<Identified, Refusal> {
        let own = self.own_audiences();
        // Such a token names no audience: it is for this server.
        let meant: Vec<String> =
            own.iter().filter(|own| audiences.is_empty() || audiences.contains(own)).cloned().collect();
        if meant.is_empty() {
            return refuse("the token is meant for this server only");
        }
        if claims.sub != user_name(&claims.namespace, &claims.account) {
            return refuse("the token's subject is not its service account");
        }
        let account = Reference { name: claims.account.clone(), uid: claims.uid.clone() };
        self.account(&claims.namespace, &account, Timestamp::now().as_second())?;
        let stored = find(&self.secrets, &format!("/registry/secrets/{}/{}", claims.namespace, claims.secret))?;
        let secret: Secret = parse(&stored)?;
        let kept = secret.data.as_ref().and_then(|data| data.get("token")).map(|data| data.0.as_slice());
        let invalid = secret
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key("kubernetes.io/legacy-token-invalid-since"));
        if secret.metadata.deletion_timestamp.is_some()
            || secret.type_.as_deref() != Some(LEGACY_TYPE)
            || kept != Some(token.as_bytes())
            || invalid
        {
            return refuse("service account token has been invalidated");
        }
        Ok(Identified { user: identity(&claims.namespace, &claims.account, &claims.uid), audiences: meant })
    }

    fn account(&self, namespace: &str, account: &Reference, now: i64) -> Result<(), Refusal> {
        let stored = find(&self.accounts, &format!("/registry/serviceaccounts/{namespace}/{}", account.name))?;
        still(&stored, account, deletion::<ServiceAccount>(&stored), now)
    }

    /// The document at `/.well-known/openid-configuration`.
    pub(crate) fn openid_configuration(&self, address: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("https://{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": self.verifier.algorithms(),
        })
    }

    /// The document at `/openid/v1/jwks`.
    pub(crate) fn jwks(&self) -> Value {
        self.verifier.jwks()
    }
}

fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

fn identity(namespace: &str, name: &str, uid: &str) -> UserInfo {
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    UserInfo { uid: uid.to_owned(), ..UserInfo::authenticated(user_name(namespace, name), groups) }
}

fn find(resource: &Option<Resource>, key: &str) -> Result<Arc<Object>, Refusal> {
    let stored = resource.as_ref().and_then(|resource| resource.get(key));
    stored.ok_or_else(|| Refusal::Missing(format!("{key} is not there: service account token has been invalidated")))
}

fn parse<T: serde::de::DeserializeOwned>(stored: &Object) -> Result<T, Refusal> {
    serde_json::from_slice(stored.json()).map_err(|error| Refusal::Final(error.to_string()))
}

/// When an object was to be deleted, in seconds. It costs a look at the text only, unless it is so.
fn deletion<T>(stored: &Object) -> Option<i64>
where
    T: serde::de::DeserializeOwned
        + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
{
    memchr::memmem::find(stored.json(), b"\"deletionTimestamp\":")?;
    let object: T = serde_json::from_slice(stored.json()).ok()?;
    object.metadata().deletion_timestamp.as_ref().map(|time| time.0.as_second())
}

/// Whether an object is the one that was meant, and not deleted for long.
fn still(stored: &Object, meant: &Reference, deleted: Option<i64>, now: i64) -> Result<(), Refusal> {
    if stored.uid() != meant.uid {
        // The one that was meant may be on its way into the cache.
        return Err(Refusal::Missing("the uid of what the token is bound to has changed".to_owned()));
    }
    if deleted.is_some_and(|at| now > at + DELETED_LEEWAY) {
        return refuse("service account token has been invalidated");
    }
    Ok(())
}

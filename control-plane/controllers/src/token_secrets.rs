//! Secrets of type `kubernetes.io/service-account-token`: the old way to get a token, which never ends. Somebody makes the
//! Secret and names the account in an annotation; this controller fills it, and removes it with its account.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use serde_json::json;
use skep_pki::jwt::Signer;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};

/// Restricts the shared watch to the Secrets this controller is about.
pub(crate) const FIELD_SELECTOR: &str = "type=kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// The controller; its keys are Secrets.
pub(crate) struct TokenSecrets {
    context: Context,
}

impl TokenSecrets {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let secrets = context.informers.token_secrets.clone();
        let add = queue.clone();
        secrets.on_change(move |delta| add.add(ObjectKey::of(&delta.object().metadata)));
        context.informers.service_accounts.on_change(move |delta| {
            let account = &delta.object().metadata;
            for secret in secrets.in_namespace(meta::namespace(account)) {
                if meta::annotation(&secret.metadata, NAME) == Some(meta::name(account)) {
                    queue.add(ObjectKey::of(&secret.metadata));
                }
            }
        });
        Arc::new(Self { context })
    }

    /// The account a Secret names, as it is now: the Secret goes with it, so the watch must not be trusted to have it.
    async fn account(&self, secret: &Secret, name: &str) -> Result<Option<ServiceAccount>, Error> {
        let namespace = meta::namespace(&secret.metadata);
        if let Some(known) = self.context.informers.service_accounts.get(namespace, name) {
            return Ok(Some(known.as_ref().clone()));
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), namespace);
        api.get_opt(name).await.context(|| format!("reading service account {namespace}/{name}"))
    }
}

impl Reconciler for TokenSecrets {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "tokens-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(secret) = self.context.informers.token_secrets.by_key(key) else { return Ok(None) };
        let Some(name) = meta::annotation(&secret.metadata, NAME).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        if meta::is_deleting(&secret.metadata) {
            return Ok(None);
        }
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let account = self.account(&secret, name).await?;
        let uid = meta::annotation(&secret.metadata, UID).unwrap_or_default();
        let account = account.filter(|account| uid.is_empty() || uid == meta::uid(&account.metadata));
        let Some(account) = account else {
            let uid = secret.metadata.uid.clone();
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid, resource_version: None }),
                ..DeleteParams::default()
            };
            return match api.delete(&key.name, &params).await {
                Ok(_) => Ok(None),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(None),
                Err(error) => Err(error).context(|| format!("deleting token secret {key}")),
            };
        };
        let config = &self.context.config;
        let Some(signer) = &config.service_account_signer else { return Ok(None) };
        let Some(filled) = fill(&secret, &account, signer, config.root_ca.as_deref())? else { return Ok(None) };
        let written = api.replace(&key.name, &PostParams::default(), &filled).await;
        match written.context(|| format!("filling token secret {key}")) {
            Ok(written) => self.context.informers.token_secrets.wrote(&written),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(None)
    }
}

/// The Secret with what it lacks; none if it lacks nothing.
fn fill(
    secret: &Secret,
    account: &ServiceAccount,
    signer: &Signer,
    root_ca: Option<&str>,
) -> Result<Option<Secret>, Error> {
    let (namespace, name) = (meta::namespace(&secret.metadata), meta::name(&account.metadata));
    let uid = meta::uid(&account.metadata);
    let mut wanted: BTreeMap<String, ByteString> = secret.data.clone().unwrap_or_default();
    let mut put = |key: &str, value: &[u8]| {
        wanted.insert(key.to_owned(), ByteString(value.to_vec()));
    };
    if let Some(root_ca) = root_ca {
        put("ca.crt", root_ca.as_bytes());
    }
    put("namespace", namespace.as_bytes());
    if wanted.get("token").is_none_or(|token| token.0.is_empty()) {
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": meta::name(&secret.metadata),
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": uid,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        let token = signer.sign(&claims).map_err(|error| Error::Config(error.to_string()))?;
        wanted.insert("token".to_owned(), ByteString(token.into_bytes()));
    }
    let mut filled = Secret { data: Some(wanted), ..secret.clone() };
    filled.metadata.annotations.get_or_insert_default().insert(UID.to_owned(), uid.to_owned());
    Ok((filled != *secret).then_some(filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_filled_once() {
        let dir = tempfile::tempdir().unwrap();
        let pki = skep_pki::Pki::load_or_create(dir.path(), &[]).unwrap();
        let signer = Signer::from_pem("key", pki.service_account_key()).unwrap();
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "a", "annotations": {NAME: "robot"}},
            "type": "kubernetes.io/service-account-token",
        }))
        .unwrap();
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "robot", "namespace": "a", "uid": "1"}})).unwrap();
        let filled = fill(&secret, &account, &signer, Some("ca")).unwrap().unwrap();
        let data = filled.data.as_ref().unwrap();
        assert_eq!((&*data["ca.crt"].0, &*data["namespace"].0), (&b"ca"[..], &b"a"[..]));
        let verifier = skep_pki::jwt::Verifier::from_pem("key", pki.service_account_public_key()).unwrap();
        let claims: serde_json::Value = verifier.verify(std::str::from_utf8(&data["token"].0).unwrap()).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:a:robot");
        assert!(fill(&filled, &account, &signer, Some("ca")).unwrap().is_none());
    }
}

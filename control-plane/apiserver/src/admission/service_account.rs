//! ServiceAccount: every pod runs as an account that exists, and gets its token and its image pull secrets.

mod token_volume;

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use skep_api::status::StatusError;
use skep_storage::Resource;

use super::{Admission, Attributes, node_restriction::mirror_pod::names_secrets};
use crate::registry::{generic::refresh, object::Object};

/// Marks the API's image of a static pod; it runs as no account.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

impl Admission {
    pub(super) async fn service_account(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn Object,
    ) -> Result<(), StatusError> {
        let (Some(namespace), Some(accounts)) = (attributes.scope.namespace, &self.service_accounts) else {
            return Ok(());
        };
        let info = attributes.info;
        let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return Ok(()) };
        let is_mirror = pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR));
        let Some(spec) = &mut pod.spec else { return Ok(()) };
        let named = spec.service_account_name.clone().filter(|name| !name.is_empty());
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        if is_mirror {
            if named.is_some() {
                return Err(StatusError::forbidden(info, &pod_name, "a mirror pod may not reference service accounts"));
            }
            return Ok(());
        }
        let account = named.unwrap_or_else(|| "default".to_owned());
        let stored = self.account(accounts, namespace, &account).await?;
        let stored = stored.map_err(|why| StatusError::forbidden(info, &pod_name, why))?;
        spec.service_account = Some(account.clone());
        spec.service_account_name = Some(account);
        let mounts = spec.automount_service_account_token.or(stored.automount_service_account_token).unwrap_or(true);
        if mounts {
            token_volume::mount(spec);
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            spec.image_pull_secrets = stored.image_pull_secrets.filter(|secrets| !secrets.is_empty());
        }
        Ok(())
    }
    /// An account, or why there is none.
    async fn account(
        &self,
        accounts: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Result<ServiceAccount, String>, StatusError> {
        let key = format!("/registry/serviceaccounts/{namespace}/{name}");
        let mut found = accounts.get(&key);
        if found.is_none() {
            refresh(&self.storage).await?;
            found = accounts.get(&key);
        }
        match found {
            Some(found) => serde_json::from_slice(found.json()).map(Ok).map_err(StatusError::internal_error),
            None => Ok(Err(format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ))),
        }
    }

    /// Refuses a new pod that runs as no account, whoever made it so.
    pub(super) async fn runs_as_account(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
    ) -> Result<(), StatusError> {
        let (Some(namespace), Some(accounts)) = (attributes.scope.namespace, &self.service_accounts) else {
            return Ok(());
        };
        let Some(pod) = object.as_any().downcast_ref::<Pod>() else { return Ok(()) };
        let Some(spec) = &pod.spec else { return Ok(()) };
        let named = spec.service_account_name.as_deref().filter(|name| !name.is_empty());
        if pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR)) {
            let sources =
                || spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref()?.sources.as_ref());
            let token = sources().flatten().any(|source| source.service_account_token.is_some());
            let why = match (named, names_secrets(spec), token) {
                (Some(_), ..) => "a mirror pod may not reference service accounts",
                (None, true, _) => "a mirror pod may not reference secrets",
                (None, false, true) => "a mirror pod may not use ServiceAccountToken volume projections",
                (None, false, false) => return Ok(()),
            };
            return Err(attributes.forbidden(object, why));
        }
        let Some(named) = named else {
            let why = format!("no service account specified for pod {namespace}/{}", object.name());
            return Err(attributes.forbidden(object, why));
        };
        let account = self.account(accounts, namespace, named).await?;
        account.map(drop).map_err(|why| attributes.forbidden(object, why))
    }
}

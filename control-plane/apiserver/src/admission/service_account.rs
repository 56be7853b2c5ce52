//! ServiceAccount: every pod runs as an account that exists, and gets its token and its image pull secrets.

mod token_volume;

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use skep_api::status::StatusError;

use super::{Admission, Attributes};
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
        let key = format!("/registry/serviceaccounts/{namespace}/{account}");
        let mut found = accounts.get(&key);
        if found.is_none() {
            refresh(&self.storage).await?;
            found = accounts.get(&key);
        }
        let Some(found) = found else {
            let why =
                format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
            return Err(StatusError::forbidden(info, &pod_name, why));
        };
        spec.service_account = Some(account.clone());
        spec.service_account_name = Some(account);
        let stored: ServiceAccount = serde_json::from_slice(found.json()).map_err(StatusError::internal_error)?;
        let mounts = spec.automount_service_account_token.or(stored.automount_service_account_token).unwrap_or(true);
        if mounts {
            token_volume::mount(spec);
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            spec.image_pull_secrets = stored.image_pull_secrets.filter(|secrets| !secrets.is_empty());
        }
        Ok(())
    }
}

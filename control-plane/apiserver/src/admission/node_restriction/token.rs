//! The tokens a node gets: those its pods mount, of the accounts they run as.

use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume},
    storage::v1::CSIDriver,
};
use serde::de::DeserializeOwned;
use skep_api::{field::quote, status::StatusError};

use super::{Admission, Request, runs_on};
use crate::authz;

/// The right to an audience that no volume of the pod asks for; the audience is the resource.
const VERB: &str = "request-serviceaccounts-token-audience";

impl Admission {
    pub(super) async fn node_token(&self, request: &Request<'_>) -> Result<(), StatusError> {
        let asked = request.incoming::<TokenRequest>()?;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let bound = asked.spec.bound_object_ref.as_ref();
        let bound = bound.map(|to| (text(&to.api_version), text(&to.kind), text(&to.name), text(&to.uid)));
        let (name, uid) = match bound {
            Some((version, kind, name, uid)) if version == "v1" && kind == "Pod" && !name.is_empty() => (name, uid),
            _ => return Err(request.forbidden("node requested token not bound to a pod")),
        };
        if uid.is_empty() {
            return Err(request.forbidden("node requested token with a pod binding without a uid"));
        }
        let namespace = request.attributes.scope.namespace.unwrap_or_default();
        let pod: Pod = self.stored(self.pods.as_ref(), "/registry/pods/", Some(namespace), &name, "pod").await?;
        request.demand(pod.metadata.uid.as_ref() == Some(&uid), || {
            format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            )
        })?;
        request.demand(runs_on(&pod, request.node), || {
            "node requested token bound to a pod scheduled on a different node".to_owned()
        })?;
        let audience = match asked.spec.audiences.as_slice() {
            [] => "",
            [one] => one,
            _ => return Err(request.forbidden("node may only request 0 or 1 audiences")),
        };
        let user = request.attributes.scope.user;
        let wanted = authz::Attributes::resource(user, VERB, "", audience).within(namespace).named(request.name());
        let may = self.mounts(&pod, namespace, audience) || self.authorizer.allows(&wanted);
        request.demand(may, || {
            let (audience, user) = (quote(audience), &user.name);
            format!("audience {audience} not found in pod spec volume, {user} is not authorized to request tokens for this audience")
        })
    }

    /// Whether a volume of the pod is there to hold tokens for an audience, or its driver is given them.
    fn mounts(&self, pod: &Pod, namespace: &str, audience: &str) -> bool {
        let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let sources = volumes().filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
        let mut tokens = sources.filter_map(|source| source.service_account_token.as_ref());
        if tokens.any(|token| token.audience.as_deref().unwrap_or_default() == audience) {
            return true;
        }
        let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
        volumes().filter_map(|volume| self.driver(volume, namespace, pod_name)).any(|name| {
            let driver = self.cached::<CSIDriver>("/registry/csidrivers/", &name);
            let requests = driver.and_then(|driver| driver.spec.token_requests).unwrap_or_default();
            requests.iter().any(|request| request.audience == audience)
        })
    }

    /// The CSI driver of a volume, that of the claim's volume where it has one.
    fn driver(&self, volume: &Volume, namespace: &str, pod: &str) -> Option<String> {
        if let Some(source) = &volume.csi {
            return Some(source.driver.clone());
        }
        let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => source.claim_name.clone(),
            (None, Some(_)) => format!("{pod}-{}", volume.name),
            (None, None) => return None,
        };
        let claim = format!("{namespace}/{claim}");
        let claim: PersistentVolumeClaim = self.cached("/registry/persistentvolumeclaims/", &claim)?;
        let volume: PersistentVolume = self.cached("/registry/persistentvolumes/", &claim.spec?.volume_name?)?;
        Some(volume.spec?.csi?.driver)
    }

    fn cached<T: DeserializeOwned>(&self, prefix: &str, name: &str) -> Option<T> {
        let found = self.storage.resource(prefix)?.get(&format!("{prefix}{name}"))?;
        serde_json::from_slice(found.json()).ok()
    }
}

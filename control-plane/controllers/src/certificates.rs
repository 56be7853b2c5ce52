//! CertificateSigningRequests: approved where a node asks for its own client certificate, signed once approved, and cleaned
//! up when nobody needs them any more.

mod approver;
mod cleaner;
mod signer;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::{Api, PostParams};
use skep_pki::SigningRequest;

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::error::{Context as _, Error};
use crate::meta::{self, ObjectKey};

const KUBE_APISERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";
const NODE_PREFIX: &str = "system:node:";
const NODE_GROUP: &str = "system:nodes";

/// The controller of certificate signing requests.
pub(crate) struct CertificateController {
    context: Context,
}

impl CertificateController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let informer = &context.informers.signing_requests;
        informer.on_change(move |delta| queue.add(ObjectKey::of(&delta.object().metadata)));
        Arc::new(Self { context })
    }

    fn api(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.context.client.clone())
    }

    fn took(&self, written: &CertificateSigningRequest) {
        self.context.informers.signing_requests.wrote(written);
    }
}

impl Reconciler for CertificateController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(request) = self.context.informers.signing_requests.by_key(key) else { return Ok(None) };
        if meta::is_deleting(&request.metadata) {
            return Ok(None);
        }
        let now = meta::now();
        if let Some(why) = cleaner::is_over(&request, now.0) {
            tracing::debug!(request = %key, why, "removing a certificate signing request");
            return match self.api().delete(&key.name, &kube::api::DeleteParams::default()).await {
                Ok(_) => Ok(None),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(error).context(|| format!("deleting certificate signing request {key}")),
            };
        }
        if !is(&request, "Approved") && !is(&request, "Denied") {
            if let Some(message) = approver::may_approve(&self.context.client, &request).await? {
                let mut approved = request.as_ref().clone();
                add_condition(&mut approved, "Approved", "AutoApproved", message);
                let params = PostParams::default();
                let written = self.api().replace_subresource("approval", &key.name, &params, &approved).await;
                self.took(&written.context(|| format!("approving certificate signing request {key}"))?);
                return Ok(None);
            }
        } else if is(&request, "Approved")
            && !is(&request, "Denied")
            && !is(&request, "Failed")
            && !has_certificate(&request)
            && let Some(authority) = &self.context.config.signing_ca
            && let Some(signed) = signer::sign(authority, &request)
        {
            let written = self.api().replace_status(&key.name, &PostParams::default(), &signed).await;
            self.took(&written.context(|| format!("signing certificate signing request {key}"))?);
            return Ok(None);
        }
        Ok(Some(cleaner::INTERVAL))
    }
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn is(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == kind)
}

fn has_certificate(request: &CertificateSigningRequest) -> bool {
    certificate(request).is_some_and(|certificate| !certificate.is_empty())
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    request.status.as_ref()?.certificate.as_ref().map(|certificate| certificate.0.as_slice())
}

fn add_condition(request: &mut CertificateSigningRequest, kind: &str, reason: &str, message: impl Into<String>) {
    let condition = CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        last_update_time: Some(meta::now()),
        ..CertificateSigningRequestCondition::default()
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
}

fn usages(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

/// Whether the usages are `all` of these, and else at most `key encipherment`.
fn has_usages(request: &CertificateSigningRequest, all: [&str; 2]) -> bool {
    let usages = usages(request);
    all.iter().all(|wanted| usages.iter().any(|usage| usage == wanted))
        && usages.iter().all(|usage| all.contains(&usage.as_str()) || usage == "key encipherment")
}

/// What keeps a request from being a node's for its client certificate.
fn kubelet_client_fault(request: &CertificateSigningRequest, asked: &SigningRequest) -> Option<&'static str> {
    if asked.organizations != [NODE_GROUP] {
        return Some("subject organization is not system:nodes");
    }
    if !asked.dns_names.is_empty() {
        return Some("DNS subjectAltNames are not allowed");
    }
    if !asked.addresses.is_empty() {
        return Some("IP subjectAltNames are not allowed");
    }
    if asked.has_other_names {
        return Some("URI and Email subjectAltNames are not allowed");
    }
    if !asked.common_name.starts_with(NODE_PREFIX) {
        return Some("subject common name does not begin with system:node:");
    }
    if !has_usages(request, ["client auth", "digital signature"]) {
        return Some(
            "usages did not match [client auth digital signature] or [client auth digital signature key encipherment]",
        );
    }
    None
}

/// What keeps a request from being a node's for its serving certificate.
fn kubelet_serving_fault(request: &CertificateSigningRequest, asked: &SigningRequest) -> Option<&'static str> {
    if asked.organizations != [NODE_GROUP] {
        return Some("subject organization is not system:nodes");
    }
    if asked.dns_names.is_empty() && asked.addresses.is_empty() {
        return Some("DNS or IP subjectAltName is required");
    }
    if asked.has_other_names {
        return Some("URI and Email subjectAltNames are not allowed");
    }
    if !asked.common_name.starts_with(NODE_PREFIX) {
        return Some("subject common name does not begin with system:node:");
    }
    if !has_usages(request, ["server auth", "digital signature"]) {
        return Some(
            "usages did not match [digital signature server auth] or [digital signature key encipherment server auth]",
        );
    }
    None
}

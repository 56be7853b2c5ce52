//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who decides on requests for certificates, and
//! what the signer of clients never signs.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use skep_api::status::StatusError;
use skep_pki::SigningRequest;

use super::{Admission, Attributes, Operation};
use crate::{
    authz,
    registry::object::Object,
    user::{MASTERS, UserInfo},
};

const GROUP: &str = "certificates.k8s.io";
const KUBE_APISERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

impl Admission {
    /// Judges a write of a request for a certificate.
    pub(super) fn certificate_request(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
    ) -> Result<(), StatusError> {
        let Some(request) = object.as_any().downcast_ref::<CertificateSigningRequest>() else { return Ok(()) };
        let user = attributes.scope.user;
        match (attributes.operation, attributes.subresource) {
            (Operation::Create, "") => restrict_subject(attributes, request),
            (Operation::Update, "approval") => {
                let signer = signer(attributes, request);
                if self.may(user, "approve", &signer) {
                    return Ok(());
                }
                let why = format!("user not permitted to approve requests with signerName {signer:?}");
                Err(StatusError::forbidden(attributes.info, attributes.name, why))
            }
            (Operation::Update, "status") => {
                let old = attributes.old.and_then(|old| old.as_any().downcast_ref::<CertificateSigningRequest>());
                let outcome = |request: &CertificateSigningRequest| {
                    let status = request.status.as_ref();
                    let failed = |kind: &str| kind == "Failed";
                    let failures = status.and_then(|status| status.conditions.as_ref()).map(|conditions| {
                        conditions.iter().filter(|condition| failed(&condition.type_)).cloned().collect::<Vec<_>>()
                    });
                    (status.and_then(|status| status.certificate.clone()), failures.unwrap_or_default())
                };
                if old.is_some_and(|old| outcome(old) == outcome(request)) {
                    return Ok(());
                }
                let signer = signer(attributes, request);
                if self.may(user, "sign", &signer) {
                    return Ok(());
                }
                let why = format!("user not permitted to sign requests with signerName {signer:?}");
                Err(StatusError::forbidden(attributes.info, attributes.name, why))
            }
            _ => Ok(()),
        }
    }

    /// Whether the user has a right to the signer, or to all of its domain.
    fn may(&self, user: &UserInfo, verb: &str, signer: &str) -> bool {
        let allowed =
            |name: &str| self.authorizer.allows(&authz::Attributes::resource(user, verb, GROUP, "signers").named(name));
        allowed(signer) || signer.split_once('/').is_some_and(|(domain, _)| allowed(&format!("{domain}/*")))
    }
}

/// The signer of the request as it is stored: an update cannot choose another.
fn signer(attributes: &Attributes<'_>, request: &CertificateSigningRequest) -> String {
    let old = attributes.old.and_then(|old| old.as_any().downcast_ref::<CertificateSigningRequest>());
    old.unwrap_or(request).spec.signer_name.clone()
}

fn restrict_subject(attributes: &Attributes<'_>, request: &CertificateSigningRequest) -> Result<(), StatusError> {
    let signer = &request.spec.signer_name;
    if signer != KUBE_APISERVER_CLIENT {
        return Ok(());
    }
    let asked = SigningRequest::from_pem("spec.request", &request.spec.request.0);
    if asked.is_ok_and(|asked| asked.organizations.iter().any(|group| group == MASTERS)) {
        let why = format!("use of {signer} signer with {MASTERS} group is not allowed");
        return Err(StatusError::forbidden(attributes.info, attributes.name, why));
    }
    Ok(())
}

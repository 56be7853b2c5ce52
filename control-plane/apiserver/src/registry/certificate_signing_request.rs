//! CertificateSigningRequests. Who asks is what the server saw, not what the body says.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use super::cell;
use super::checks;
use super::strategy::{Column, Context, Strategy, human_duration};
use super::table_info::info;

/// The strategy of certificate signing requests.
#[derive(Debug)]
pub(crate) struct CertificateSigningRequests;

type Request = CertificateSigningRequest;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::AGE,
    Column::new("SignerName", "string", "signerName indicates the requested signer, and is a qualified name."),
    Column::new(
        "Requestor",
        "string",
        "username contains the name of the user that created the CertificateSigningRequest.",
    ),
    Column::new(
        "RequestedDuration",
        "string",
        "expirationSeconds is the requested duration of validity of the issued certificate.",
    ),
    Column::new("Condition", "string", "conditions applied to the request."),
];
const MIN_SECONDS: i32 = 600;
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Strategy for CertificateSigningRequests {
    type Object = Request;

    fn info(&self) -> &'static ResourceInfo {
        info("certificates.k8s.io", "certificatesigningrequests")
    }

    fn prefix(&self) -> &'static str {
        "/registry/certificatesigningrequests/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::new("spec.signerName")]
    }

    fn prepare_for_create(&self, ctx: &Context<'_>, request: &mut Request) {
        let spec = &mut request.spec;
        spec.username = Some(ctx.user.name.clone());
        spec.groups = Some(ctx.user.groups.clone()).filter(|groups| !groups.is_empty());
        spec.uid = Some(ctx.user.uid.clone()).filter(|uid| !uid.is_empty());
        spec.extra = Some(ctx.user.extra.clone()).filter(|extra| !extra.is_empty());
        request.status = Some(CertificateSigningRequestStatus::default());
    }

    fn validate(&self, request: &Request) -> Errors {
        let mut errors = Errors::new();
        let spec = &request.spec;
        let path = Path::new("spec");
        if spec.usages.as_ref().is_none_or(Vec::is_empty) {
            errors.push(Error::required(&path.child("usages"), ""));
        }
        let list = path.child("usages");
        for (i, usage) in spec.usages.iter().flatten().enumerate() {
            if !USAGES.contains(&usage.as_str()) {
                errors.push(Error::not_supported(&list.index(i), usage, &USAGES));
            } else if spec.usages.iter().flatten().take(i).any(|earlier| earlier == usage) {
                errors.push(Error::duplicate(&list.index(i), usage));
            }
        }
        const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE REQUEST-----";
        if !spec.request.0.windows(BEGIN.len()).any(|part| part == BEGIN) {
            let why = "unable to parse csr: PEM block type must be CERTIFICATE REQUEST";
            errors.push(Error::invalid(&path.child("request"), &spec.request, why));
        }
        validate_signer(&spec.signer_name, &path.child("signerName"), &mut errors);
        if let Some(seconds) = spec.expiration_seconds.filter(|s| *s < MIN_SECONDS) {
            let why = format!("may not specify a duration less than {MIN_SECONDS} seconds (10 minutes)");
            errors.push(Error::invalid(&path.child("expirationSeconds"), seconds, why));
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, request: &mut Request, old: &Request) {
        request.spec.clone_from(&old.spec);
        request.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, ctx: &Context<'_>, request: &mut Request, old: &Request) {
        request.spec.clone_from(&old.spec);
        // Decisions are made through `approval` only.
        let is_decision = |c: &CertificateSigningRequestCondition| DECISIONS.contains(&c.type_.as_str());
        let decisions = conditions(old).iter().filter(|c| is_decision(c)).cloned();
        let mut all: Vec<_> = decisions.collect();
        all.extend(conditions(request).iter().filter(|c| !is_decision(c)).cloned());
        set_conditions(ctx.now, request, all, old);
    }

    fn validate_status_update(&self, request: &Request, old: &Request) -> Errors {
        let mut errors = validate_conditions(request);
        let certificate = |r: &Request| r.status.as_ref().and_then(|s| s.certificate.clone());
        if certificate(old).is_some() && certificate(request) != certificate(old) {
            let why = "updates may not modify existing status.certificate";
            errors.push(Error::forbidden(&Path::new("status.certificate"), why));
        }
        errors
    }

    fn prepare_for_approval(&self, ctx: &Context<'_>, request: &mut Request, old: &Request) {
        request.spec.clone_from(&old.spec);
        let all = conditions(request).to_vec();
        let certificate = old.status.as_ref().and_then(|s| s.certificate.clone());
        request.status.get_or_insert_default().certificate = certificate;
        set_conditions(ctx.now, request, all, old);
    }

    fn validate_approval(&self, request: &Request, old: &Request) -> Errors {
        let mut errors = validate_conditions(request);
        for kind in ["Approved", "Denied", "Failed"] {
            let of = |r: &Request| conditions(r).iter().any(|c| c.type_ == kind);
            if of(old) && !of(request) {
                let why = format!("updates may not remove a condition of type {kind:?}");
                errors.push(Error::forbidden(&Path::new("status.conditions"), why));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, request: &Request, now: Timestamp) -> Vec<Value> {
        let seconds = request.spec.expiration_seconds.map(|s| human_duration(i64::from(s)));
        vec![
            cell::name(&request.metadata),
            cell::age(&request.metadata, now),
            json!(if request.spec.signer_name.is_empty() { "<none>" } else { &request.spec.signer_name }),
            cell::text(&request.spec.username),
            json!(seconds.unwrap_or_else(|| "<none>".to_owned())),
            json!(state(request)),
        ]
    }
}

fn conditions(request: &Request) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// Sets conditions and the times the client left out.
fn set_conditions(
    now: Timestamp,
    request: &mut Request,
    mut all: Vec<CertificateSigningRequestCondition>,
    old: &Request,
) {
    for condition in &mut all {
        condition.last_update_time.get_or_insert(Time(now));
        let before = conditions(old).iter().find(|c| c.type_ == condition.type_ && c.status == condition.status);
        let since = before.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(now));
        condition.last_transition_time.get_or_insert(since);
    }
    request.status.get_or_insert_default().conditions = (!all.is_empty()).then_some(all);
}

fn validate_conditions(request: &Request) -> Errors {
    let mut errors = Errors::new();
    let list = Path::new("status.conditions");
    let all = conditions(request);
    for (i, condition) in all.iter().enumerate() {
        let path = list.index(i);
        checks::required(&mut errors, &path.child("type"), &condition.type_);
        let status = condition.status.as_str();
        if DECISIONS.contains(&condition.type_.as_str()) || condition.type_ == "Failed" {
            if status.is_empty() {
                errors.push(Error::required(&path.child("status"), ""));
            } else if status != "True" {
                errors.push(Error::not_supported(&path.child("status"), status, &["True"]));
            }
        }
        if all[..i].iter().any(|earlier| earlier.type_ == condition.type_) {
            errors.push(Error::duplicate(&path.child("type"), &condition.type_));
        }
        let other = DECISIONS.iter().find(|d| **d != condition.type_);
        if DECISIONS.contains(&condition.type_.as_str())
            && let Some(other) = other
            && all[..i].iter().any(|earlier| earlier.type_ == **other)
        {
            let why = format!("{} and {other} conditions are mutually exclusive", condition.type_);
            errors.push(Error::invalid(&path.child("type"), &condition.type_, why));
        }
    }
    errors
}

/// `example.com/signer`: a domain of several labels and a path of one segment.
fn validate_signer(signer: &str, path: &Path<'_>, errors: &mut Errors) {
    const WHY: &str = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    if signer.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    match signer.split_once('/') {
        Some((domain, rest)) if !rest.contains('/') => {
            checks::name(errors, path, domain, name::dns1123_subdomain);
            if !domain.contains('.') {
                let why = "should be a domain with at least two segments separated by dots";
                errors.push(Error::invalid(path, signer, why));
            }
            checks::name(errors, path, rest, name::dns1123_subdomain);
        }
        _ => errors.push(Error::invalid(path, signer, WHY)),
    }
}

/// `Approved,Issued`.
fn state(request: &Request) -> String {
    let has = |kind: &str| conditions(request).iter().any(|c| c.type_ == kind);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty()) {
        state.push_str(",Issued");
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::checks::text;
    use crate::user::UserInfo;

    fn request() -> Request {
        // "-----BEGIN CERTIFICATE REQUEST-----"
        let pem = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=";
        serde_json::from_value(json!({"metadata": {"name": "r"}, "spec": {"request": pem, "username": "somebody",
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}}))
        .unwrap()
    }

    #[test]
    fn the_server_says_who_asks_and_only_approval_decides() {
        let user = UserInfo::master("ann");
        let ctx = Context { user: &user, namespace: None, now: Timestamp::UNIX_EPOCH, dry_run: false };
        let mut old = request();
        CertificateSigningRequests.prepare_for_create(&ctx, &mut old);
        assert_eq!(text(&old.spec.username), "ann");
        assert_eq!(CertificateSigningRequests.validate(&old), []);
        let mut new = old.clone();
        let approved = json!([{"type": "Approved", "status": "True"}]);
        new.status.as_mut().unwrap().conditions = serde_json::from_value(approved).unwrap();
        let mut by_status = new.clone();
        CertificateSigningRequests.prepare_for_status_update(&ctx, &mut by_status, &old);
        assert_eq!(state(&by_status), "Pending");
        CertificateSigningRequests.prepare_for_approval(&ctx, &mut new, &old);
        assert_eq!((state(&new).as_str(), conditions(&new)[0].last_update_time.is_some()), ("Approved", true));
        assert_eq!(
            CertificateSigningRequests.validate_approval(&old, &new)[0].to_string(),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
        );
    }

    #[test]
    fn signers_are_domains_with_a_path() {
        let mut bad = request();
        bad.spec.signer_name = "signer".to_owned();
        assert_eq!(
            CertificateSigningRequests.validate(&bad)[0].to_string(),
            "spec.signerName: Invalid value: \"signer\": must be a fully qualified domain and path of the form \
             'example.com/signer-name'"
        );
    }
}

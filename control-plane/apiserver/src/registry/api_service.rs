//! APIServices: which server answers for a group and version.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition, APIServiceSpec, APIServiceStatus,
};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name::{dns1035_label, dns1123_subdomain};
use skep_api::resource::ResourceInfo;

use crate::registry::cell;
use crate::registry::checks::{one_of, required, text};
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;

/// The group's name.
pub(crate) const GROUP: &str = "apiregistration.k8s.io";
/// The plural name.
pub(crate) const PLURAL: &str = "apiservices";
/// The condition that says whether the server answers.
pub(crate) const AVAILABLE: &str = "Available";

/// The strategy of APIServices.
#[derive(Debug)]
pub(crate) struct ApiServices;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Service", "string", "The reference to the service that hosts this API endpoint."),
    Column::new("Available", "string", "Whether this service is available."),
    Column::AGE,
];
const HTTPS: i32 = 443;

impl Strategy for ApiServices {
    type Object = APIService;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, PLURAL)
    }

    fn prefix(&self) -> &'static str {
        "/registry/apiregistration.k8s.io/apiservices/"
    }

    fn default(&self, object: &mut APIService) {
        if let Some(service) = object.spec.as_mut().and_then(|spec| spec.service.as_mut()) {
            service.port.get_or_insert(HTTPS);
        }
    }

    fn prepare_for_create(&self, ctx: &Context<'_>, object: &mut APIService) {
        let local = object.spec.as_ref().is_none_or(|spec| spec.service.is_none());
        let conditions = local.then(|| vec![local_condition(ctx.now)]);
        object.status = Some(APIServiceStatus { conditions });
    }

    fn validate(&self, object: &APIService) -> Errors {
        let mut errors = Errors::new();
        let spec = object.spec.clone().unwrap_or_default();
        let (group, version) = (text(&spec.group), text(&spec.version));
        let name = format!("{version}.{group}");
        if text(&object.metadata.name) != name {
            let why = format!("must be `spec.version+\".\"+spec.group`: {name:?}");
            errors.push(Error::invalid(&Path::new("metadata.name"), text(&object.metadata.name), why));
        }
        let path = Path::new("spec");
        if group.is_empty() && version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.push(Error::required(&path.child("group"), why));
        }
        if !group.is_empty() {
            errors.extend(
                dns1123_subdomain(group).into_iter().map(|why| Error::invalid(&path.child("group"), group, why)),
            );
        }
        errors
            .extend(dns1035_label(version).into_iter().map(|why| Error::invalid(&path.child("version"), version, why)));
        let priorities = [
            ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
            ("versionPriority", spec.version_priority, 1000),
        ];
        for (field, value, most) in priorities {
            if value <= 0 || value > most {
                let why = format!("must be positive and less than {most}");
                errors.push(Error::invalid(&path.child(field), value, why));
            }
        }
        validate_service(&spec, &path, &mut errors);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, object: &mut APIService, old: &APIService) {
        object.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, object: &mut APIService, old: &APIService) {
        object.spec.clone_from(&old.spec);
        object.metadata.labels.clone_from(&old.metadata.labels);
        object.metadata.annotations.clone_from(&old.metadata.annotations);
        object.metadata.finalizers.clone_from(&old.metadata.finalizers);
        object.metadata.owner_references.clone_from(&old.metadata.owner_references);
    }

    fn validate_status_update(&self, object: &APIService, _old: &APIService) -> Errors {
        let mut errors = Errors::new();
        let list = Path::new("status.conditions");
        let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        for (index, condition) in conditions.iter().enumerate() {
            let at = list.index(index);
            one_of(&mut errors, &at.child("status"), &condition.status, &["True", "False", "Unknown"]);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &APIService, now: Timestamp) -> Vec<Value> {
        let service = match object.spec.as_ref().and_then(|spec| spec.service.as_ref()) {
            Some(service) => format!("{}/{}", text(&service.namespace), text(&service.name)),
            None => "Local".to_owned(),
        };
        let available = match available(object) {
            Some(condition) if condition.status == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", condition.status, text(&condition.reason)),
            None => "Unknown".to_owned(),
        };
        vec![cell::name(&object.metadata), json!(service), json!(available), cell::age(&object.metadata, now)]
    }
}

fn validate_service(spec: &APIServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let bundle = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    let skip = path.child("insecureSkipTLSVerify");
    let skips = spec.insecure_skip_tls_verify == Some(true);
    let Some(service) = &spec.service else {
        if bundle > 0 {
            let why = "local APIServices may not have a caBundle";
            errors.push(Error::invalid(&path.child("caBundle"), format!("{bundle} bytes"), why));
        }
        if skips {
            errors.push(Error::invalid(&skip, true, "local APIServices may not have insecureSkipTLSVerify"));
        }
        return;
    };
    required(errors, &path.child("service.namespace"), text(&service.namespace));
    required(errors, &path.child("service.name"), text(&service.name));
    let port = service.port.unwrap_or(HTTPS);
    if !(1..=65535).contains(&port) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(Error::invalid(&path.child("service.port"), port, why));
    }
    if skips && bundle > 0 {
        errors.push(Error::invalid(&skip, true, "may not be true if caBundle is present"));
    }
}

/// What is said of a group and version this server answers for itself.
pub(crate) fn local_condition(now: Timestamp) -> APIServiceCondition {
    APIServiceCondition {
        type_: AVAILABLE.to_owned(),
        status: "True".to_owned(),
        reason: Some("Local".to_owned()),
        message: Some("Local APIServices are always available".to_owned()),
        last_transition_time: Some(Time(now)),
    }
}

/// The condition that says whether the server answers.
pub(crate) fn available(object: &APIService) -> Option<&APIServiceCondition> {
    let conditions = object.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == AVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(object: Value) -> Vec<String> {
        let mut object: APIService = serde_json::from_value(object).unwrap();
        ApiServices.default(&mut object);
        ApiServices.validate(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_one_passes_and_the_port_has_a_default() {
        let object = json!({"metadata": {"name": "v1.a.example"}, "spec": {
            "group": "a.example", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
            "service": {"namespace": "n", "name": "s"}, "insecureSkipTLSVerify": true,
        }});
        assert_eq!(errors(object), [""; 0]);
    }

    #[test]
    fn bad_ones_are_refused_in_upstreams_words() {
        let object = json!({"metadata": {"name": "x"}, "spec": {
            "group": "a.example", "version": "v1", "groupPriorityMinimum": 0, "versionPriority": 2000,
            "caBundle": "YQ==",
        }});
        let found = errors(object);
        for part in [
            "must be `spec.version+\".\"+spec.group`: \"v1.a.example\"",
            "must be positive and less than 20000",
            "must be positive and less than 1000",
            "local APIServices may not have a caBundle",
        ] {
            assert!(found.iter().any(|error| error.contains(part)), "{part}: {found:?}");
        }
    }
}

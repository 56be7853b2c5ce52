//! Objects in which every field of the table is set.

use std::ptr;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    decode, encode,
    schema::{self, Message, Shape, Special, Type},
};

/// A JSON object with all fields of the message; a message within itself is left out.
fn full(message: &'static Message, above: &mut Vec<&'static Message>) -> Option<Value> {
    if above.iter().any(|other| ptr::eq(*other, message)) {
        return None;
    }
    above.push(message);
    let value = match message.special {
        Special::None => {
            let mut object = Map::new();
            fields(message, above, &mut object);
            Some(Value::Object(object))
        }
        Special::Time => Some(json!("2026-01-02T03:04:05Z")),
        Special::MicroTime => Some(json!("2026-01-02T03:04:05.000006Z")),
        Special::Duration => Some(json!("1m0s")),
        Special::Quantity => Some(json!("1")),
        Special::IntOrString => Some(json!(1)),
        Special::Raw => Some(json!({"a": [1, null]})),
        Special::Items => Some(json!(["x", ""])),
        Special::OrBool => Some(json!(false)),
        Special::OrArray => Some(json!([{"type": "x"}])),
        Special::OrStrings => Some(json!(["x"])),
    };
    above.pop();
    value
}

fn fields(message: &'static Message, above: &mut Vec<&'static Message>, object: &mut Map<String, Value>) {
    for field in message.fields() {
        if field.is_inline() {
            fields(field.message(), above, object);
            continue;
        }
        let value = match field.kind {
            Type::String => Some(json!("x")),
            Type::Bool => Some(json!(true)),
            Type::Int32 | Type::Int64 => Some(json!(1)),
            Type::Double => Some(json!(1.5)),
            Type::Bytes => Some(json!("AA==")),
            Type::Message => full(field.message(), above),
        };
        let Some(value) = value else { continue };
        let value = match field.shape {
            Shape::One => value,
            Shape::Many => json!([value]),
            Shape::Map => json!({"k": value}),
        };
        assert!(object.insert(field.name().to_owned(), value).is_none(), "{} is there twice", field.name());
    }
}

fn full_object(api_version: &str, kind: &str, message: &'static Message) -> Value {
    let mut object = full(message, &mut Vec::new()).unwrap();
    object["kind"] = kind.into();
    object["apiVersion"] = api_version.into();
    object
}

#[test]
fn every_field_of_every_kind_survives() {
    let mut count = 0;
    for (version, kind, message) in schema::kinds() {
        let version = if version == "*" { "v1" } else { version };
        if (version, kind) == ("v1", "List") {
            continue;
        }
        let object = full_object(version, kind, message);
        let bytes = encode(&object).unwrap();
        assert_eq!(decode(&bytes).unwrap().1, object, "{version} {kind}");
        count += 1;
    }
    assert!(count > 200);
}

/// The type of the OpenAPI document knows every field of the table, by the same name, and no other.
fn same_as<T: k8s_openapi::Resource + Serialize + DeserializeOwned>() {
    let message = schema::find(T::API_VERSION, T::KIND).unwrap();
    let object = full_object(T::API_VERSION, T::KIND, message);
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{}: {error}", T::KIND));
    let typed = serde_json::to_value(typed).unwrap();
    let mut differences = Vec::new();
    compare("", &object, &typed, &mut differences);
    assert!(differences.is_empty(), "{}: {differences:#?}", T::KIND);
}

fn compare(path: &str, ours: &Value, theirs: &Value, differences: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, value) in ours {
                match theirs.get(name) {
                    Some(other) => compare(&format!("{path}.{name}"), value, other, differences),
                    None => differences.push(format!("{path}.{name} is not in OpenAPI")),
                }
            }
            // The claims in a StatefulSet are kinds by themselves elsewhere.
            let is_kind = |name: &str| path.ends_with("[]") && matches!(name, "apiVersion" | "kind");
            for name in theirs.keys().filter(|name| !ours.contains_key(*name) && !is_kind(name)) {
                differences.push(format!("{path}.{name} is not in the table"));
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (ours, theirs) in ours.iter().zip(theirs) {
                compare(&format!("{path}[]"), ours, theirs, differences);
            }
        }
        _ if ours == theirs => {}
        _ => differences.push(format!("{path}: {ours} and {theirs}")),
    }
}

macro_rules! same {
    ($($module:ident :: $version:ident :: { $($kind:ident),* $(,)? })*) => {
        $($(same_as::<k8s_openapi::api::$module::$version::$kind>();)*)*
    };
}

#[test]
fn the_table_says_what_openapi_says() {
    same! {
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
            ValidatingWebhookConfiguration,
        }
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet}
        authentication::v1::{SelfSubjectReview, TokenReview}
        authorization::v1::{LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview}
        autoscaling::v1::{HorizontalPodAutoscaler, Scale}
        autoscaling::v2::{HorizontalPodAutoscaler}
        batch::v1::{CronJob, Job}
        certificates::v1::{CertificateSigningRequest}
        coordination::v1::{Lease}
        core::v1::{
            Binding, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
            PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
        }
        discovery::v1::{EndpointSlice}
        events::v1::{Event}
        flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration}
        networking::v1::{IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR}
        node::v1::{RuntimeClass}
        policy::v1::{Eviction, PodDisruptionBudget}
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding}
        resource::v1::{DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice}
        scheduling::v1::{PriorityClass}
        storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass}
    }
    same_as::<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>();
    same_as::<k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService>();
    same_as::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>();
}

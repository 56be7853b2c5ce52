use skep_api::resource::built_in;

use super::*;

fn field(kind: (&str, &str, &str), path: &[&str]) -> Field {
    let of = Type::of(kind.0, kind.1, kind.2).unwrap();
    of.walk(path.iter().copied()).unwrap_or_else(|| panic!("{kind:?} has no {path:?}"))
}

const POD: (&str, &str, &str) = ("", "v1", "Pod");
const SERVICE: (&str, &str, &str) = ("", "v1", "Service");
const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

#[test]
fn every_built_in_resource_and_its_subresources_have_a_type() {
    for resource in built_in() {
        let (group, version, kind) = resource.gvk();
        assert!(Type::of(group, version, kind).is_some(), "{kind}");
        assert!(Type::of(group, version, &resource.list_kind()).is_some(), "{kind}");
        for subresource in resource.subresources.iter().filter(|s| !s.kind.ends_with("Options")) {
            let (group, version) = if subresource.version.is_empty() {
                (group, version)
            } else {
                (&*subresource.group, &*subresource.version)
            };
            assert!(Type::of(group, version, &subresource.kind).is_some(), "{kind}/{}", subresource.name);
        }
    }
}

#[test]
fn every_group_served_by_default_has_types() {
    for (group, version, kind) in [
        ("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy"),
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        ("apiregistration.k8s.io", "v1", "APIService"),
        ("apps", "v1", "StatefulSet"),
        ("authentication.k8s.io", "v1", "TokenReview"),
        ("authentication.k8s.io", "v1", "TokenRequest"),
        ("authorization.k8s.io", "v1", "SubjectAccessReview"),
        ("autoscaling", "v1", "HorizontalPodAutoscaler"),
        ("autoscaling", "v2", "HorizontalPodAutoscaler"),
        ("batch", "v1", "CronJob"),
        ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
        ("coordination.k8s.io", "v1", "Lease"),
        ("discovery.k8s.io", "v1", "EndpointSlice"),
        ("events.k8s.io", "v1", "Event"),
        ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema"),
        ("networking.k8s.io", "v1", "ServiceCIDR"),
        ("node.k8s.io", "v1", "RuntimeClass"),
        ("policy", "v1", "PodDisruptionBudget"),
        ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
        ("resource.k8s.io", "v1", "ResourceClaim"),
        ("scheduling.k8s.io", "v1", "PriorityClass"),
        ("storage.k8s.io", "v1", "VolumeAttributesClass"),
    ] {
        assert!(Type::of(group, version, kind).is_some(), "{group}/{version} {kind}");
    }
}

#[test]
fn tables_are_sorted_and_names_are_found_again() {
    for of in all() {
        assert_eq!(Type::named(of.name()), Some(of));
        for field in of.fields() {
            assert_eq!(of.field(field.name()), Some(field), "{of:?}");
        }
    }
    for ((group, version, kind), of) in kinds() {
        assert_eq!(Type::of(group, version, kind), Some(of));
        assert!(of.group_version_kinds().any(|found| found == (group, version, kind)));
    }
    assert_eq!(Type::of("", "v1", "Nothing"), None);
    assert_eq!(Type::named("Pod"), None);
}

#[test]
fn paths_lead_through_lists_maps_and_named_types() {
    assert_eq!(field(POD, &["spec", "containers", "ports", "containerPort"]).shape(), Shape::Integer("int32"));
    let limits = field(DEPLOYMENT, &["spec", "template", "spec", "containers", "resources", "limits"]).shape();
    assert!(matches!(limits, Shape::Map(values) if values.shape().resolved() == Shape::Quantity));
    assert_eq!(field(POD, &["metadata", "creationTimestamp"]).shape().resolved(), Shape::String("date-time"));
    assert_eq!(field(SERVICE, &["spec", "ports", "targetPort"]).shape().resolved(), Shape::IntOrString);
    let crd = ("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let deep = ["spec", "versions", "schema", "openAPIV3Schema", "properties", "properties", "default"];
    assert_eq!(field(crd, &deep).shape().resolved(), Shape::Any);
    let pod = Type::of("", "v1", "Pod").unwrap();
    assert_eq!(pod.walk(["spec", "nothing"]), None);
    assert_eq!(pod.walk(["spec", "nodeName", "deeper"]), None);
    assert_eq!(pod.walk([]), None);
}

#[test]
fn lists_know_their_keys() {
    for (kind, path, keys) in [
        (POD, &["spec", "containers"][..], &["name"][..]),
        (POD, &["spec", "containers", "ports"], &["containerPort", "protocol"]),
        (POD, &["spec", "containers", "env"], &["name"]),
        (POD, &["spec", "topologySpreadConstraints"], &["topologyKey", "whenUnsatisfiable"]),
        (POD, &["status", "conditions"], &["type"]),
        (SERVICE, &["spec", "ports"], &["port", "protocol"]),
        (SERVICE, &["metadata", "ownerReferences"], &["uid"]),
        (("resource.k8s.io", "v1", "ResourceClaim"), &["status", "devices"], &["driver", "device", "pool", "shareID"]),
    ] {
        assert_eq!(field(kind, path).list_type(), Some(ListType::Map(keys)), "{path:?}");
    }
    assert_eq!(field(POD, &["metadata", "finalizers"]).list_type(), Some(ListType::Set));
    assert_eq!(field(POD, &["spec", "tolerations"]).list_type(), Some(ListType::Atomic));
    assert_eq!(field(POD, &["status", "hostIPs"]).list_type(), Some(ListType::Atomic));
    assert!(field(SERVICE, &["spec", "selector"]).is_atomic_map());
    assert!(field(DEPLOYMENT, &["spec", "selector"]).is_atomic_map());
    assert!(!field(POD, &["metadata", "labels"]).is_atomic_map());
}

#[test]
fn list_keys_are_fields_of_the_items() {
    for of in all() {
        for field in of.fields() {
            let keys = match field.list_type() {
                Some(ListType::Map(keys)) => keys,
                _ => &[],
            };
            for key in keys.iter().copied().chain(field.patch_merge_key()) {
                assert!(matches!(field.shape(), Shape::List(_)), "{of:?} {field:?}");
                let item = field.shape().inner_type().unwrap_or_else(|| panic!("{of:?} {field:?}"));
                let key = item.field(key).unwrap_or_else(|| panic!("{of:?} {field:?} has no {key}"));
                // A key that may be left out needs a default, for server-side apply to tell items apart.
                let told_apart =
                    key.is_required() || key.default().is_some() || field.list_type() == Some(ListType::Atomic);
                if !told_apart {
                    let known = ["shareID", "name", "type", "whenUnsatisfiable", "protocol"];
                    assert!(known.contains(&key.name()), "{of:?} {field:?} {key:?}");
                }
            }
            if field.list_type().is_some() {
                assert!(matches!(field.shape(), Shape::List(_)), "{of:?} {field:?}");
            }
        }
    }
}

#[test]
fn declared_defaults_are_json_and_required_fields_are_known() {
    for of in all() {
        for default in of.fields().filter_map(Field::default) {
            serde_json::from_str::<serde_json::Value>(default).unwrap();
        }
    }
    assert_eq!(field(SERVICE, &["spec", "ports", "protocol"]).default(), Some("\"TCP\""));
    assert!(field(SERVICE, &["spec", "ports", "port"]).is_required());
    assert!(!field(POD, &["metadata"]).is_required());
}

#[test]
fn strategies_of_strategic_merge_are_known() {
    let strategy = field(DEPLOYMENT, &["spec", "strategy"]);
    assert_eq!((strategy.patch_strategy(), strategy.patch_merge_key()), (Some("retainKeys"), None));
    let volumes = field(POD, &["spec", "volumes"]);
    assert_eq!((volumes.patch_strategy(), volumes.patch_merge_key()), (Some("merge,retainKeys"), Some("name")));
    assert_eq!(field(POD, &["spec", "tolerations"]).patch_strategy(), None);
    let ports = field(SERVICE, &["spec", "ports"]);
    assert_eq!((ports.patch_strategy(), ports.patch_merge_key()), (Some("merge"), Some("port")));
}

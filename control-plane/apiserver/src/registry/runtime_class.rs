//! RuntimeClasses.

use jiff::Timestamp;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::{Value, json};
use skep_api::field::{Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_api::{meta, name};

use super::cell;
use super::checks::{self, canonical, immutable};
use super::strategy::{Column, Strategy};
use super::table_info::info;

/// The strategy of runtime classes.
#[derive(Debug)]
pub(crate) struct RuntimeClasses;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Handler",
        "string",
        "handler specifies the underlying runtime and configuration that the CRI implementation will use to handle pods \
         of this class.",
    ),
    Column::AGE,
];

impl Strategy for RuntimeClasses {
    type Object = RuntimeClass;

    fn info(&self) -> &'static ResourceInfo {
        info("node.k8s.io", "runtimeclasses")
    }

    fn prefix(&self) -> &'static str {
        "/registry/runtimeclasses/"
    }

    fn default(&self, class: &mut RuntimeClass) {
        if let Some(overhead) = &mut class.overhead {
            canonical(&mut overhead.pod_fixed);
        }
    }

    fn validate(&self, class: &RuntimeClass) -> Errors {
        let mut errors = Errors::new();
        checks::name(&mut errors, &Path::new("handler"), &class.handler, name::dns1123_label);
        let path = Path::new("overhead.podFixed");
        for (resource, quantity) in class.overhead.iter().flat_map(|o| o.pod_fixed.iter().flatten()) {
            checks::quantity(&mut errors, &path.key(resource), quantity);
        }
        if let Some(scheduling) = &class.scheduling {
            let path = Path::new("scheduling");
            if let Some(labels) = &scheduling.node_selector {
                meta::validate_labels(labels, &path.child("nodeSelector"), &mut errors);
            }
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            super::pod_template::validate_tolerations(tolerations, &path.child("tolerations"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, class: &RuntimeClass, old: &RuntimeClass) -> Errors {
        let mut errors = Errors::new();
        immutable(&mut errors, &Path::new("handler"), &class.handler, &old.handler);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![cell::name(&class.metadata), json!(class.handler), cell::age(&class.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_a_label_and_stays() {
        let class = |handler: &str| serde_json::from_value::<RuntimeClass>(json!({"handler": handler})).unwrap();
        assert_eq!(RuntimeClasses.validate(&class("runc")), []);
        assert_eq!(RuntimeClasses.validate(&class("Run C")).len(), 1);
        assert_eq!(
            RuntimeClasses.validate_update(&class("b"), &class("a"))[0].to_string(),
            "handler: Invalid value: \"b\": field is immutable"
        );
    }
}

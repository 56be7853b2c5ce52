//! PodTemplates, the resource.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodTemplate, PodTemplateSpec};
use serde_json::{Value, json};
use skep_api::field::{Errors, Path};
use skep_api::resource::ResourceInfo;

use crate::registry::checks::labels_text;
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;
use crate::registry::{cell, workload};

/// The strategy of pod templates.
#[derive(Debug)]
pub(crate) struct PodTemplates;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Containers", "string", "Names of each container in the template."),
    Column::new("Images", "string", "Images referenced by each container in the template."),
    Column::new("Pod Labels", "string", "The labels for the pod template."),
];

impl Strategy for PodTemplates {
    type Object = PodTemplate;

    fn info(&self) -> &'static ResourceInfo {
        info("", "podtemplates")
    }

    fn prefix(&self) -> &'static str {
        "/registry/podtemplates/"
    }

    fn default(&self, template: &mut PodTemplate) {
        workload::set_defaults(template.template.get_or_insert_default());
    }

    fn validate(&self, template: &PodTemplate) -> Errors {
        let empty = PodTemplateSpec::default();
        super::validate_template(template.template.as_ref().unwrap_or(&empty), &Path::new("template"))
    }

    fn bumps_generation(&self, template: &PodTemplate, old: &PodTemplate) -> bool {
        template.template != old.template
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, template: &PodTemplate, _now: Timestamp) -> Vec<Value> {
        let (containers, images) = workload::container_cells(template.template.as_ref());
        let labels = template.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
        vec![cell::name(&template.metadata), json!(containers), json!(images), json!(labels_text(labels))]
    }
}

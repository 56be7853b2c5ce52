//! VolumeAttachments.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentStatus};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::{GROUP, validate_driver};
use crate::registry::cell;
use crate::registry::checks::{immutable, required, text};
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;

/// The strategy of volume attachments.
#[derive(Debug)]
pub(crate) struct VolumeAttachments;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Attacher",
        "string",
        "attacher indicates the name of the volume driver that MUST handle this request.",
    ),
    Column::new("PV", "string", "persistentVolumeName represents the name of the persistent volume to attach."),
    Column::new("Node", "string", "nodeName represents the node that the volume should be attached to."),
    Column::new("Attached", "boolean", "attached indicates the volume is successfully attached."),
    Column::AGE,
];

impl Strategy for VolumeAttachments {
    type Object = VolumeAttachment;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "volumeattachments")
    }

    fn prefix(&self) -> &'static str {
        "/registry/volumeattachments/"
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, attachment: &mut VolumeAttachment) {
        attachment.status = Some(VolumeAttachmentStatus::default());
    }

    fn validate(&self, attachment: &VolumeAttachment) -> Errors {
        let mut errors = Errors::new();
        let spec = &attachment.spec;
        validate_driver(&spec.attacher, &Path::new("spec.attacher"), &mut errors);
        let path = Path::new("spec.source");
        match (&spec.source.inline_volume_spec, text(&spec.source.persistent_volume_name)) {
            (None, "") => {
                errors.push(Error::required(
                    &path,
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ));
            }
            (Some(_), name) if !name.is_empty() => {
                let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                errors.push(Error::forbidden(&path, why));
            }
            _ => {}
        }
        required(&mut errors, &Path::new("spec.nodeName"), &spec.node_name);
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, attachment: &mut VolumeAttachment, old: &VolumeAttachment) {
        attachment.status.clone_from(&old.status);
    }

    fn validate_update(&self, attachment: &VolumeAttachment, old: &VolumeAttachment) -> Errors {
        let mut errors = Errors::new();
        immutable(&mut errors, &Path::new("spec"), &attachment.spec, &old.spec);
        errors
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, attachment: &mut VolumeAttachment, old: &VolumeAttachment) {
        attachment.spec.clone_from(&old.spec);
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, attachment: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
        vec![
            cell::name(&attachment.metadata),
            json!(attachment.spec.attacher),
            cell::text(&attachment.spec.source.persistent_volume_name),
            json!(attachment.spec.node_name),
            json!(attachment.status.as_ref().is_some_and(|s| s.attached)),
            cell::age(&attachment.metadata, now),
        ]
    }
}

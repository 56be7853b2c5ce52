//! Namespaces.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec, NamespaceStatus};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name::{self, Validator};
use skep_api::resource::ResourceInfo;
use skep_api::status::StatusError;
use skep_storage::SelectableField;

use super::checks::{self, text};
use super::strategy::{Column, Context, Strategy, age};
use super::table_info::info;

/// The strategy of namespaces.
#[derive(Debug)]
pub(crate) struct Namespaces;

/// Every namespace carries its name as a label, for selectors.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Keeps a namespace until the namespace controller has emptied it.
const FINALIZER: &str = "kubernetes";
/// Namespaces a cluster cannot be without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

const COLUMNS: &[Column] = &[Column::NAME, Column::new("Status", "string", "The status of the namespace"), Column::AGE];

impl Strategy for Namespaces {
    type Object = Namespace;

    fn info(&self) -> &'static ResourceInfo {
        info("", "namespaces")
    }

    fn prefix(&self) -> &'static str {
        "/registry/namespaces/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::new("status.phase")]
    }

    fn name_validator(&self) -> Validator {
        name::dns1123_label
    }

    fn default(&self, namespace: &mut Namespace) {
        label_with_name(namespace);
        if let Some(status) = &mut namespace.status
            && text(&status.phase).is_empty()
        {
            status.phase = Some("Active".to_owned());
        }
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, namespace: &mut Namespace) {
        label_with_name(namespace);
        namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), conditions: None });
        let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    fn validate(&self, namespace: &Namespace) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("spec.finalizers");
        for (i, finalizer) in namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).enumerate() {
            let at = path.index(i);
            checks::name(&mut errors, &at, finalizer, name::qualified_name);
            if !finalizer.contains('/') && finalizer != FINALIZER {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(Error::invalid(&at, finalizer, why));
            }
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, namespace: &mut Namespace, old: &Namespace) {
        namespace.spec.clone_from(&old.spec);
        namespace.status.clone_from(&old.status);
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, namespace: &mut Namespace, old: &Namespace) {
        namespace.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, namespace: &Namespace, _old: &Namespace) -> Errors {
        let phase = phase(namespace);
        let path = Path::new("status.phase");
        match (namespace.metadata.deletion_timestamp.is_some(), phase) {
            (false, "Active") | (true, "Terminating") => vec![],
            (false, _) => {
                vec![Error::invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty")]
            }
            (true, _) => {
                vec![Error::invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")]
            }
        }
    }

    fn prepare_for_finalize(&self, _ctx: &Context<'_>, namespace: &mut Namespace, old: &Namespace) {
        namespace.status.clone_from(&old.status);
    }

    fn check_delete(&self, namespace: &Namespace) -> Result<(), StatusError> {
        let name = text(&namespace.metadata.name);
        if IMMORTAL.contains(&name) {
            return Err(StatusError::forbidden(self.info(), name, "this namespace may not be deleted"));
        }
        Ok(())
    }

    fn prepare_for_deletion(&self, namespace: &mut Namespace) {
        namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
    }

    fn has_own_finalizers(&self, namespace: &Namespace) -> bool {
        let finalizers = namespace.spec.as_ref().and_then(|s: &NamespaceSpec| s.finalizers.as_ref());
        finalizers.is_some_and(|f| !f.is_empty())
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, namespace: &Namespace, now: Timestamp) -> Vec<Value> {
        vec![
            json!(text(&namespace.metadata.name)),
            json!(phase(namespace)),
            json!(age(namespace.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        ]
    }
}

fn phase(namespace: &Namespace) -> &str {
    namespace.status.as_ref().map_or("", |s| text(&s.phase))
}

fn label_with_name(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone().filter(|n| !n.is_empty()) {
        namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;

    fn created(name: &str) -> Namespace {
        let mut namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let user = UserInfo::master("test");
        let ctx = Context { user: &user, namespace: None, now: Timestamp::UNIX_EPOCH, dry_run: false };
        Namespaces.default(&mut namespace);
        Namespaces.prepare_for_create(&ctx, &mut namespace);
        namespace
    }

    #[test]
    fn a_new_namespace_is_active_labelled_and_guarded() {
        let got = serde_json::to_value(created("a")).unwrap();
        assert_eq!(got["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "a"}));
        assert_eq!(got["spec"], json!({"finalizers": ["kubernetes"]}));
        assert_eq!(got["status"], json!({"phase": "Active"}));
        assert!(Namespaces.has_own_finalizers(&created("a")));
        assert_eq!(Namespaces.validate(&created("a")), []);
    }

    #[test]
    fn some_namespaces_are_for_ever() {
        let error = Namespaces.check_delete(&created("kube-system")).unwrap_err();
        assert_eq!(error.message(), "namespaces \"kube-system\" is forbidden: this namespace may not be deleted");
        assert!(Namespaces.check_delete(&created("mine")).is_ok());
    }

    #[test]
    fn only_a_namespace_being_deleted_terminates() {
        let old = created("a");
        let mut new = old.clone();
        Namespaces.prepare_for_deletion(&mut new);
        assert_eq!(
            Namespaces.validate_status_update(&new, &old)[0].to_string(),
            "status.phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        );
    }
}

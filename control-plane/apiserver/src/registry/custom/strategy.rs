//! What a definition makes of the objects of one of its versions.

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v1::{ScaleSpec, ScaleStatus},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceSubresourceScale,
};
use serde::de::Error as _;
use serde_json::Value;
use skep_api::{
    field::{Error, ErrorType, Path},
    name::{self, Validator},
    options::DeleteOptions,
    resource::ResourceInfo,
    status::StatusError,
};
use skep_crd::{Columns, Rules, Schema, default, embedded, list_type, prune, simple_get, simple_set};
use skep_storage::SelectableField;

use super::object::CustomObject;
use crate::registry::{
    erased::{AnyChange, AnyStrategy, UnknownFields, UpdateKind},
    object::Object,
    strategy::{Context, Grace, Reservation, Scale, human_duration},
};

const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing \
                         errors to complete validation";

/// What is done to every document of a version that comes from outside or from storage.
pub(super) struct Coercion {
    pub(super) schema: Schema,
    /// Whether nothing is pruned.
    pub(super) preserve: bool,
}

impl Coercion {
    /// Drops what the schema does not know and fills in its defaults.
    pub(super) fn coerce(&self, document: &mut Value, unknown: &mut UnknownFields) {
        if !self.preserve {
            prune::prune(document, &self.schema, unknown);
        }
        default::default(document, &self.schema);
    }
}

/// The strategy of one version of a custom resource.
pub(super) struct CustomStrategy {
    pub(super) info: ResourceInfo,
    pub(super) prefix: String,
    pub(super) coercion: Arc<Coercion>,
    /// The schema as the definition writes it.
    pub(super) open_api: Value,
    pub(super) rules: Option<Rules>,
    /// How fields of objects are owned.
    pub(super) fields: skep_apply::Custom,
    pub(super) has_status: bool,
    pub(super) scale: Option<CustomResourceSubresourceScale>,
    pub(super) columns: Columns,
    pub(super) selectable: Vec<SelectableField>,
    /// Whether the schema speaks of metadata.
    pub(super) of_metadata: bool,
}

impl CustomStrategy {
    fn own(object: &dyn Object) -> &CustomObject {
        // Every object a registry hands to its strategy was made by that strategy's `decode`.
        object.as_any().downcast_ref().expect("an object of a custom resource")
    }

    fn own_mut(object: &mut dyn Object) -> &mut CustomObject {
        // As above.
        object.as_any_mut().downcast_mut().expect("an object of a custom resource")
    }

    fn check_version(&self, object: &CustomObject) -> serde_json::Result<()> {
        let given = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let own = self.info.api_version();
        if given == own {
            return Ok(());
        }
        Err(serde_json::Error::custom(format!(
            "the API version in the data ({given}) does not match the expected API version ({own})"
        )))
    }

    fn check(&self, object: &CustomObject, old: Option<&CustomObject>) -> Vec<Error> {
        let mut errors = Vec::new();
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        if kind != self.info.kind {
            errors.push(Error::invalid(&Path::new("kind"), kind, format!("must be {}", self.info.kind)));
        }
        let document = object.document(self.of_metadata);
        let before = old.map(|old| old.document(self.of_metadata));
        let (schema, rules) = (&self.coercion.schema, self.rules.as_ref());
        self.check_document(&document, before.as_deref(), schema, rules, &Path::ROOT, &mut errors);
        if let Some(scale) = &self.scale {
            check_scale(&document, scale, &mut errors);
        }
        errors
    }

    fn check_document(
        &self,
        new: &Value,
        old: Option<&Value>,
        schema: &Schema,
        rules: Option<&Rules>,
        path: &Path<'_>,
        errors: &mut Vec<Error>,
    ) {
        let earlier = errors.len();
        errors.extend(skep_crd::validate_update(new, old, schema, path));
        embedded::validate(new, schema, path, errors);
        // What was stored with twins may keep them.
        let mut before = Vec::new();
        if let Some(old) = old {
            list_type::validate(old, schema, path, &mut before);
        }
        if before.is_empty() {
            list_type::validate(new, schema, path, errors);
        }
        let Some(rules) = rules else { return };
        if errors[earlier..].iter().any(|error| blocks_rules(error.kind)) {
            errors.push(Error {
                kind: ErrorType::Invalid,
                field: "<nil>".to_owned(),
                value: Some("null".into()),
                detail: UNCHECKED.to_owned(),
            });
        } else {
            rules.validate(new, old, schema, path, errors);
        }
    }
}

/// Whether rules may not rely on the types of what they see.
fn blocks_rules(kind: ErrorType) -> bool {
    use ErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
    matches!(kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
}

fn check_scale(document: &Value, scale: &CustomResourceSubresourceScale, errors: &mut Vec<Error>) {
    for path in [&scale.spec_replicas_path, &scale.status_replicas_path] {
        let Some(count) = simple_get(document, path).and_then(Value::as_i64) else { continue };
        let at = Path::new(path);
        if count < 0 {
            errors.push(Error::invalid(&at, count, "should be a non-negative integer"));
        } else if count > i64::from(i32::MAX) {
            errors.push(Error::invalid(&at, count, format!("should be less than or equal to {}", i32::MAX)));
        }
    }
}

impl AnyStrategy for CustomStrategy {
    fn info(&self) -> &ResourceInfo {
        &self.info
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        self.selectable.clone()
    }

    fn decode(&self, json: &[u8], unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>> {
        self.decode_value(serde_json::from_slice(json)?, unknown)
    }

    fn decode_value(&self, mut json: Value, unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>> {
        self.coercion.coerce(&mut json, unknown);
        let object = CustomObject::read(json, unknown)?;
        self.check_version(&object)?;
        Ok(Box::new(object))
    }

    fn decode_stored(&self, json: &[u8]) -> serde_json::Result<Box<dyn Object>> {
        Ok(Box::new(CustomObject::read(serde_json::from_slice(json)?, &mut UnknownFields::new())?))
    }

    fn field_type(&self, _: &ResourceInfo) -> skep_apply::Type<'_> {
        self.fields.view()
    }

    fn replicas_path(&self) -> skep_apply::Path {
        let path = self.scale.as_ref().map_or(".spec.replicas", |scale| &scale.spec_replicas_path);
        skep_apply::Path::of_fields(&path.trim_start_matches('.').split('.').collect::<Vec<_>>())
    }

    fn default(&self, _: &mut dyn Object) {
        // `decode` has done it: what is missing is told from what is there before metadata is taken out.
    }

    fn prepare_for_create(&self, _: &Context<'_>, object: &mut dyn Object) {
        if self.has_status {
            Self::own_mut(object).put("status", None);
        }
    }

    fn validate(&self, object: &dyn Object) -> Vec<Error> {
        self.check(Self::own(object), None)
    }

    fn validate_create(&self, _: &dyn Object) -> Vec<Error> {
        Vec::new()
    }

    fn name_validator(&self) -> Validator {
        name::dns1123_subdomain
    }

    fn prepare_for_update(&self, kind: UpdateKind, _: &Context<'_>, object: &mut dyn Object, old: &dyn Object) {
        let (object, old) = (Self::own_mut(object), Self::own(old));
        match kind {
            UpdateKind::Internal => {}
            UpdateKind::Status => {
                let status = object.get("status").cloned();
                let resource_version = object.meta.resource_version.take();
                let managed_fields = object.meta.managed_fields.take();
                *object = old.clone();
                object.put("status", status);
                object.meta.resource_version = resource_version;
                object.meta.managed_fields = managed_fields;
            }
            _ if self.has_status => object.put("status", old.get("status").cloned()),
            _ => {}
        }
    }

    fn validate_update(&self, kind: UpdateKind, object: &dyn Object, old: &dyn Object) -> Vec<Error> {
        let (object, old) = (Self::own(object), Self::own(old));
        match kind {
            UpdateKind::Internal => Vec::new(),
            UpdateKind::Status => {
                let mut errors = Vec::new();
                if let (Some(status), Some(schema)) =
                    (object.get("status"), self.coercion.schema.properties.get("status"))
                {
                    let rules = self.rules.as_ref().and_then(|rules| rules.property("status"));
                    self.check_document(status, old.get("status"), schema, rules, &Path::new("status"), &mut errors);
                }
                if let Some(scale) = &self.scale {
                    check_scale(&object.body, scale, &mut errors);
                }
                errors
            }
            _ => self.check(object, Some(old)),
        }
    }

    fn bumps_generation(&self, object: &dyn Object, old: &dyn Object) -> bool {
        let (object, old) = (Self::own(object), Self::own(old));
        if !self.has_status {
            return object.body != old.body;
        }
        let rest = |object: &CustomObject| {
            let members = object.body.as_object().into_iter().flatten();
            members
                .filter(|(name, _)| *name != "status")
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect::<Vec<_>>()
        };
        rest(object) != rest(old)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_create_on_update(&self) -> bool {
        false
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn ttl(&self) -> Option<u64> {
        None
    }

    fn scale(&self, object: &dyn Object) -> Option<Scale> {
        let paths = self.scale.as_ref()?;
        let body = &Self::own(object).body;
        let count =
            |path: &str| simple_get(body, path).and_then(Value::as_i64).and_then(|count| i32::try_from(count).ok());
        let selector =
            paths.label_selector_path.as_ref().and_then(|path| simple_get(body, path)).and_then(Value::as_str);
        Some(Scale {
            spec: Some(ScaleSpec { replicas: Some(count(&paths.spec_replicas_path).unwrap_or(0)) }),
            status: Some(ScaleStatus {
                replicas: count(&paths.status_replicas_path).unwrap_or(0),
                selector: selector.filter(|selector| !selector.is_empty()).map(str::to_owned),
            }),
            ..Scale::default()
        })
    }

    fn set_scale(&self, object: &mut dyn Object, replicas: i32) {
        if let Some(paths) = &self.scale {
            simple_set(&mut Self::own_mut(object).body, &paths.spec_replicas_path, replicas.into());
        }
    }

    fn check_delete(&self, _: &dyn Object) -> Result<(), StatusError> {
        Ok(())
    }

    fn grace_period(&self, _: &dyn Object, _: &DeleteOptions) -> Grace {
        Grace::Immediate
    }

    fn prepare_for_deletion(&self, _: &mut dyn Object) {}

    fn has_own_finalizers(&self, _: &dyn Object) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        false
    }

    fn orphans_by_default(&self) -> bool {
        false
    }

    fn reserves(&self) -> bool {
        false
    }

    fn reserve(&self, _: AnyChange<'_>, _: &mut Reservation) -> Result<(), StatusError> {
        Ok(())
    }

    fn column_definitions(&self) -> Value {
        self.columns.definitions().clone()
    }

    fn row(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        let document: Cow<'_, Value> = Self::own(object).document(true);
        self.columns.row(&document, |since| human_duration(now.as_second() - since.as_second()))
    }

    fn open_api(&self) -> Option<&Value> {
        Some(&self.open_api)
    }
}

//! Strategies behind one object-safe face, so that the registry is compiled once and not once for each resource.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_api::{field, name::Validator, options::DeleteOptions, resource::ResourceInfo, status::StatusError};
use skep_storage::SelectableField;

use super::{
    object::Object,
    strategy::{Change, Column, Context, Grace, Reservation, Scale, Strategy},
};

/// Which part of an object an update may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpdateKind {
    /// The object itself, not its status.
    Main,
    /// The `status` subresource.
    Status,
    /// The `finalize` subresource of namespaces.
    Finalize,
    /// The `approval` subresource of certificate signing requests.
    Approval,
    /// The `scale` subresource: the object itself, but admission is shown the Scale.
    Scale,
    /// A further subresource that is the object itself (`pods/resize`).
    Part(&'static str),
    /// Set by the server itself (binding): what the strategy would reset stays.
    Internal,
}

impl UpdateKind {
    /// The name behind the slash; empty for the object itself.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Main | Self::Internal => "",
            Self::Status => "status",
            Self::Finalize => "finalize",
            Self::Approval => "approval",
            Self::Scale => "scale",
            Self::Part(name) => name,
        }
    }
}

/// [`Change`] without its type.
pub(crate) enum AnyChange<'a> {
    Create { object: &'a mut dyn Object },
    Update { object: &'a mut dyn Object, old: &'a dyn Object },
    Delete { old: &'a dyn Object },
}

/// Where a body holds fields its type does not know, in upstream's notation.
pub(crate) type UnknownFields = Vec<String>;

/// [`Strategy`] without its type. Objects given to it must come from its own `decode`.
pub(crate) trait AnyStrategy: Send + Sync {
    fn info(&self) -> &ResourceInfo;
    fn prefix(&self) -> &str;
    fn selectable_fields(&self) -> Vec<SelectableField>;

    fn decode(&self, json: &[u8], unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>>;
    fn decode_value(&self, json: Value, unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>>;
    /// Reads what the server itself wrote.
    fn decode_stored(&self, json: &[u8]) -> serde_json::Result<Box<dyn Object>> {
        self.decode(json, &mut UnknownFields::new())
    }

    /// The type of its objects in a version, as far as owners of fields are concerned.
    fn field_type(&self, info: &ResourceInfo) -> skep_apply::Type<'_> {
        skep_apply::Type::of_kind(&info.group, &info.version, &info.kind)
    }
    /// Where objects keep the number of replicas that `scale` shows.
    fn replicas_path(&self) -> skep_apply::Path {
        skep_apply::Path::of_fields(&["spec", "replicas"])
    }

    fn default(&self, object: &mut dyn Object);
    fn prepare_for_create(&self, ctx: &Context<'_>, object: &mut dyn Object);
    fn validate(&self, object: &dyn Object) -> Vec<field::Error>;
    fn validate_create(&self, object: &dyn Object) -> Vec<field::Error>;
    fn name_validator(&self) -> Validator;
    fn prepare_for_update(&self, kind: UpdateKind, ctx: &Context<'_>, object: &mut dyn Object, old: &dyn Object);
    fn validate_update(&self, kind: UpdateKind, object: &dyn Object, old: &dyn Object) -> Vec<field::Error>;
    fn bumps_generation(&self, object: &dyn Object, old: &dyn Object) -> bool;
    fn has_generation(&self) -> bool;
    fn allow_create_on_update(&self) -> bool;
    fn allow_unconditional_update(&self) -> bool;

    fn ttl(&self) -> Option<u64>;

    fn scale(&self, object: &dyn Object) -> Option<Scale>;
    fn set_scale(&self, object: &mut dyn Object, replicas: i32);

    fn check_delete(&self, object: &dyn Object) -> Result<(), StatusError>;
    fn grace_period(&self, object: &dyn Object, options: &DeleteOptions) -> Grace;
    fn prepare_for_deletion(&self, object: &mut dyn Object);
    fn has_own_finalizers(&self, object: &dyn Object) -> bool;
    fn returns_deleted_object(&self) -> bool;
    fn orphans_by_default(&self) -> bool;

    fn reserves(&self) -> bool;
    fn reserve(&self, change: AnyChange<'_>, reservation: &mut Reservation) -> Result<(), StatusError>;

    /// `columnDefinitions` of a table.
    fn column_definitions(&self) -> Value;
    fn row(&self, object: &dyn Object, now: Timestamp) -> Vec<Value>;

    /// The schema of a custom resource, as its definition writes it.
    fn open_api(&self) -> Option<&Value> {
        None
    }
}

/// A typed strategy seen through [`AnyStrategy`].
pub(crate) struct Erased<S>(pub(crate) S);

impl<S: Strategy> Erased<S> {
    fn typed(object: &dyn Object) -> &S::Object {
        // Every object a registry hands to its strategy was made by that strategy's `decode`.
        object.as_any().downcast_ref().expect("object of this strategy's type")
    }

    fn typed_mut(object: &mut dyn Object) -> &mut S::Object {
        // As above.
        object.as_any_mut().downcast_mut().expect("object of this strategy's type")
    }
}

impl<S: Strategy> AnyStrategy for Erased<S> {
    fn info(&self) -> &ResourceInfo {
        self.0.info()
    }

    fn prefix(&self) -> &str {
        self.0.prefix()
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        self.0.selectable_fields()
    }

    fn decode(&self, json: &[u8], unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>> {
        Ok(Box::new(read_json::<S::Object>(json, unknown)?))
    }

    fn decode_value(&self, json: Value, unknown: &mut UnknownFields) -> serde_json::Result<Box<dyn Object>> {
        Ok(Box::new(read_value::<S::Object>(json, unknown)?))
    }

    fn default(&self, object: &mut dyn Object) {
        self.0.default(Self::typed_mut(object));
    }

    fn prepare_for_create(&self, ctx: &Context<'_>, object: &mut dyn Object) {
        self.0.prepare_for_create(ctx, Self::typed_mut(object));
    }

    fn validate(&self, object: &dyn Object) -> Vec<field::Error> {
        self.0.validate(Self::typed(object))
    }

    fn validate_create(&self, object: &dyn Object) -> Vec<field::Error> {
        self.0.validate_create(Self::typed(object))
    }

    fn name_validator(&self) -> Validator {
        self.0.name_validator()
    }

    fn prepare_for_update(&self, kind: UpdateKind, ctx: &Context<'_>, object: &mut dyn Object, old: &dyn Object) {
        let (object, old) = (Self::typed_mut(object), Self::typed(old));
        match kind {
            UpdateKind::Main | UpdateKind::Scale => self.0.prepare_for_update(ctx, object, old),
            UpdateKind::Part(name) => self.0.prepare_for_part_update(name, ctx, object, old),
            UpdateKind::Status => self.0.prepare_for_status_update(ctx, object, old),
            UpdateKind::Finalize => self.0.prepare_for_finalize(ctx, object, old),
            UpdateKind::Approval => self.0.prepare_for_approval(ctx, object, old),
            UpdateKind::Internal => {}
        }
    }

    fn validate_update(&self, kind: UpdateKind, object: &dyn Object, old: &dyn Object) -> Vec<field::Error> {
        let (object, old) = (Self::typed(object), Self::typed(old));
        match kind {
            UpdateKind::Main | UpdateKind::Scale => {
                let mut errors = self.0.validate(object);
                errors.extend(self.0.validate_update(object, old));
                errors
            }
            UpdateKind::Status => self.0.validate_status_update(object, old),
            UpdateKind::Finalize => self.0.validate(object),
            UpdateKind::Approval => self.0.validate_approval(object, old),
            UpdateKind::Part(name) => self.0.validate_part_update(name, object, old),
            UpdateKind::Internal => Vec::new(),
        }
    }

    fn bumps_generation(&self, object: &dyn Object, old: &dyn Object) -> bool {
        self.0.bumps_generation(Self::typed(object), Self::typed(old))
    }

    fn has_generation(&self) -> bool {
        self.0.has_generation()
    }

    fn allow_create_on_update(&self) -> bool {
        self.0.allow_create_on_update()
    }

    fn allow_unconditional_update(&self) -> bool {
        self.0.allow_unconditional_update()
    }

    fn ttl(&self) -> Option<u64> {
        self.0.ttl()
    }

    fn scale(&self, object: &dyn Object) -> Option<Scale> {
        self.0.scale(Self::typed(object))
    }

    fn set_scale(&self, object: &mut dyn Object, replicas: i32) {
        self.0.set_scale(Self::typed_mut(object), replicas);
    }

    fn check_delete(&self, object: &dyn Object) -> Result<(), StatusError> {
        self.0.check_delete(Self::typed(object))
    }

    fn grace_period(&self, object: &dyn Object, options: &DeleteOptions) -> Grace {
        self.0.grace_period(Self::typed(object), options)
    }

    fn prepare_for_deletion(&self, object: &mut dyn Object) {
        self.0.prepare_for_deletion(Self::typed_mut(object));
    }

    fn has_own_finalizers(&self, object: &dyn Object) -> bool {
        self.0.has_own_finalizers(Self::typed(object))
    }

    fn returns_deleted_object(&self) -> bool {
        self.0.returns_deleted_object()
    }

    fn orphans_by_default(&self) -> bool {
        self.0.orphans_by_default()
    }

    fn reserves(&self) -> bool {
        self.0.reserves()
    }

    fn reserve(&self, change: AnyChange<'_>, reservation: &mut Reservation) -> Result<(), StatusError> {
        let change = match change {
            AnyChange::Create { object } => Change::Create { object: Self::typed_mut(object) },
            AnyChange::Update { object, old } => {
                Change::Update { object: Self::typed_mut(object), old: Self::typed(old) }
            }
            AnyChange::Delete { old } => Change::Delete { old: Self::typed(old) },
        };
        self.0.reserve(change, reservation)
    }

    fn column_definitions(&self) -> Value {
        self.0.columns().iter().map(Column::definition).collect()
    }

    fn row(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        self.0.row(Self::typed(object), now)
    }
}

/// What is told of a field a type does not know. One type for all objects: with a closure of its own, every kind of object
/// would get its own copy of the code that reads what all have in common (metadata, pod templates).
type Tell<'a> = &'a mut dyn FnMut(serde_ignored::Path<'_>);

/// Reads a typed object and notes the fields it does not know.
pub(crate) fn read_json<T: DeserializeOwned>(json: &[u8], unknown: &mut UnknownFields) -> serde_json::Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let tell: Tell<'_> = &mut |path| unknown.push(path_text(&path));
    let object = serde_ignored::deserialize(&mut reader, tell)?;
    reader.end()?;
    Ok(object)
}

/// The same from JSON that was parsed.
pub(crate) fn read_value<T: DeserializeOwned>(json: Value, unknown: &mut UnknownFields) -> serde_json::Result<T> {
    let tell: Tell<'_> = &mut |path| unknown.push(path_text(&path));
    serde_ignored::deserialize(json, tell)
}

/// `spec.containers[0].image`, as upstream names a field.
fn path_text(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_text(parent)),
        Path::Map { parent, key } => match path_text(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => path_text(parent),
    }
}

/// What to say about fields a type does not know.
pub(crate) fn unknown_field_texts(unknown: &UnknownFields) -> impl Iterator<Item = String> + '_ {
    unknown.iter().map(|path| format!("unknown field {path:?}"))
}

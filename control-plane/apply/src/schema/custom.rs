//! Types made of an OpenAPI schema.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ScalarKind, Type};

/// A type made of an OpenAPI schema.
#[derive(Clone, Debug)]
pub enum Custom {
    /// Anything: objects merge, lists are one value.
    Deduced,
    /// One of the built-in types, such as object metadata.
    BuiltIn(skep_schema::Type),
    /// A scalar.
    Scalar(Scalars),
    /// An object or a map.
    Map {
        /// Declared fields.
        fields: BTreeMap<String, Field>,
        /// The type of all others; none if there must be none.
        element: Option<Box<Custom>>,
        /// Whether the whole has one owner.
        atomic: bool,
    },
    /// A list.
    List {
        /// The type of its items.
        item: Box<Custom>,
        /// How they belong together.
        relation: Relation,
    },
}

/// A declared field.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its type.
    pub of: Custom,
    /// What stands for it in keys of lists when it is left out.
    pub default: Option<Value>,
}

/// How items of a list belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The list is one value.
    Atomic,
    /// Each item is there once.
    Set,
    /// Items are told apart by these fields.
    Keys(Vec<String>),
}

/// The scalars a [`Custom::Scalar`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalars {
    /// Integers and other numbers.
    Numbers,
    /// Strings.
    Strings,
    /// Booleans.
    Booleans,
    /// Any of them.
    Any,
}

impl Scalars {
    pub(super) fn kind(self) -> ScalarKind {
        match self {
            Self::Numbers => ScalarKind::Numeric,
            Self::Strings => ScalarKind::String,
            Self::Booleans => ScalarKind::Boolean,
            Self::Any => ScalarKind::Any,
        }
    }
}

impl Custom {
    /// The type of a custom resource's objects, of the structural schema of its version (`openAPIV3Schema`); deduced if it
    /// has none. `apiVersion`, `kind` and `metadata` are what they are everywhere.
    pub fn of_resource(schema: Option<&Value>) -> Self {
        schema.map_or(Self::Deduced, |schema| embedded(Self::of_schema(schema)))
    }

    /// The type of a structural schema: what `x-kubernetes-list-type`, `x-kubernetes-list-map-keys`,
    /// `x-kubernetes-map-type`, `x-kubernetes-int-or-string`, `x-kubernetes-preserve-unknown-fields` and
    /// `x-kubernetes-embedded-resource` say of it. Never fails: what cannot be understood is deduced from the values.
    pub fn of_schema(schema: &Value) -> Self {
        let flag = |name: &str| schema.get(name).and_then(Value::as_bool) == Some(true);
        let of = if flag("x-kubernetes-int-or-string") {
            Self::Scalar(Scalars::Any)
        } else {
            match schema.get("type").and_then(Value::as_str) {
                Some("object") => Self::of_object(schema, flag("x-kubernetes-preserve-unknown-fields")),
                Some("array") => Self::of_list(schema),
                Some("integer" | "number") => Self::Scalar(Scalars::Numbers),
                Some("string") => Self::Scalar(Scalars::Strings),
                Some("boolean") => Self::Scalar(Scalars::Booleans),
                _ => Self::Deduced,
            }
        };
        if flag("x-kubernetes-embedded-resource") { embedded(of) } else { of }
    }

    fn of_object(schema: &Value, open: bool) -> Self {
        let properties = schema.get("properties").and_then(Value::as_object);
        let values = schema.get("additionalProperties");
        let fields: BTreeMap<_, _> = properties
            .into_iter()
            .flatten()
            .map(|(name, schema)| {
                let default = schema.get("default").cloned();
                (name.clone(), Field { of: Self::of_schema(schema), default })
            })
            .collect();
        let element = match values {
            Some(values @ Value::Object(_)) => Some(Box::new(Self::of_schema(values))),
            Some(Value::Bool(true)) => Some(Box::new(Self::Deduced)),
            // An object without fields may hold anything as far as owners are concerned.
            _ if open || fields.is_empty() => Some(Box::new(Self::Deduced)),
            _ => None,
        };
        let atomic = schema.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic");
        Self::Map { fields, element, atomic }
    }

    fn of_list(schema: &Value) -> Self {
        let item = schema.get("items").map_or(Self::Deduced, Self::of_schema);
        let keys = || {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let relation = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Relation::Set,
            Some("map") => Relation::Keys(keys()),
            _ => Relation::Atomic,
        };
        Self::List { item: Box::new(item), relation }
    }

    /// As walks see it.
    pub fn view(&self) -> Type<'_> {
        match self {
            Self::Deduced => Type::Deduced,
            Self::BuiltIn(of) => Type::from(*of),
            custom => Type::Custom(custom),
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        match self {
            Self::Map { fields, .. } => fields.get(name),
            _ => None,
        }
    }

    pub(super) fn element(&self) -> Option<Type<'_>> {
        match self {
            Self::Map { element, .. } => element.as_ref().map(|element| element.view()),
            _ => Some(Type::Deduced),
        }
    }
}

/// The type with the fields every object has.
fn embedded(of: Custom) -> Custom {
    let Custom::Map { mut fields, element, atomic } = of else { return of };
    let string = || Field { of: Custom::Scalar(Scalars::Strings), default: None };
    fields.insert("apiVersion".to_owned(), string());
    fields.insert("kind".to_owned(), string());
    let meta = skep_schema::Type::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let meta = meta.map_or(Custom::Deduced, Custom::BuiltIn);
    fields.insert("metadata".to_owned(), Field { of: meta, default: None });
    Custom::Map { fields, element, atomic }
}

//! What belongs together: the types of values as far as merging and owning are concerned.

mod custom;

use std::{collections::HashMap, sync::LazyLock};

use serde_json::{Map, Value};
use skep_schema::{ListType, Shape, Type as BuiltIn};

pub use custom::{Custom, Field, Relation};

use crate::element::{Element, Scalar};

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum Type<'s> {
    /// Nothing is known: objects merge, lists and scalars are one value each.
    Deduced,
    /// A built-in type.
    BuiltIn(BuiltInType),
    /// One made of an OpenAPI schema.
    Custom(&'s Custom),
}

/// A built-in type where it is used: the field may say more than the type does.
#[derive(Clone, Copy, Debug)]
pub struct BuiltInType {
    shape: Shape,
    list: Option<ListType>,
    atomic: bool,
}

/// What a walk does with a value of a type.
pub(crate) enum Form<'s> {
    /// One value with one owner.
    Leaf,
    /// Items are told apart.
    List(Items<'s>),
    /// Fields have owners of their own.
    Map,
}

/// How items of a list are told apart.
#[derive(Clone, Copy)]
pub(crate) enum Items<'s> {
    Set,
    BuiltInKeys(&'static [&'static str]),
    CustomKeys(&'s [String]),
}

/// What scalars a type takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScalarKind {
    Numeric,
    String,
    Boolean,
    Any,
}

impl From<BuiltIn> for Type<'static> {
    fn from(of: BuiltIn) -> Self {
        Self::of_shape(Shape::Ref(of))
    }
}

impl<'s> Type<'s> {
    /// The type of a built-in kind; deduced if there is none.
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Type<'static> {
        BuiltIn::of(group, version, kind).map_or(Type::Deduced, Type::from)
    }

    fn of_shape(shape: Shape) -> Type<'static> {
        let atomic = matches!(shape, Shape::Ref(of) if of.is_atomic());
        Type::BuiltIn(BuiltInType { shape: shape.resolved(), list: None, atomic })
    }

    fn of_field(field: skep_schema::Field) -> Type<'static> {
        Type::BuiltIn(BuiltInType {
            shape: field.shape().resolved(),
            list: field.list_type(),
            atomic: field.is_atomic_map(),
        })
    }

    /// The built-in type with fields that it is.
    pub(crate) fn built_in(self) -> Option<BuiltIn> {
        match self {
            Type::BuiltIn(BuiltInType { shape: Shape::Ref(of), .. }) => Some(of),
            _ => None,
        }
    }

    /// The type of a field the type declares.
    pub fn declared(self, name: &str) -> Option<Type<'s>> {
        match self {
            Type::Deduced => None,
            Type::BuiltIn(BuiltInType { shape: Shape::Ref(of), .. }) => of.field(name).map(Self::of_field),
            Type::BuiltIn(_) => None,
            Type::Custom(custom) => custom.field(name).map(|field| field.of.view()),
        }
    }

    /// The type of fields that are not declared; deduced where there should be none.
    pub(crate) fn element(self) -> Type<'s> {
        self.open_element().unwrap_or(Type::Deduced)
    }

    /// The type of fields that are not declared; none if there must be none.
    pub fn open_element(self) -> Option<Type<'s>> {
        match self {
            Type::Deduced => Some(Type::Deduced),
            Type::BuiltIn(BuiltInType { shape, .. }) => match shape {
                Shape::Map(element) => Some(Self::of_shape(element.shape())),
                Shape::Ref(_) => None,
                _ => Some(Type::Deduced),
            },
            Type::Custom(custom) => custom.element(),
        }
    }

    /// Whether objects of it have declared fields only, each with owners of its own.
    pub fn is_struct(self) -> bool {
        let declares = matches!(
            self,
            Type::BuiltIn(BuiltInType { shape: Shape::Ref(_), .. }) | Type::Custom(Custom::Map { element: None, .. })
        );
        declares && matches!(self.map_form(), Form::Map)
    }

    /// The type of any field, declared or not.
    pub fn field(self, name: &str) -> Type<'s> {
        self.declared(name).unwrap_or_else(|| self.element())
    }

    /// The type of a list's items.
    pub fn item(self) -> Type<'s> {
        match self {
            Type::BuiltIn(BuiltInType { shape: Shape::List(element), .. }) => Self::of_shape(element.shape()),
            Type::Custom(Custom::List { item, .. }) => item.view(),
            _ => Type::Deduced,
        }
    }

    /// What a walk does with `value`.
    pub(crate) fn form(self, value: &Value) -> Form<'s> {
        match value {
            Value::Object(_) => self.map_form(),
            Value::Array(_) => self.list_form(),
            _ => Form::Leaf,
        }
    }

    fn map_form(self) -> Form<'s> {
        match self {
            Type::Deduced => Form::Map,
            Type::BuiltIn(BuiltInType { atomic: true, .. }) => Form::Leaf,
            Type::BuiltIn(BuiltInType { shape, .. }) => match shape {
                Shape::Ref(_) | Shape::Map(_) | Shape::Object | Shape::Any | Shape::Struct => Form::Map,
                _ => Form::Leaf,
            },
            Type::Custom(Custom::Map { atomic: false, .. }) => Form::Map,
            Type::Custom(_) => Form::Leaf,
        }
    }

    fn list_form(self) -> Form<'s> {
        match self {
            Type::BuiltIn(BuiltInType { shape: Shape::List(_), list, .. }) => match list {
                Some(ListType::Set) => Form::List(Items::Set),
                Some(ListType::Map(keys)) => Form::List(Items::BuiltInKeys(keys)),
                Some(ListType::Atomic) | None => Form::Leaf,
            },
            Type::Custom(Custom::List { relation: Relation::Set, .. }) => Form::List(Items::Set),
            Type::Custom(Custom::List { relation: Relation::Keys(keys), .. }) => Form::List(Items::CustomKeys(keys)),
            _ => Form::Leaf,
        }
    }

    /// Whether lists, maps and scalars may stand here, in this order; none for what may be anything.
    pub(crate) fn takes(self) -> Option<Takes> {
        let only = |list, map, scalar| Some(Takes { list, map, scalar });
        match self {
            Type::Deduced => None,
            Type::BuiltIn(BuiltInType { shape, .. }) => match shape {
                Shape::String(_) => only(false, false, Some(ScalarKind::String)),
                Shape::Integer(_) | Shape::Number(_) => only(false, false, Some(ScalarKind::Numeric)),
                Shape::Boolean => only(false, false, Some(ScalarKind::Boolean)),
                Shape::IntOrString | Shape::Quantity => only(false, false, Some(ScalarKind::Any)),
                Shape::List(_) => only(true, false, None),
                Shape::Ref(_) | Shape::Map(_) => only(false, true, None),
                Shape::Object | Shape::Any | Shape::Struct => None,
            },
            Type::Custom(custom) => match custom {
                Custom::Scalar(kind) => only(false, false, Some(kind.kind())),
                Custom::Map { .. } => only(false, true, None),
                Custom::List { .. } => only(true, false, None),
                Custom::Deduced | Custom::BuiltIn(_) => None,
            },
        }
    }

    /// The default of a field, where one is declared.
    fn default(self, name: &str) -> Option<Value> {
        match self {
            Type::BuiltIn(BuiltInType { shape: Shape::Ref(of), .. }) => {
                serde_json::from_str(of.field(name)?.default()?).ok()
            }
            Type::Custom(custom) => custom.field(name)?.default.clone(),
            _ => None,
        }
    }

    /// Fields that are there whenever the object is: Go writes embedded structs though they are empty, and `null` for
    /// lists that must be given. Upstream's server compares what Go writes.
    pub(crate) fn implied(self) -> &'static [(&'static str, Implied)] {
        match self {
            Type::BuiltIn(BuiltInType { shape: Shape::Ref(of), .. }) => {
                IMPLIED.get(&of).map(Vec::as_slice).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// What tells an item of the list apart.
    ///
    /// # Errors
    /// Why nothing does, in upstream's words.
    pub(crate) fn element_of(self, items: Items<'_>, item: &Value) -> Result<Element, String> {
        match items {
            Items::Set => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                scalar => Ok(Element::Value(Scalar(scalar.clone()))),
            },
            Items::BuiltInKeys(keys) => self.keyed(keys.iter().copied(), item),
            Items::CustomKeys(keys) => self.keyed(keys.iter().map(String::as_str), item),
        }
    }

    fn keyed<'k>(self, keys: impl Iterator<Item = &'k str> + Clone, item: &Value) -> Result<Element, String> {
        let fields = match item {
            Value::Object(fields) => fields,
            Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
            _ => return Err("associative list with keys may not have non-map elements".to_owned()),
        };
        let mut key: Vec<(Box<str>, Scalar)> = keys
            .clone()
            .filter_map(|name| {
                let value = fields.get(name).cloned().or_else(|| self.item().default(name))?;
                Some((name.into(), Scalar(value)))
            })
            .collect();
        if key.is_empty() {
            let names: Vec<_> = keys.map(|name| format!("{name:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                 values for any of the key fields)",
                names.join(" ")
            ));
        }
        key.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Element::Key(key.into()))
    }
}

/// What may stand somewhere.
pub(crate) struct Takes {
    pub(crate) list: bool,
    pub(crate) map: bool,
    pub(crate) scalar: Option<ScalarKind>,
}

/// What stands for a field that JSON left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Implied {
    Object,
    Null,
}

pub(crate) static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static NULL: Value = Value::Null;

impl Implied {
    pub(crate) fn value(self) -> &'static Value {
        match self {
            Self::Object => &EMPTY,
            Self::Null => &NULL,
        }
    }
}

/// Fields that are structs, not pointers to structs, in Go, beyond `metadata`, `spec` and `status`.
const STRUCTS: &[(&str, &[&str])] = &[
    ("io.k8s.api.apps.v1.DaemonSetSpec", &["template", "updateStrategy"]),
    ("io.k8s.api.apps.v1.DeploymentSpec", &["strategy", "template"]),
    ("io.k8s.api.apps.v1.ReplicaSetSpec", &["template"]),
    ("io.k8s.api.apps.v1.StatefulSetSpec", &["template", "updateStrategy"]),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec", &["scaleTargetRef"]),
    ("io.k8s.api.autoscaling.v1.HorizontalPodAutoscalerSpec", &["scaleTargetRef"]),
    ("io.k8s.api.batch.v1.CronJobSpec", &["jobTemplate"]),
    ("io.k8s.api.batch.v1.JobSpec", &["template"]),
    ("io.k8s.api.core.v1.Container", &["resources"]),
    ("io.k8s.api.core.v1.EphemeralContainer", &["resources"]),
    ("io.k8s.api.core.v1.Event", &["involvedObject", "source"]),
    ("io.k8s.api.core.v1.NodeDaemonEndpoints", &["kubeletEndpoint"]),
    ("io.k8s.api.core.v1.NodeStatus", &["daemonEndpoints", "nodeInfo"]),
    ("io.k8s.api.core.v1.PersistentVolumeClaimSpec", &["resources"]),
    ("io.k8s.api.core.v1.PodTemplate", &["template"]),
    ("io.k8s.api.core.v1.ServiceStatus", &["loadBalancer"]),
    ("io.k8s.api.events.v1.Event", &["deprecatedSource", "regarding"]),
    ("io.k8s.api.flowcontrol.v1.FlowSchemaSpec", &["priorityLevelConfiguration"]),
    ("io.k8s.api.networking.v1.IngressStatus", &["loadBalancer"]),
    ("io.k8s.api.rbac.v1.ClusterRoleBinding", &["roleRef"]),
    ("io.k8s.api.rbac.v1.RoleBinding", &["roleRef"]),
    ("io.k8s.api.resource.v1.ResourceClaimSpec", &["devices"]),
    ("io.k8s.api.storage.v1.VolumeAttachmentSpec", &["source"]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec", &["names"]),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", &["acceptedNames"]),
];

static IMPLIED: LazyLock<HashMap<BuiltIn, Vec<(&'static str, Implied)>>> = LazyLock::new(|| {
    let implied = |of: BuiltIn| {
        let structs = STRUCTS.iter().find(|(name, _)| *name == of.name()).map_or(&[][..], |(_, fields)| fields);
        let fields = of.fields().filter_map(|field| {
            let name = field.name();
            let kind = match field.shape().resolved() {
                Shape::Ref(_) if matches!(name, "metadata" | "spec" | "status") || structs.contains(&name) => {
                    Implied::Object
                }
                Shape::List(_) | Shape::Map(_) if field.is_required() => Implied::Null,
                _ => return None,
            };
            Some((name, kind))
        });
        fields.collect::<Vec<_>>()
    };
    skep_schema::types::all().map(|of| (of, implied(of))).filter(|(_, fields)| !fields.is_empty()).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_always_writes_is_known_by_its_right_name() {
        for (name, fields) in STRUCTS {
            let of = BuiltIn::named(name).unwrap_or_else(|| panic!("{name}"));
            for field in *fields {
                assert!(of.field(field).is_some(), "{name} {field}");
            }
        }
        let pod_spec = BuiltIn::named("io.k8s.api.core.v1.PodSpec").unwrap();
        assert_eq!(Type::from(pod_spec).implied(), [("containers", Implied::Null)]);
    }
}

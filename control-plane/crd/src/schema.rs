//! The schema of one version: what `openAPIV3Schema` says, ready to be walked beside an object.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use regex::Regex;
use serde_json::Value;

/// The members of every object that a schema does not rule over.
pub(crate) const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// `type` of a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// None is given.
    #[default]
    Any,
    /// `object`
    Object,
    /// `array`
    Array,
    /// `string`
    String,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
}

impl Kind {
    fn parse(name: &str) -> Self {
        match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Any,
        }
    }

    /// As schemas write it; empty for [`Kind::Any`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `additionalProperties`.
#[derive(Clone, Debug)]
pub enum Additional {
    /// Whether there may be any.
    Allowed(bool),
    /// What each must be.
    Schema(Box<Schema>),
}

/// A regular expression and its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As the schema writes it.
    pub text: String,
    /// None if it is no regular expression.
    pub regex: Option<Regex>,
}

/// A schema or a part of one. Nested parts of `allOf`, `anyOf`, `oneOf` and `not` are of the same type.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "fields are those of JSON schema")]
pub struct Schema {
    pub kind: Kind,
    pub nullable: bool,
    pub default: Option<Value>,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Schema>>,

    pub format: Option<String>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<String>,
    pub enumeration: Vec<Value>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,

    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-list-type`
    pub list_type: Option<String>,
    /// `x-kubernetes-list-map-keys`
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type`
    pub map_type: Option<String>,
    /// `x-kubernetes-validations`
    pub validations: Vec<ValidationRule>,
}

impl Schema {
    /// Reads what a definition holds.
    pub fn new(props: &JSONSchemaProps) -> Self {
        let many = |list: &Option<Vec<JSONSchemaProps>>| list.iter().flatten().map(Self::new).collect();
        Self {
            kind: Kind::parse(props.type_.as_deref().unwrap_or_default()),
            nullable: props.nullable == Some(true),
            default: props.default.as_ref().map(|default| default.0.clone()),
            properties: props
                .properties
                .iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), Self::new(schema)))
                .collect(),
            additional: props.additional_properties.as_ref().map(|additional| match additional {
                JSONSchemaPropsOrBool::Bool(allowed) => Additional::Allowed(*allowed),
                JSONSchemaPropsOrBool::Schema(schema) => Additional::Schema(Box::new(Self::new(schema))),
            }),
            items: match &props.items {
                Some(JSONSchemaPropsOrArray::Schema(schema)) => Some(Box::new(Self::new(schema))),
                _ => None,
            },
            format: props.format.clone().filter(|format| !format.is_empty()),
            maximum: props.maximum,
            exclusive_maximum: props.exclusive_maximum == Some(true),
            minimum: props.minimum,
            exclusive_minimum: props.exclusive_minimum == Some(true),
            multiple_of: props.multiple_of,
            max_length: props.max_length,
            min_length: props.min_length,
            pattern: props
                .pattern
                .as_ref()
                .filter(|text| !text.is_empty())
                .map(|text| Pattern { text: text.clone(), regex: Regex::new(text).ok() }),
            max_items: props.max_items,
            min_items: props.min_items,
            unique_items: props.unique_items == Some(true),
            max_properties: props.max_properties,
            min_properties: props.min_properties,
            required: props.required.clone().unwrap_or_default(),
            enumeration: props.enum_.iter().flatten().map(|value| value.0.clone()).collect(),
            all_of: many(&props.all_of),
            any_of: many(&props.any_of),
            one_of: many(&props.one_of),
            not: props.not.as_ref().map(|not| Box::new(Self::new(not))),
            preserve_unknown: props.x_kubernetes_preserve_unknown_fields == Some(true),
            embedded: props.x_kubernetes_embedded_resource == Some(true),
            int_or_string: props.x_kubernetes_int_or_string == Some(true),
            list_type: props.x_kubernetes_list_type.clone(),
            list_map_keys: props.x_kubernetes_list_map_keys.clone().unwrap_or_default(),
            map_type: props.x_kubernetes_map_type.clone(),
            validations: props.x_kubernetes_validations.clone().unwrap_or_default(),
        }
    }

    /// Whether this or a schema below it says so. Parts of `allOf` and its like are not asked.
    pub fn any(&self, says: &dyn Fn(&Self) -> bool) -> bool {
        says(self)
            || self.properties.values().any(|schema| schema.any(says))
            || self.items.as_ref().is_some_and(|schema| schema.any(says))
            || matches!(&self.additional, Some(Additional::Schema(schema)) if schema.any(says))
    }

    /// The schema of every key a map has besides its properties.
    pub fn additional_schema(&self) -> Option<&Self> {
        match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    /// The schema of the member `name` of an object.
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or_else(|| self.additional_schema())
    }

    /// The schema at a path of plain names, such as `spec.replicas`.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |schema, name| schema.member(name))
    }

    /// Names of properties that must be there.
    pub fn required_set(&self) -> BTreeSet<&str> {
        self.required.iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A schema from its JSON.
    pub(crate) fn schema(json: Value) -> Schema {
        Schema::new(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn a_path_leads_through_properties_and_maps() {
        let schema = schema(serde_json::json!({
            "type": "object",
            "properties": {"spec": {"type": "object", "additionalProperties": {"type": "integer"}}},
        }));
        assert_eq!(schema.at(&["spec", "x"]).unwrap().kind, Kind::Integer);
        assert!(schema.at(&["status"]).is_none());
    }
}

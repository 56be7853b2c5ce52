//! What upstream demands of `openAPIV3Schema` beyond that it is structural.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use serde_json::Value;
use skep_api::field::{Error, Errors, Path};

use super::structural;
use crate::{
    Rules, field_path, prune,
    schema::{META_FIELDS, Schema},
};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// The reasons a broken rule may be told with.
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// What may stand at the root beside a status subresource, whose part of the schema is cut out.
const ROOT: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

/// Checks the schema of a version; `path` is that of `schema`.
pub(super) fn validate(props: &JSONSchemaProps, has_status: bool, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("openAPIV3Schema");
    if has_status {
        root(props, &at, errors);
    }
    if props.nullable == Some(true) {
        errors.push(Error::forbidden(&at.child("nullable"), "nullable cannot be true at the root"));
    }
    let before = errors.len();
    let schema = Schema::new(props);
    structural::validate(props, &at, errors);
    if errors.len() == before {
        defaults(&schema, &at, errors);
    }
    walk(props, &at, Walk { root: true, inside_meta: false, no_defaults: None }, errors);
    // Rules are looked at once the schema is one that gives them types.
    if errors.len() == before
        && let Ok(json) = serde_json::to_value(props)
        && let Some(rules) = Rules::new(&schema, &json)
    {
        rules.check(&schema, &at, errors);
    }
}

fn root(props: &JSONSchemaProps, at: &Path<'_>, errors: &mut Errors) {
    // Serialising a schema does not fail; its members are named as in Go but for their first letter.
    let Ok(Value::Object(members)) = serde_json::to_value(props) else { return };
    for name in members.keys() {
        let name = match name.strip_prefix("x-kubernetes-") {
            Some("preserve-unknown-fields") => "XPreserveUnknownFields".to_owned(),
            Some("validations") => "XValidations".to_owned(),
            Some(_) => name.clone(),
            None => name[..1].to_uppercase() + &name[1..],
        };
        if name == "Type" && props.type_.as_deref() != Some("object") {
            let detail =
                "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            errors.push(Error::invalid(&at.child("type"), &props.type_, detail));
            return;
        }
        if !ROOT.contains(&name.as_str()) {
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                ROOT.join(" ")
            );
            errors.push(Error::invalid(at, props, detail));
            return;
        }
    }
}

/// Defaults must be what the schema wants, and nothing it would drop.
fn defaults(schema: &Schema, path: &Path<'_>, errors: &mut Errors) {
    if let Some(default) = &schema.default {
        let at = path.child("default");
        let mut pruned = default.clone();
        let mut dropped = Vec::new();
        prune::prune_part(&mut pruned, schema, &mut dropped);
        if !dropped.is_empty() {
            errors.push(Error::invalid(&at, default, "must not have unknown fields"));
        } else {
            let mut filled = default.clone();
            crate::default::default(&mut filled, schema);
            errors.extend(crate::validate(&filled, schema, &at));
            crate::embedded::validate(&filled, schema, &at, errors);
            crate::list_type::validate(&filled, schema, &at, errors);
        }
    }
    for (name, property) in &schema.properties {
        defaults(property, &path.child("properties").key(name), errors);
    }
    if let Some(items) = &schema.items {
        defaults(items, &path.child("items"), errors);
    }
    if let Some(additional) = schema.additional_schema() {
        defaults(additional, &path.child("additionalProperties"), errors);
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    root: bool,
    inside_meta: bool,
    /// Why there may be no defaults.
    no_defaults: Option<&'a str>,
}

fn walk(props: &JSONSchemaProps, path: &Path<'_>, walk_: Walk<'_>, errors: &mut Errors) {
    own(props, path, walk_, errors);
    let below = Walk { root: false, ..walk_ };
    if props.unique_items == Some(true) {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(Error::forbidden(&path.child("uniqueItems"), detail));
    }
    if let Some(additional) = &props.additional_properties {
        let at = path.child("additionalProperties");
        let has_properties = props.properties.as_ref().is_some_and(|properties| !properties.is_empty());
        if has_properties && !matches!(additional, JSONSchemaPropsOrBool::Bool(true)) {
            errors.push(Error::forbidden(&at, "additionalProperties and properties are mutual exclusive"));
        }
        if let JSONSchemaPropsOrBool::Schema(schema) = additional {
            let no_defaults = match walk_.inside_meta {
                true => Some("inside additionalProperties applying to object metadata"),
                false => walk_.no_defaults,
            };
            walk(schema, &at, Walk { no_defaults, ..below }, errors);
        }
    }
    for (name, property) in props.properties.iter().flatten() {
        let meta =
            (walk_.root || props.x_kubernetes_embedded_resource == Some(true)) && META_FIELDS.contains(&name.as_str());
        let why = format!("in top-level {name}");
        let no_defaults = if meta && walk_.root { Some(why.as_str()) } else { walk_.no_defaults };
        let inside_meta = walk_.inside_meta || meta;
        walk(property, &path.child("properties").key(name), Walk { root: false, inside_meta, no_defaults }, errors);
    }
    if let Some(not) = &props.not {
        walk(not, &path.child("not"), below, errors);
    }
    for (name, list) in [("allOf", &props.all_of), ("oneOf", &props.one_of), ("anyOf", &props.any_of)] {
        for (i, part) in list.iter().flatten().enumerate() {
            walk(part, &path.child(name).index(i), below, errors);
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &props.items {
        walk(items, &path.child("items"), below, errors);
    }
    kubernetes(props, path, errors);
    rules(props, path, errors);
}

/// What of OpenAPI is not supported.
fn own(props: &JSONSchemaProps, path: &Path<'_>, walk: Walk<'_>, errors: &mut Errors) {
    let kind = props.type_.as_deref().unwrap_or_default();
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &TYPES));
    }
    if let (Some(_), Some(why)) = (&props.default, walk.no_defaults) {
        errors.push(Error::forbidden(&path.child("default"), format!("must not be set {why}")));
    }
    for (field, given) in [
        ("id", props.id.as_ref().is_some_and(|id| !id.is_empty())),
        ("additionalItems", props.additional_items.is_some()),
        ("patternProperties", props.pattern_properties.as_ref().is_some_and(|map| !map.is_empty())),
        ("definitions", props.definitions.as_ref().is_some_and(|map| !map.is_empty())),
        ("dependencies", props.dependencies.is_some()),
        ("$ref", props.ref_path.is_some()),
    ] {
        if given {
            errors.push(Error::forbidden(&path.child(field), format!("{field} is not supported")));
        }
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.push(Error::forbidden(&path.child("type"), detail));
    }
    if matches!(&props.items, Some(JSONSchemaPropsOrArray::Schemas(list)) if !list.is_empty()) {
        errors.push(Error::forbidden(&path.child("items"), "items must be a schema object and not an array"));
    }
    if walk.inside_meta && props.x_kubernetes_embedded_resource == Some(true) {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(Error::forbidden(&at, "must not be used inside of resource meta"));
    }
    if let Some(pattern) = props.pattern.as_ref().filter(|pattern| regex::Regex::new(pattern).is_err()) {
        let detail = "must be a valid regular expression, but isn't: error parsing regexp";
        errors.push(Error::invalid(&path.child("pattern"), pattern, detail));
    }
}

fn kubernetes(props: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    let kind = props.type_.as_deref().unwrap_or_default();
    let typed = |wanted: &str, extension: &str, errors: &mut Errors| {
        let at = path.child("type");
        let detail = format!("must be {wanted} if {extension} is specified");
        match kind {
            "" => errors.push(Error::required(&at, detail)),
            kind => errors.push(Error::invalid(&at, kind, detail)),
        }
    };
    if props.x_kubernetes_preserve_unknown_fields == Some(false) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(Error::invalid(&at, false, "must be true or undefined"));
    }
    if let Some(map_type) = &props.x_kubernetes_map_type {
        if kind != "object" {
            typed("object", "x-kubernetes-map-type", errors);
        }
        if map_type != "atomic" && map_type != "granular" {
            let at = path.child("x-kubernetes-map-type");
            errors.push(Error::not_supported(&at, map_type, &["atomic", "granular"]));
        }
    }
    let items = match &props.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(&**items),
        _ => None,
    };
    let keys = props.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    let at = path.child("x-kubernetes-list-type");
    match props.x_kubernetes_list_type.as_deref() {
        None if !keys.is_empty() => {
            errors.push(Error::required(&at, "must be map if x-kubernetes-list-map-keys is non-empty"));
        }
        None => {}
        Some(list_type) => {
            if kind != "array" {
                typed("array", "x-kubernetes-list-type", errors);
            } else if let Some(items) = items.filter(|_| list_type == "set") {
                atomic_items(items, path, errors);
            }
            if !["atomic", "set", "map"].contains(&list_type) {
                errors.push(Error::not_supported(&at, list_type, &["atomic", "set", "map"]));
            }
            if !keys.is_empty() && list_type != "map" {
                errors.push(Error::invalid(&at, list_type, "must be map if x-kubernetes-list-map-keys is non-empty"));
            }
            if list_type != "atomic" && items.is_some_and(|items| items.nullable == Some(true)) {
                let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
                errors.push(Error::forbidden(&path.child("items.nullable"), detail));
            }
            if list_type == "map" {
                map_list(keys, items, path, errors);
            }
        }
    }
}

fn atomic_items(items: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    match items.type_.as_deref() {
        Some("array") => {
            if let Some(own) = items.x_kubernetes_list_type.as_ref().filter(|own| *own != "atomic") {
                errors.push(Error::invalid(&path.child("items.x-kubernetes-list-type"), own, detail));
            }
        }
        Some("object") if items.x_kubernetes_map_type.as_deref() != Some("atomic") => {
            let own = &items.x_kubernetes_map_type;
            errors.push(Error::invalid(&path.child("items.x-kubernetes-map-type"), own, detail));
        }
        _ => {}
    }
}

fn map_list(keys: &[String], items: Option<&JSONSchemaProps>, path: &Path<'_>, errors: &mut Errors) {
    let keys_at = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(Error::required(&keys_at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let Some(items) = items else {
        errors.push(Error::required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map"));
        return;
    };
    if items.type_.as_deref() != Some("object") {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(Error::invalid(&path.child("items.type"), &items.type_, detail));
        return;
    }
    let properties = path.child("items.properties");
    for (i, key) in keys.iter().enumerate() {
        let property = items.properties.as_ref().and_then(|properties| properties.get(key));
        let Some(property) = property else {
            errors.push(Error::invalid(&keys_at, keys, "entries must all be names of item properties"));
            continue;
        };
        let at = properties.key(key);
        if matches!(property.type_.as_deref(), Some("array" | "object")) {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(Error::invalid(&at.child("type"), &property.type_, detail));
        }
        if keys[..i].contains(key) {
            errors.push(Error::invalid(&keys_at, keys, "must not contain duplicate entries"));
        }
        if !items.required.iter().flatten().any(|required| required == key) && property.default.is_none() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                          property";
            errors.push(Error::required(&at.child("default"), detail));
        }
        if property.nullable == Some(true) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(&at.child("nullable"), detail));
        }
    }
}

fn rules(props: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("x-kubernetes-validations");
    for (i, rule) in props.x_kubernetes_validations.iter().flatten().enumerate() {
        self::rule(rule, props, &list.index(i), errors);
    }
}

/// Checks what of a rule needs no compiler.
fn rule(rule: &ValidationRule, props: &JSONSchemaProps, at: &Path<'_>, errors: &mut Errors) {
    let broken = |text: &str| text.contains(['\n', '\r']);
    let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    let message = rule.message.as_deref().unwrap_or_default();
    if rule.rule.trim().is_empty() {
        errors.push(Error::required(&at.child("rule"), "rule is not specified"));
    } else if blank(message) {
        errors.push(Error::invalid(&at.child("message"), message, "message must be non-empty if specified"));
    } else if broken(message.trim()) {
        errors.push(Error::invalid(&at.child("message"), message, "message must not contain line breaks"));
    } else if broken(rule.rule.trim()) && message.trim().is_empty() {
        let detail = "message must be specified if rule contains line breaks";
        errors.push(Error::required(&at.child("message"), detail));
    }
    if rule.message_expression.as_deref().is_some_and(blank) {
        let detail = "messageExpression must be non-empty if specified";
        errors.push(Error::required(&at.child("messageExpression"), detail));
    }
    if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
        errors.push(Error::not_supported(&at.child("reason"), reason, &REASONS));
    }
    let field = rule.field_path.as_deref().unwrap_or_default();
    let at = at.child("fieldPath");
    if blank(field) {
        errors.push(Error::invalid(&at, field, "fieldPath must be non-empty if specified"));
    }
    if broken(field) {
        errors.push(Error::invalid(&at, field, "fieldPath must not contain line breaks"));
    }
    if !field.is_empty() && field_path::resolve(field, &Schema::new(props)).is_none() {
        errors.push(Error::invalid(&at, field, "fieldPath must be a valid path"));
    }
}

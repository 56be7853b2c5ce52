//! Structural schemas: every field has its one type at its one place, outside of `allOf`, `anyOf`, `oneOf` and `not`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use skep_api::field::{Error, Errors, Path};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

pub(super) fn validate(props: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    invariants(props, Level::Root, path, errors);
    complete(props, path, errors);
}

fn items(props: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &props.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

fn additional(props: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &props.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(schema),
        _ => None,
    }
}

fn property<'a>(props: &'a JSONSchemaProps, name: &str) -> Option<&'a JSONSchemaProps> {
    props.properties.as_ref()?.get(name)
}

fn kind(props: &JSONSchemaProps) -> &str {
    props.type_.as_deref().unwrap_or_default()
}

fn invariants(props: &JSONSchemaProps, level: Level, path: &Path<'_>, errors: &mut Errors) {
    if let Some(items) = items(props) {
        invariants(items, Level::Item, &path.child("items"), errors);
    } else if kind(props) == "array" && props.items.is_none() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    for (name, property) in props.properties.iter().flatten() {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    if let Some(additional) = additional(props) {
        invariants(additional, Level::Field, &path.child("additionalProperties"), errors);
    }
    if level == Level::Root && props.additional_properties.is_some() {
        errors.push(Error::forbidden(&path.child("additionalProperties"), "must not be used at the root"));
    }
    let int_or_string = props.x_kubernetes_int_or_string == Some(true);
    let preserve = props.x_kubernetes_preserve_unknown_fields == Some(true);
    let embedded = props.x_kubernetes_embedded_resource == Some(true);
    if int_or_string {
        let detail = "must be false if x-kubernetes-int-or-string is true";
        if preserve {
            errors.push(Error::invalid(&path.child("x-kubernetes-preserve-unknown-fields"), true, detail));
        }
        if embedded {
            errors.push(Error::invalid(&path.child("x-kubernetes-embedded-resource"), true, detail));
        }
        if !kind(props).is_empty() {
            let detail = "must be empty if x-kubernetes-int-or-string is true";
            errors.push(Error::invalid(&path.child("type"), kind(props), detail));
        }
    }
    values(props, int_or_string, path, errors);
    types(props, level, (embedded, int_or_string, preserve), path, errors);
    metadata(props, level, embedded, path, errors);
    if embedded && !preserve && props.properties.as_ref().is_none_or(|properties| properties.is_empty()) {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.push(Error::required(&path.child("properties"), detail));
    }
}

fn types(
    props: &JSONSchemaProps,
    level: Level,
    (embedded, int_or_string, preserve): (bool, bool, bool),
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("type");
    match kind(props) {
        "object" => {}
        own if embedded => {
            let detail = "must be object if x-kubernetes-embedded-resource is true";
            errors.push(if own.is_empty() { Error::required(&at, detail) } else { Error::invalid(&at, own, detail) });
        }
        "" if !int_or_string && !preserve => {
            let detail = match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            };
            errors.push(Error::required(&at, detail));
        }
        own if level == Level::Root && !own.is_empty() => {
            errors.push(Error::invalid(&at, own, "must be object at the root"));
        }
        _ => {}
    }
    if embedded && props.additional_properties.is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(Error::forbidden(&path.child("additionalProperties"), detail));
    }
}

fn metadata(props: &JSONSchemaProps, level: Level, embedded: bool, path: &Path<'_>, errors: &mut Errors) {
    if level != Level::Root && !embedded {
        return;
    }
    let properties = path.child("properties");
    for name in ["kind", "apiVersion"] {
        if let Some(found) = property(props, name).filter(|found| kind(found) != "string") {
            errors.push(Error::invalid(&properties.key(name).child("type"), kind(found), "must be string"));
        }
    }
    let Some(found) = property(props, "metadata") else { return };
    let at = properties.key("metadata");
    if kind(found) != "object" {
        errors.push(Error::invalid(&at.child("type"), kind(found), "must be object"));
    }
    let mut names = found.properties.iter().flatten().map(|(name, _)| name.as_str());
    let bare = JSONSchemaProps {
        type_: found.type_.clone(),
        description: found.description.clone(),
        properties: found.properties.clone(),
        ..JSONSchemaProps::default()
    };
    if level == Level::Root && (!names.all(|name| name == "name" || name == "generateName") || *found != bare) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(Error::forbidden(&at, detail));
    }
}

/// Checks `allOf` and its like. The one use of types in them is to say again that a value is an integer or a string.
fn values(props: &JSONSchemaProps, int_or_string: bool, path: &Path<'_>, errors: &mut Errors) {
    let either = |list: &Option<Vec<JSONSchemaProps>>| {
        int_or_string
            && list
                .as_ref()
                .is_some_and(|list| list.len() == 2 && kind(&list[0]) == "integer" && kind(&list[1]) == "string")
    };
    let skip = either(&props.any_of);
    for (i, part) in props.any_of.iter().flatten().enumerate() {
        nested(part, skip, false, &path.child("anyOf").index(i), errors);
    }
    for (i, part) in props.all_of.iter().flatten().enumerate() {
        let skip = i == 0 && either(&part.any_of);
        nested(part, false, skip, &path.child("allOf").index(i), errors);
    }
    for (i, part) in props.one_of.iter().flatten().enumerate() {
        nested(part, false, false, &path.child("oneOf").index(i), errors);
    }
    if let Some(not) = &props.not {
        nested(not, false, false, &path.child("not"), errors);
    }
}

/// A part of `allOf` and its like; `typed` says that it may have a type, `either` that its `anyOf` may have types.
fn nested(props: &JSONSchemaProps, typed: bool, either: bool, path: &Path<'_>, errors: &mut Errors) {
    values(props, either, path, errors);
    if let Some(items) = items(props) {
        nested(items, false, false, &path.child("items"), errors);
    }
    for (name, property) in props.properties.iter().flatten() {
        nested(property, false, false, &path.child("properties").key(name), errors);
    }
    if let Some(additional) = additional(props) {
        nested(additional, false, false, &path.child("additionalProperties"), errors);
    }
    let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    for (field, given, detail) in [
        ("type", !kind(props).is_empty() && !typed, "must be empty to be structural"),
        ("default", props.default.is_some(), "must be undefined to be structural"),
        ("title", some(&props.title), "must be empty to be structural"),
        ("description", some(&props.description), "must be empty to be structural"),
        ("nullable", props.nullable == Some(true), "must be false to be structural"),
        (
            "x-kubernetes-preserve-unknown-fields",
            props.x_kubernetes_preserve_unknown_fields == Some(true),
            "must be false to be structural",
        ),
        (
            "x-kubernetes-embedded-resource",
            props.x_kubernetes_embedded_resource == Some(true),
            "must be false to be structural",
        ),
        (
            "x-kubernetes-int-or-string",
            props.x_kubernetes_int_or_string == Some(true),
            "must be false to be structural",
        ),
        ("x-kubernetes-list-map-keys", props.x_kubernetes_list_map_keys.is_some(), "must be empty to be structural"),
        ("x-kubernetes-list-type", props.x_kubernetes_list_type.is_some(), "must be undefined to be structural"),
        ("x-kubernetes-map-type", props.x_kubernetes_map_type.is_some(), "must be undefined to be structural"),
    ] {
        if given {
            errors.push(Error::forbidden(&path.child(field), detail));
        }
    }
    if property(props, "metadata").is_some() {
        let at = path.child("properties");
        errors.push(Error::forbidden(&at.key("metadata"), "must not be specified in a nested value validation"));
    }
}

/// What `allOf` and its like speak of must be in the schema itself.
fn complete(props: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    for (name, list) in [("anyOf", &props.any_of), ("allOf", &props.all_of), ("oneOf", &props.one_of)] {
        for (i, part) in list.iter().flatten().enumerate() {
            spoken(part, Some(props), path, &path.child(name).index(i), errors);
        }
    }
    if let Some(not) = &props.not {
        spoken(not, Some(props), path, &path.child("not"), errors);
    }
    for (name, property) in props.properties.iter().flatten() {
        complete(property, &path.child("properties").key(name), errors);
    }
    if let Some(items) = items(props) {
        complete(items, &path.child("items"), errors);
    }
    if let Some(additional) = additional(props) {
        complete(additional, &path.child("additionalProperties"), errors);
    }
}

/// `part`, found at `from`, speaks of fields of `skeleton`, which is at `path`.
fn spoken(
    part: &JSONSchemaProps,
    skeleton: Option<&JSONSchemaProps>,
    path: &Path<'_>,
    from: &Path<'_>,
    errors: &mut Errors,
) {
    let because = |from: &Path<'_>| format!("because it is defined in {from}");
    if let Some(inner) = items(part) {
        let (at, from) = (path.child("items"), from.child("items"));
        match skeleton.and_then(items) {
            None => errors.push(Error::required(&at, because(&from))),
            known => spoken(inner, known, &at, &from, errors),
        }
    }
    for (name, inner) in part.properties.iter().flatten() {
        let (path, from) = (path.child("properties"), from.child("properties"));
        let (at, from) = (path.key(name), from.key(name));
        let known = skeleton.and_then(|skeleton| property(skeleton, name).or_else(|| additional(skeleton)));
        match known {
            None => errors.push(Error::required(&at, because(&from))),
            known => spoken(inner, known, &at, &from, errors),
        }
    }
    for (name, list) in [("anyOf", &part.any_of), ("allOf", &part.all_of), ("oneOf", &part.one_of)] {
        for (i, inner) in list.iter().flatten().enumerate() {
            spoken(inner, skeleton, path, &from.child(name).index(i), errors);
        }
    }
    if let Some(not) = &part.not {
        spoken(not, skeleton, path, &from.child("not"), errors);
    }
}

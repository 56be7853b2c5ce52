//! Whether a value is what its schema wants, in upstream's words (kube-openapi's validation).

use serde_json::{Map, Value};
use skep_api::field::{Error, ErrorType, Path};

use crate::{
    format,
    schema::{Additional, Kind, Schema},
};

/// What is wrong with `value` by `schema`. `path` is where the value is; the root for a whole object.
pub fn validate(value: &Value, schema: &Schema, path: &Path<'_>) -> Vec<Error> {
    check(value, None, schema, path).errors
}

/// The same for a value that takes the place of `old`: what did not change is not complained about.
pub fn validate_update(value: &Value, old: Option<&Value>, schema: &Schema, path: &Path<'_>) -> Vec<Error> {
    check(value, old, schema, path).errors
}

/// Errors, and how much was found to be right: of several alternatives that fail, the closest is told.
#[derive(Default)]
struct Outcome {
    errors: Vec<Error>,
    matches: usize,
}

impl Outcome {
    fn take(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.matches += other.matches;
    }

    fn fail(&mut self, kind: ErrorType, path: &Path<'_>, value: Option<Value>, detail: impl Into<String>) {
        self.errors.push(Error { kind, field: path.to_string(), value, detail: detail.into() });
    }

    fn invalid(&mut self, path: &Path<'_>, value: Value, what: impl std::fmt::Display) {
        let detail = format!("{path} in body {what}");
        self.fail(ErrorType::Invalid, path, Some(value), detail);
    }

    /// What concerns several schemas has no place of its own.
    fn composite(&mut self, path: &Path<'_>, what: &str) {
        let detail = format!("{:?} {what}", path.to_string());
        self.errors.push(Error { kind: ErrorType::Invalid, field: "<nil>".into(), value: Some("".into()), detail });
    }
}

fn check(value: &Value, old: Option<&Value>, schema: &Schema, path: &Path<'_>) -> Outcome {
    let mut out = Outcome::default();
    if old == Some(value) {
        return out;
    }
    if !right_type(value, schema, path, &mut out) {
        // Go on: other rules may have to say something, too.
    } else {
        out.matches += 2;
    }
    if value.is_null() {
        enumeration(value, schema, path, &mut out);
        return out;
    }
    alternatives(value, old, schema, path, &mut out);
    match value {
        Value::String(text) => string(text, schema, path, &mut out),
        Value::Number(number) => self::number(number, value, schema, path, &mut out),
        Value::Array(items) => array(items, old, schema, path, &mut out),
        _ => {}
    }
    enumeration(value, schema, path, &mut out);
    if let Value::Object(map) = value {
        object(map, old, schema, path, &mut out);
    }
    out.matches += 1;
    out
}

fn right_type(value: &Value, schema: &Schema, path: &Path<'_>, out: &mut Outcome) -> bool {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let wanted = if schema.int_or_string { "integer,string" } else { schema.kind.as_str() };
    if wanted.is_empty() {
        return true;
    }
    let fits = match (value, schema.kind) {
        (Value::Null, _) => schema.nullable,
        (Value::String(_) | Value::Number(_), _) if schema.int_or_string => {
            value.is_string() || is == "integer" || whole(value)
        }
        (Value::Number(_), Kind::Integer) => is == "integer" || whole(value),
        (Value::Number(_), Kind::Number) => true,
        (_, kind) => is == kind.as_str(),
    };
    if !fits {
        let detail = format!("{path} in body must be of type {wanted}: {is:?}");
        out.fail(ErrorType::TypeInvalid, path, Some(is.into()), detail);
    }
    fits
}

fn whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn alternatives(value: &Value, old: Option<&Value>, schema: &Schema, path: &Path<'_>, out: &mut Outcome) {
    let closest = |failed: Vec<Outcome>| {
        failed.into_iter().fold(None::<Outcome>, |best, next| match best {
            Some(best) if best.matches >= next.matches => Some(best),
            _ => Some(next),
        })
    };
    if !schema.any_of.is_empty() {
        let mut failed = Vec::new();
        let mut found = None;
        for part in &schema.any_of {
            let result = check(value, old, part, path);
            if result.errors.is_empty() {
                found = Some(result);
                break;
            }
            failed.push(result);
        }
        match found {
            Some(found) => out.take(found),
            None => {
                out.composite(path, "must validate at least one schema (anyOf)");
                if let Some(best) = closest(failed) {
                    out.take(best);
                }
            }
        }
    }
    if !schema.one_of.is_empty() {
        let (good, failed): (Vec<_>, Vec<_>) =
            schema.one_of.iter().map(|part| check(value, old, part, path)).partition(|result| result.errors.is_empty());
        match good.len() {
            1 => good.into_iter().for_each(|result| out.take(result)),
            0 => {
                out.composite(path, "must validate one and only one schema (oneOf). Found none valid");
                if let Some(best) = closest(failed) {
                    out.take(best);
                }
            }
            n => {
                let what = format!("must validate one and only one schema (oneOf). Found {n} valid alternatives");
                out.composite(path, &what);
            }
        }
    }
    if !schema.all_of.is_empty() {
        let mut good = 0;
        for part in &schema.all_of {
            let result = check(value, old, part, path);
            good += usize::from(result.errors.is_empty());
            out.take(result);
        }
        if good < schema.all_of.len() {
            let none = if good == 0 { ". None validated" } else { "" };
            out.composite(path, &format!("must validate all the schemas (allOf){none}"));
        }
    }
    if let Some(not) = &schema.not
        && check(value, old, not, path).errors.is_empty()
    {
        out.composite(path, "must not validate the schema (not)");
    }
    out.matches += 1;
}

fn string(text: &str, schema: &Schema, path: &Path<'_>, out: &mut Outcome) {
    let length = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(most) = schema.max_length.filter(|most| length() > *most) {
        let detail = format!("may not be more than {most} bytes");
        out.fail(ErrorType::TooLong, path, None, detail);
    }
    if let Some(least) = schema.min_length.filter(|least| length() < *least) {
        out.invalid(path, text.into(), format_args!("should be at least {least} chars long"));
    }
    if let Some(pattern) = &schema.pattern {
        match &pattern.regex {
            Some(regex) if regex.is_match(text) => {}
            Some(_) => out.invalid(path, text.into(), format_args!("should match '{}'", pattern.text)),
            None => {
                let what = format!("should match '{}, but pattern is invalid: error parsing regexp'", pattern.text);
                out.invalid(path, text.into(), what);
            }
        }
    }
    if let Some(format) = &schema.format
        && matches!(schema.kind, Kind::String | Kind::Any)
        && format::check(format, text) == Some(false)
    {
        let detail = format!("{path} in body must be of type {format}: {text:?}");
        out.fail(ErrorType::TypeInvalid, path, Some(text.into()), detail);
    }
    out.matches += 1;
}

fn number(number: &serde_json::Number, value: &Value, schema: &Schema, path: &Path<'_>, out: &mut Outcome) {
    let Some(float) = number.as_f64() else { return };
    if let Some(factor) = schema.multiple_of.filter(|factor| *factor > 0.0) {
        let times = if factor < 1.0 { 1.0 / factor * float } else { float / factor };
        if (times - times.round()).abs() > 1e-9 {
            out.invalid(path, value.clone(), format_args!("should be a multiple of {}", go_float(factor)));
        }
    }
    if let Some(most) = schema.maximum {
        if schema.exclusive_maximum && float >= most {
            out.invalid(path, value.clone(), format_args!("should be less than {}", bound(number, most)));
        } else if float > most {
            out.invalid(path, value.clone(), format_args!("should be less than or equal to {}", bound(number, most)));
        }
    }
    if let Some(least) = schema.minimum {
        if schema.exclusive_minimum && float <= least {
            out.invalid(path, value.clone(), format_args!("should be greater than {}", bound(number, least)));
        } else if float < least {
            let bound = bound(number, least);
            out.invalid(path, value.clone(), format_args!("should be greater than or equal to {bound}"));
        }
    }
    out.matches += 1;
}

/// A bound as it is printed: that of an integer is one.
fn bound(number: &serde_json::Number, bound: f64) -> String {
    if number.is_f64() { go_float(bound) } else { format!("{}", bound.trunc()) }
}

/// `%v` of Go.
fn go_float(number: f64) -> String {
    let exponent = if number == 0.0 { 0.0 } else { number.abs().log10().floor() };
    if (-4.0..21.0).contains(&exponent) {
        return format!("{number}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, power)) => match power.strip_prefix('-') {
            Some(power) => format!("{digits}e-{power:0>2}"),
            None => format!("{digits}e+{power:0>2}"),
        },
        None => text,
    }
}

fn array(items: &[Value], old: Option<&Value>, schema: &Schema, path: &Path<'_>, out: &mut Outcome) {
    if let Some(item) = &schema.items {
        for (index, value) in items.iter().enumerate() {
            out.take(check(value, correlated(value, old, schema), item, &path.index(index)));
        }
    }
    let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(least) = schema.min_items.filter(|least| size < *least) {
        out.invalid(path, size.into(), format_args!("should have at least {least} items"));
    }
    if let Some(most) = schema.max_items.filter(|most| size > *most) {
        too_many(path, size, most, out);
    }
    if schema.unique_items && items.iter().enumerate().any(|(at, item)| items[..at].contains(item)) {
        out.invalid(path, Value::String(String::new()), "shouldn't contain duplicates");
    }
    out.matches += 1;
}

/// The item of the old list that `item` takes the place of, where the list tells: a map has keys.
pub(crate) fn correlated<'o>(item: &Value, old: Option<&'o Value>, schema: &Schema) -> Option<&'o Value> {
    if schema.list_type.as_deref() != Some("map") {
        return None;
    }
    let same = |old: &&Value| schema.list_map_keys.iter().all(|key| old.get(key) == item.get(key));
    old?.as_array()?.iter().find(same)
}

fn too_many(path: &Path<'_>, size: i64, most: i64, out: &mut Outcome) {
    let plural = if most == 1 { "" } else { "s" };
    out.fail(ErrorType::TooMany, path, Some(size.into()), format!("must have at most {most} item{plural}"));
}

fn object(map: &Map<String, Value>, old: Option<&Value>, schema: &Schema, path: &Path<'_>, out: &mut Outcome) {
    let size = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(least) = schema.min_properties.filter(|least| size < *least) {
        out.invalid(path, size.into(), format_args!("should have at least {least} properties"));
        return;
    }
    if let Some(most) = schema.max_properties.filter(|most| size > *most) {
        too_many(path, size, most, out);
        return;
    }
    for (name, value) in map {
        let old = old.and_then(|old| old.get(name));
        match (schema.properties.get(name), &schema.additional) {
            (Some(property), _) => out.take(check(value, old, property, &path.child(name))),
            (None, Some(Additional::Schema(additional))) => out.take(check(value, old, additional, &path.child(name))),
            (None, Some(Additional::Allowed(false))) => {
                let detail = format!("{}.{name} in body is a forbidden property", path);
                out.fail(ErrorType::Invalid, path, Some("".into()), detail);
            }
            (None, _) => {}
        }
    }
    for name in schema.required.iter().filter(|name| !map.contains_key(*name)) {
        out.fail(ErrorType::Required, &path.child(name), None, "");
    }
}

fn enumeration(value: &Value, schema: &Schema, path: &Path<'_>, out: &mut Outcome) {
    if schema.enumeration.is_empty() || schema.enumeration.iter().any(|allowed| same(allowed, value)) {
        out.matches += 1;
        return;
    }
    let texts: Vec<String> = schema
        .enumeration
        .iter()
        .map(|allowed| match allowed {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    out.errors.push(Error::not_supported(path, value, &texts));
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // No enumeration lets a null pass.
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    fn texts(definition: Value, object: Value) -> Vec<String> {
        validate(&object, &schema(definition), &Path::ROOT).iter().map(Error::to_string).collect()
    }

    fn of_spec(definition: Value) -> Value {
        json!({"type": "object", "properties": {"spec": definition}})
    }

    #[test]
    fn scalars_are_judged_in_upstreams_words() {
        for (definition, value, want) in [
            (
                json!({"type": "integer"}),
                json!("a"),
                "spec: Invalid value: \"string\": spec in body must be of type integer: \"string\"",
            ),
            (
                json!({"type": "string"}),
                json!(null),
                "spec: Invalid value: \"null\": spec in body must be of type string: \"null\"",
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                "spec: Invalid value: \"boolean\": spec in body must be of type integer,string: \"boolean\"",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                "spec: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                "spec: Invalid value: \"b\": spec in body should match '^a+$'",
            ),
            (json!({"type": "string", "maxLength": 2}), json!("abc"), "spec: Too long: may not be more than 2 bytes"),
            (
                json!({"type": "string", "minLength": 2}),
                json!("a"),
                "spec: Invalid value: \"a\": spec in body should be at least 2 chars long",
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("x"),
                "spec: Invalid value: \"x\": spec in body must be of type ipv4: \"x\"",
            ),
            (
                json!({"type": "integer", "minimum": 1}),
                json!(0),
                "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "integer", "maximum": 5, "exclusiveMaximum": true}),
                json!(5),
                "spec: Invalid value: 5: spec in body should be less than 5",
            ),
            (
                json!({"type": "number", "maximum": 0.5}),
                json!(0.75),
                "spec: Invalid value: 0.75: spec in body should be less than or equal to 0.5",
            ),
            (
                json!({"type": "integer", "multipleOf": 3}),
                json!(4),
                "spec: Invalid value: 4: spec in body should be a multiple of 3",
            ),
            (
                json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
                json!(["a", "b"]),
                "spec: Too many: 2: must have at most 1 item",
            ),
            (
                json!({"type": "array", "minItems": 1, "items": {"type": "string"}}),
                json!([]),
                "spec: Invalid value: 0: spec in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "items": {"type": "integer"}}),
                json!([1, "b"]),
                "spec[1]: Invalid value: \"string\": spec[1] in body must be of type integer: \"string\"",
            ),
            (json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required value"),
            (
                json!({"type": "object", "maxProperties": 1}),
                json!({"a": 1, "b": 2}),
                "spec: Too many: 2: must have at most 1 item",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"a": 1}),
                "spec.a: Invalid value: \"integer\": spec.a in body must be of type string: \"integer\"",
            ),
        ] {
            assert_eq!(texts(of_spec(definition.clone()), json!({"spec": value})), [want], "{definition}");
        }
    }

    #[test]
    fn what_fits_is_let_through() {
        for (definition, value) in [
            (json!({"type": "integer"}), json!(1.0)),
            (json!({"type": "number"}), json!(1)),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-int-or-string": true}), json!("80%")),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                json!(80),
            ),
            (json!({"type": "string", "format": "unheard-of"}), json!("x")),
            (json!({"x-kubernetes-preserve-unknown-fields": true}), json!([1, {"a": null}])),
            (json!({"type": "integer", "enum": [1, 2]}), json!(2.0)),
        ] {
            assert_eq!(texts(of_spec(definition.clone()), json!({"spec": value})), [""; 0], "{definition}");
        }
    }

    #[test]
    fn what_an_update_leaves_as_it_was_is_not_complained_about() {
        let schema = schema(json!({"type": "object", "properties": {
            "a": {"type": "integer", "minimum": 5}, "b": {"type": "integer"},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                     "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string"}}}},
        }}));
        let old = json!({"a": 1, "b": 1, "list": [{"k": "x", "v": 1}]});
        let new = json!({"a": 1, "b": "no", "list": [{"k": "y", "v": 2}, {"k": "x", "v": 1}]});
        let errors = validate_update(&new, Some(&old), &schema, &Path::ROOT);
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["b", "list[0].v"]);
    }

    #[test]
    fn of_alternatives_the_closest_failure_is_told() {
        let definition = of_spec(json!({
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
        }));
        let none = texts(definition.clone(), json!({"spec": {}}));
        assert_eq!(
            none,
            [
                "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid",
                "spec.a: Required value"
            ]
        );
        let both = texts(definition.clone(), json!({"spec": {"a": 1, "b": 1}}));
        assert_eq!(
            both,
            [
                "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives"
            ]
        );
        assert_eq!(texts(definition, json!({"spec": {"a": 1}})), [""; 0]);
        let not = of_spec(json!({"type": "string", "not": {"pattern": "^x"}}));
        assert_eq!(
            texts(not, json!({"spec": "xy"})),
            ["<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)"]
        );
    }

    #[test]
    fn large_and_small_numbers_print_as_go_prints_them() {
        for (number, text) in [(1.0, "1"), (0.5, "0.5"), (1e21, "1e+21"), (1.5e-7, "1.5e-07"), (100000.0, "100000")] {
            assert_eq!(go_float(number), text);
        }
    }
}

//! Rules in CEL (`x-kubernetes-validations`): compiled when a definition is made, evaluated for every object.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;
use serde_json::Value;
use skep_api::field::{Error, ErrorType, Errors, Path};
use skep_cel::{Budget, Environment, Inputs, Program, Type, Want};

use crate::{field_path, schema::Schema, validate::correlated};

mod check;

const OLD: &str = "oldSelf";
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The rules of a schema.
#[derive(Debug)]
pub struct Rules {
    own: Vec<Rule>,
    ty: Option<Type>,
    properties: BTreeMap<String, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    spec: ValidationRule,
    /// The field it complains about, as errors show it after the value's own path; empty for the value itself.
    field: String,
    /// With the text of what is wrong with it, if it cannot be used.
    program: Result<Program, String>,
    message: Option<Result<Program, String>>,
}

impl Rules {
    /// Compiles the rules of a schema; `json` is the same schema as it was written. None if there are no rules.
    pub fn new(schema: &Schema, json: &Value) -> Option<Self> {
        Self::compile(schema, json, true)
    }

    fn compile(schema: &Schema, json: &Value, root: bool) -> Option<Self> {
        if !schema.any(&|schema| !schema.validations.is_empty()) {
            return None;
        }
        let below = |schema: &Schema, json: Option<&Value>| Self::compile(schema, json?, false);
        let properties = schema.properties.iter().filter_map(|(name, property)| {
            Some((name.clone(), below(property, json.get("properties").and_then(|all| all.get(name)))?))
        });
        let additional = schema.additional_schema().and_then(|schema| below(schema, json.get("additionalProperties")));
        let items = schema.items.as_ref().and_then(|schema| below(schema, json.get("items")));
        let ty = Type::from_schema(json, root);
        let own = match &ty {
            Some(ty) => schema.validations.iter().map(|spec| Rule::compile(spec, schema, ty)).collect(),
            None => Vec::new(),
        };
        Some(Self {
            own,
            ty,
            properties: properties.collect(),
            additional: additional.map(Box::new),
            items: items.map(Box::new),
        })
    }

    /// What of `value` breaks a rule. `old` is what it takes the place of.
    pub fn validate(&self, value: &Value, old: Option<&Value>, schema: &Schema, path: &Path<'_>, errors: &mut Errors) {
        self.walk(value, old, schema, path, &mut Budget::new(Budget::PER_REQUEST), errors);
    }

    fn walk(
        &self,
        value: &Value,
        old: Option<&Value>,
        schema: &Schema,
        path: &Path<'_>,
        budget: &mut Budget,
        errors: &mut Errors,
    ) {
        // What an update leaves as it was is not complained about.
        if value.is_null() || old == Some(value) || budget.is_exhausted() {
            return;
        }
        for rule in &self.own {
            rule.evaluate(value, old, self.ty.as_ref(), schema, path, budget, errors);
            if budget.is_exhausted() {
                return;
            }
        }
        match value {
            Value::Object(map) => {
                for (name, member) in map {
                    let old = old.and_then(|old| old.get(name));
                    if let (Some(rules), Some(schema)) = (self.properties.get(name), schema.properties.get(name)) {
                        rules.walk(member, old, schema, &path.child(name), budget, errors);
                    } else if let (Some(rules), Some(schema)) = (&self.additional, schema.additional_schema()) {
                        rules.walk(member, old, schema, &path.key(name), budget, errors);
                    }
                }
            }
            Value::Array(items) => {
                if let (Some(rules), Some(inner)) = (&self.items, &schema.items) {
                    for (index, item) in items.iter().enumerate() {
                        rules.walk(item, correlated(item, old, schema), inner, &path.index(index), budget, errors);
                    }
                }
            }
            _ => {}
        }
    }

    /// The rules of a property.
    pub fn property(&self, name: &str) -> Option<&Self> {
        self.properties.get(name)
    }
}

impl Rule {
    fn compile(spec: &ValidationRule, schema: &Schema, ty: &Type) -> Self {
        let optional = spec.optional_old_self == Some(true);
        let old = if optional { Type::Optional(Arc::new(ty.clone())) } else { ty.clone() };
        let environment = Environment::new().with("self", ty.clone()).with(OLD, old);
        let compile = |source: &str, want| environment.compile(source, want).map_err(|error| error.to_string());
        let message = spec.message_expression.as_deref().filter(|source| !source.is_empty());
        Self {
            program: compile(&spec.rule, Want::Bool),
            message: message.map(|source| compile(source, Want::String)),
            field: spec.field_path.as_deref().and_then(|path| field_path::resolve(path, schema)).unwrap_or_default(),
            spec: spec.clone(),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a step of one walk")]
    fn evaluate(
        &self,
        value: &Value,
        old: Option<&Value>,
        ty: Option<&Type>,
        schema: &Schema,
        path: &Path<'_>,
        budget: &mut Budget,
        errors: &mut Errors,
    ) {
        let (Ok(program), Some(ty)) = (&self.program, ty) else { return };
        let transition = program.uses(OLD);
        let optional = self.spec.optional_old_self == Some(true);
        if transition && old.is_none() && !optional {
            return;
        }
        let mut inputs = Inputs::new().json("self", value);
        if optional {
            let old = old.map(|old| Rc::new(skep_cel::Value::typed(old, ty)));
            inputs = inputs.value(OLD, skep_cel::Value::Optional(old));
        } else if let Some(old) = old {
            inputs = inputs.json(OLD, old);
        }
        let mut complain = |detail: String, kind: ErrorType| {
            let mut field = path.to_string();
            if kind != ErrorType::Internal {
                field = format!("{field}{}", self.field).trim_start_matches('.').to_owned();
            }
            if field.is_empty() {
                "<nil>".clone_into(&mut field);
            }
            let kind = if kind == ErrorType::Internal { ErrorType::Invalid } else { kind };
            let shown = matches!(kind, ErrorType::Invalid | ErrorType::Duplicate);
            let value = shown.then(|| Value::from(schema.kind.as_str()));
            errors.push(Error { kind, field, value, detail });
        };
        match program.evaluate_bool(&inputs, budget) {
            Ok(true) => {}
            Ok(false) => {
                let made = match &self.message {
                    Some(Ok(message)) => message.evaluate_string(&inputs, budget).ok(),
                    _ => None,
                };
                // A message that says nothing, or too much, is none.
                let made =
                    made.filter(|text| !text.trim().is_empty() && text.len() <= 5120 && !text.contains(['\n', '\r']));
                let given = self.spec.message.clone().filter(|text| !text.trim().is_empty());
                let detail = made.map(|text| text.trim().to_owned()).or(given);
                let detail = detail.unwrap_or_else(|| format!("failed rule: {}", self.spec.rule.trim()));
                let kind = match self.spec.reason.as_deref() {
                    Some("FieldValueForbidden") => ErrorType::Forbidden,
                    Some("FieldValueRequired") => ErrorType::Required,
                    Some("FieldValueDuplicate") => ErrorType::Duplicate,
                    _ => ErrorType::Invalid,
                };
                complain(detail, kind);
            }
            Err(error) if error.is_out_of_budget() && budget.is_exhausted() => {
                complain(OUT_OF_BUDGET.to_owned(), ErrorType::Internal);
            }
            Err(error) if error.is_out_of_budget() => {
                let detail = format!("call cost exceeds limit for rule: {}", self.spec.rule.trim());
                complain(detail, ErrorType::Internal);
            }
            Err(error) => {
                let detail =
                    format!("{error} evaluating rule: {}", self.spec.message.as_deref().unwrap_or(&self.spec.rule));
                complain(detail, ErrorType::Internal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    fn spec(definition: Value) -> Value {
        json!({"type": "object", "properties": {"spec": definition}})
    }

    fn broken(definition: &Value, new: Value, old: Option<Value>) -> Vec<String> {
        let schema = schema(definition.clone());
        let rules = Rules::new(&schema, definition).unwrap();
        let mut errors = Errors::new();
        rules.check(&schema, &Path::new("schema"), &mut errors);
        assert_eq!(errors, []);
        rules.validate(&new, old.as_ref(), &schema, &Path::ROOT, &mut errors);
        errors.iter().map(Error::to_string).collect()
    }

    #[test]
    fn rules_are_told_as_upstream_tells_them() {
        let counted = |rule: Value| {
            spec(json!({"type": "object", "x-kubernetes-validations": [rule],
                        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}}}))
        };
        let bad = json!({"spec": {"min": 3, "max": 2}});
        for (rule, want) in [
            (
                json!({"rule": "self.min <= self.max"}),
                "spec: Invalid value: \"object\": failed rule: self.min <= self.max",
            ),
            (
                json!({"rule": "self.min <= self.max", "message": "min above max"}),
                "spec: Invalid value: \"object\": min above max",
            ),
            (
                json!({"rule": "self.min <= self.max", "messageExpression": "'min is ' + string(self.min)"}),
                "spec: Invalid value: \"object\": min is 3",
            ),
            (
                json!({"rule": "self.min <= self.max", "message": "no", "reason": "FieldValueForbidden", "fieldPath": ".min"}),
                "spec.min: Forbidden: no",
            ),
        ] {
            let definition = counted(rule);
            assert_eq!(broken(&definition, bad.clone(), None), [want]);
            assert_eq!(broken(&definition, json!({"spec": {"min": 1, "max": 2}}), None), [""; 0]);
        }
    }

    #[test]
    fn transitions_need_an_old_value() {
        let fixed = spec(
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed"}]}),
        );
        assert_eq!(broken(&fixed, json!({"spec": "a"}), None), [""; 0]);
        assert_eq!(broken(&fixed, json!({"spec": "a"}), Some(json!({"spec": "a"}))), [""; 0]);
        let changed = broken(&fixed, json!({"spec": "b"}), Some(json!({"spec": "a"})));
        assert_eq!(changed, ["spec: Invalid value: \"string\": fixed"]);
        let set_once = spec(json!({"type": "string", "x-kubernetes-validations": [
            {"rule": "oldSelf.hasValue() || self == 'first'", "message": "must be first", "optionalOldSelf": true},
        ]}));
        assert_eq!(broken(&set_once, json!({"spec": "x"}), None), ["spec: Invalid value: \"string\": must be first"]);
        assert_eq!(broken(&set_once, json!({"spec": "x"}), Some(json!({"spec": "y"}))), [""; 0]);
    }

    #[test]
    fn rules_that_cannot_be_used_are_refused() {
        let check = |definition: Value| {
            let schema = schema(definition.clone());
            let mut errors = Errors::new();
            Rules::new(&schema, &definition).unwrap().check(&schema, &Path::new("s"), &mut errors);
            errors.iter().map(Error::to_string).collect::<Vec<_>>()
        };
        let unknown =
            check(spec(json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.nothing > 1"}]})));
        assert_eq!(unknown.len(), 1);
        assert!(
            unknown[0].starts_with("s.properties[spec].x-kubernetes-validations[0].rule: Invalid value: "),
            "{unknown:?}"
        );
        assert!(
            unknown[0].contains("compilation failed: ERROR: <input>:1:5: undefined field 'nothing'"),
            "{unknown:?}"
        );
        let slow = check(spec(json!({"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, a == b))"}]})));
        assert!(slow[0].contains("estimated rule cost exceeds budget by factor of more than 100x"), "{slow:?}");
        let old = check(spec(json!({"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 10,
            "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}})));
        assert!(
            old[0].ends_with(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[spec]"
            ),
            "{old:?}"
        );
    }
}

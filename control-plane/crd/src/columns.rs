//! Table columns of custom resources (`additionalPrinterColumns`).

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use serde_json::{Value, json};

use crate::json_path::JsonPath;

const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
                    resources may allow a client to request the generation of an appropriate name automatically. Name \
                    is primarily intended for creation idempotence and configuration definition. Cannot be updated. \
                    More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It \
                       is not guaranteed to be set in happens-before order across separate operations. Clients may not \
                       set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. \
                       Read-only. Null for lists. More info: \
                       https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The columns of a version.
#[derive(Clone, Debug)]
pub struct Columns {
    definitions: Value,
    further: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    kind: String,
    path: Option<JsonPath>,
}

impl Columns {
    /// The name, and what the definition adds to it (the age, if nothing).
    pub fn new(further: &[CustomResourceColumnDefinition]) -> Self {
        let age = [CustomResourceColumnDefinition {
            name: "Age".to_owned(),
            type_: "date".to_owned(),
            description: Some(CREATED.to_owned()),
            json_path: ".metadata.creationTimestamp".to_owned(),
            ..CustomResourceColumnDefinition::default()
        }];
        let further = if further.is_empty() { &age } else { further };
        let definition = |column: &CustomResourceColumnDefinition| {
            let described = column.description.clone().unwrap_or_default();
            let described = match described.is_empty() {
                true => format!("Custom resource definition column (in JSONPath format): {}", column.json_path),
                false => described,
            };
            json!({
                "name": column.name,
                "type": column.type_,
                "format": column.format.as_deref().unwrap_or_default(),
                "description": described,
                "priority": column.priority.unwrap_or(0),
            })
        };
        let name = json!({"name": "Name", "type": "string", "format": "name", "description": NAME, "priority": 0});
        Self {
            definitions: std::iter::once(name).chain(further.iter().map(definition)).collect(),
            further: further
                .iter()
                .map(|column| Column { kind: column.type_.clone(), path: JsonPath::parse(&column.json_path) })
                .collect(),
        }
    }

    /// `columnDefinitions` of a table.
    pub fn definitions(&self) -> &Value {
        &self.definitions
    }

    /// The cells of an object. `age` prints the time since.
    pub fn row(&self, object: &Value, age: impl Fn(Timestamp) -> String) -> Vec<Value> {
        let name = object.pointer("/metadata/name").cloned().unwrap_or_else(|| "".into());
        let cell = |column: &Column| {
            let found = column.path.as_ref().and_then(|path| path.find(object).first().copied());
            found.map_or(Value::Null, |value| cell(&column.kind, value, &age))
        };
        std::iter::once(name).chain(self.further.iter().map(cell)).collect()
    }
}

fn cell(kind: &str, value: &Value, age: &impl Fn(Timestamp) -> String) -> Value {
    match (kind, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => "<nil>".into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) if number.is_f64() => {
            number.as_f64().map_or(Value::Null, |float| (float as i64).into())
        }
        ("integer" | "number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => age(time).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_of_the_columns_type() {
        let column = |name: &str, kind: &str, path: &str| CustomResourceColumnDefinition {
            name: name.to_owned(),
            type_: kind.to_owned(),
            json_path: path.to_owned(),
            ..CustomResourceColumnDefinition::default()
        };
        let columns = Columns::new(&[
            column("S", "string", ".spec.s"),
            column("M", "string", ".spec.m"),
            column("I", "integer", ".spec.i"),
            column("B", "boolean", ".spec.b"),
            column("Wrong", "boolean", ".spec.s"),
            column("D", "date", ".spec.d"),
            column("None", "string", ".spec.none"),
        ]);
        let object = json!({"metadata": {"name": "n"}, "spec": {
            "s": "text", "m": {"a": 1}, "i": 3, "b": true, "d": "2026-11-20T10:00:00Z",
        }});
        assert_eq!(
            columns.row(&object, |_| "5m".to_owned()),
            [
                json!("n"),
                json!("text"),
                json!("{\"a\":1}"),
                json!(3),
                json!(true),
                json!(null),
                json!("5m"),
                json!(null)
            ]
        );
        assert_eq!(
            columns.definitions()[1]["description"],
            "Custom resource definition column (in JSONPath format): .spec.s"
        );
        assert_eq!(Columns::new(&[]).definitions()[1]["name"], "Age");
    }
}

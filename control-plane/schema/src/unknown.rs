//! Fields an object has and its type does not (`fieldValidation=Strict` and `Warn`).

use std::fmt::Write as _;

use serde_json::Value;

use crate::types::{Shape, Type};

/// Paths of the unknown fields of `object`, in upstream's notation (`spec.containers[0].foo`, `data.a.b`), in the order of the
/// object. Values of a wrong kind are not looked into: decoding complains about those.
pub fn unknown_fields(of: Type, object: &Value) -> Vec<String> {
    let mut search = Search { path: String::new(), found: Vec::new() };
    search.value(Shape::Ref(of), object);
    search.found
}

struct Search {
    path: String,
    found: Vec<String>,
}

impl Search {
    // As deep as the schema, not as the value: recursive types (JSONSchemaProps) go as deep as the parser let the value be.
    fn value(&mut self, shape: Shape, value: &Value) {
        let length = self.path.len();
        match (shape.resolved(), value) {
            (Shape::Ref(of), Value::Object(members)) => {
                for (name, value) in members {
                    self.step(name);
                    match of.field(name) {
                        Some(field) => self.value(field.shape(), value),
                        None => self.found.push(self.path.clone()),
                    }
                    self.path.truncate(length);
                }
            }
            (Shape::Map(element), Value::Object(members)) => {
                for (name, value) in members {
                    self.step(name);
                    self.value(element.shape(), value);
                    self.path.truncate(length);
                }
            }
            (Shape::List(element), Value::Array(items)) => {
                for (at, item) in items.iter().enumerate() {
                    // A string takes all that is written to it.
                    let _ = write!(self.path, "[{at}]");
                    self.value(element.shape(), item);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::types;

    #[test]
    fn unknown_fields_are_named_by_their_path() {
        let pod = Type::of("", "v1", "Pod").unwrap();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a", "labels": {"any": "thing"}, "nme": "b"},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1}, {"containerPrt": 1}]}], "foo": 1},
            "bar": {"deep": {}},
        });
        let mut found = unknown_fields(pod, &object);
        found.sort();
        assert_eq!(found, ["bar", "metadata.nme", "spec.containers[0].ports[1].containerPrt", "spec.foo"]);
    }

    #[test]
    fn what_may_hold_anything_is_not_looked_into() {
        let crd = Type::of("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
        let default = json!({"any": {"thing": [1]}});
        let schema = json!({"properties": {"a": {"default": default, "tpe": "object"}}});
        let object = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
        let found = unknown_fields(crd, &object);
        assert_eq!(found, ["spec.versions[0].schema.openAPIV3Schema.properties.a.tpe"]);
    }

    /// Makes an object of the type, and puts an unknown field into some of its objects.
    struct Maker<'a> {
        choices: std::slice::Iter<'a, u8>,
        path: Vec<String>,
        injected: Vec<String>,
    }

    impl Maker<'_> {
        /// A number below `limit`; zero when the choices are used up, which ends the object.
        fn choose(&mut self, limit: u8) -> u8 {
            self.choices.next().map_or(0, |choice| choice % limit)
        }

        fn value(&mut self, shape: Shape) -> Value {
            match shape.resolved() {
                Shape::String(_) | Shape::Quantity => json!("a"),
                Shape::Integer(_) | Shape::Number(_) | Shape::IntOrString => json!(1),
                Shape::Boolean => json!(true),
                Shape::Object | Shape::Any | Shape::Struct => json!({"not": {"looked": "into"}}),
                Shape::List(element) => {
                    let last = self.path.pop().unwrap_or_default();
                    let count = self.choose(3);
                    let items = (0..count).map(|at| self.below(format!("{last}[{at}]"), element.shape())).collect();
                    self.path.push(last);
                    Value::Array(items)
                }
                Shape::Map(element) => {
                    let count = self.choose(3);
                    (0..count)
                        .map(|at| (format!("k{at}"), self.below(format!("k{at}"), element.shape())))
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                }
                Shape::Ref(of) => {
                    let mut members = serde_json::Map::new();
                    for field in of.fields() {
                        if self.choose(2) == 1 {
                            members.insert(field.name().to_owned(), self.below(field.name().to_owned(), field.shape()));
                        }
                    }
                    if self.choose(4) == 3 {
                        self.path.push("notAField".to_owned());
                        self.injected.push(self.path.join("."));
                        self.path.pop();
                        members.insert("notAField".to_owned(), json!({"its": ["own", "matter"]}));
                    }
                    members.into()
                }
            }
        }

        fn below(&mut self, name: String, shape: Shape) -> Value {
            self.path.push(name);
            let value = self.value(shape);
            self.path.pop();
            value
        }
    }

    proptest! {
        #[test]
        fn exactly_the_injected_fields_are_found(choices in prop::collection::vec(any::<u8>(), 0..400), which in any::<prop::sample::Index>()) {
            let kinds: Vec<Type> = types::kinds().map(|(_, of)| of).collect();
            let of = kinds[which.index(kinds.len())];
            let mut maker = Maker { choices: choices.iter(), path: Vec::new(), injected: Vec::new() };
            let object = maker.value(Shape::Ref(of));
            let mut found = unknown_fields(of, &object);
            found.sort();
            let mut injected = maker.injected;
            injected.sort();
            prop_assert_eq!(found, injected);
        }
    }
}

//! Label selectors, compiled, comparable and cheap to keep.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels, sorted by key. A slice and not a map: most objects have a handful.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The labels of an object's metadata.
    pub(crate) fn new(labels: Option<&BTreeMap<String, String>>) -> Self {
        Self(labels.into_iter().flatten().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        Some(&self.0[found].1)
    }
}

/// As kubectl writes them.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Requirement {
    In(Box<str>, Box<[Box<str>]>),
    NotIn(Box<str>, Box<[Box<str>]>),
    Exists(Box<str>),
    DoesNotExist(Box<str>),
    /// Of an operator nobody knows: validation refuses it; if one is met, it matches nothing.
    Never,
}

/// A selector: all its requirements must hold. Without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selector(Box<[Requirement]>);

impl Selector {
    /// Compiled from the API's form.
    pub(crate) fn new(selector: &LabelSelector) -> Self {
        let mut all = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            all.push(Requirement::In(key.as_str().into(), [Box::from(value.as_str())].into()));
        }
        for expression in selector.match_expressions.iter().flatten() {
            let key = Box::from(expression.key.as_str());
            let mut values: Vec<Box<str>> = expression.values.iter().flatten().map(|v| v.as_str().into()).collect();
            values.sort();
            all.push(match expression.operator.as_str() {
                "In" => Requirement::In(key, values.into()),
                "NotIn" => Requirement::NotIn(key, values.into()),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                _ => Requirement::Never,
            });
        }
        // In one order, so that selectors that say the same are one.
        all.sort();
        all.dedup();
        Self(all.into())
    }

    /// Does it match an object with these labels?
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let among = |values: &[Box<str>], value: &str| values.iter().any(|v| v.as_ref() == value);
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| among(values, value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !among(values, value)),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::DoesNotExist(key) => labels.get(key).is_none(),
            Requirement::Never => false,
        })
    }
}

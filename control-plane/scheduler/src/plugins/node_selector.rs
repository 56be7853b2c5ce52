//! Node selectors compiled once per pod: `nodeSelector`, required and preferred terms of node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::node_info::NodeFacts;

const NAME_FIELD: &str = "metadata.name";

/// One requirement on a label or field.
#[derive(Debug)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
    GreaterThan(String, i64),
    LessThan(String, i64),
}

impl Requirement {
    /// `None` when the requirement is invalid; upstream then lets its term match no node.
    fn parse(requirement: &NodeSelectorRequirement) -> Option<Self> {
        let key = requirement.key.clone();
        let values = requirement.values.clone().unwrap_or_default();
        let number = || match values.as_slice() {
            [value] => value.parse().ok(),
            _ => None,
        };
        Some(match requirement.operator.as_str() {
            "In" if !values.is_empty() => Self::In(key, values),
            "NotIn" if !values.is_empty() => Self::NotIn(key, values),
            "Exists" if values.is_empty() => Self::Exists(key),
            "DoesNotExist" if values.is_empty() => Self::DoesNotExist(key),
            "Gt" => Self::GreaterThan(key, number()?),
            "Lt" => Self::LessThan(key, number()?),
            _ => return None,
        })
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key: &String| labels.get(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
            Self::GreaterThan(key, than) => number(key).is_some_and(|value| value > *than),
            Self::LessThan(key, than) => number(key).is_some_and(|value| value < *than),
        }
    }
}

/// One term: all of its requirements must hold.
#[derive(Debug)]
pub(super) struct Term {
    labels: Vec<Requirement>,
    /// Node names wanted (`true`) or unwanted.
    names: Vec<(bool, String)>,
}

impl Term {
    /// `None` when the term matches no node: it is empty or invalid.
    pub(super) fn parse(term: &NodeSelectorTerm) -> Option<Self> {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        if expressions.is_empty() && fields.is_empty() {
            return None;
        }
        let labels = expressions.iter().map(Requirement::parse).collect::<Option<_>>()?;
        let names = fields.iter().map(|field| {
            let value = match field.values.as_deref() {
                Some([value]) if field.key == NAME_FIELD => value.clone(),
                _ => return None,
            };
            match field.operator.as_str() {
                "In" => Some((true, value)),
                "NotIn" => Some((false, value)),
                _ => None,
            }
        });
        Some(Self { labels, names: names.collect::<Option<_>>()? })
    }

    pub(super) fn matches(&self, node: &NodeFacts) -> bool {
        self.labels.iter().all(|requirement| requirement.matches(&node.labels))
            && self.names.iter().all(|(wanted, name)| (**name == *node.name) == *wanted)
    }

    /// The names the term asks for by field; more than one can never be met together.
    pub(super) fn wanted_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.iter().filter(|(wanted, _)| *wanted).map(|(_, name)| &**name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

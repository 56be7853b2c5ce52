//! What is wrong with rules: told when a definition is written.

use skep_api::field::{Error, Errors, Path};
use skep_cel::Type;

use super::{OLD, Rule, Rules};
use crate::schema::Schema;

/// What one rule may cost by estimation, for all values of one object it is evaluated for.
const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a schema may.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// So many of the dearest expressions are named when a schema costs too much.
const NAMED: usize = 4;

/// What the expressions of a schema cost together.
#[derive(Default)]
struct Total {
    cost: u64,
    /// The dearest, the first the most: what they cost and where they are. Small change is not noted.
    dearest: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, path: &Path<'_>, cost: u64) {
        self.cost = self.cost.saturating_add(cost);
        if cost >= SCHEMA_LIMIT / 100 {
            self.dearest.push((cost, path.to_string()));
            self.dearest.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.dearest.truncate(NAMED);
        }
    }
}

/// Where the walk through a schema is.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// How often a value of this schema may be in one object.
    times: u64,
    /// The part of the schema within which no old value can be told, if this is in one.
    blocked: Option<&'a str>,
}

impl Rules {
    /// What is wrong with the rules themselves. `path` is that of the schema.
    pub fn check(&self, schema: &Schema, path: &Path<'_>, errors: &mut Errors) {
        let mut total = Total::default();
        self.check_below(schema, path, Place { times: 1, blocked: None }, &mut total, errors);
        if total.cost > SCHEMA_LIMIT {
            for (_, path) in total.dearest {
                let detail =
                    "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
                errors.push(Error::forbidden(&Path::new(&path), detail));
            }
            let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            errors.push(Error::forbidden(path, too_expensive(what, total.cost, SCHEMA_LIMIT)));
        }
    }

    fn check_below(&self, schema: &Schema, path: &Path<'_>, at: Place<'_>, total: &mut Total, errors: &mut Errors) {
        let list = path.child("x-kubernetes-validations");
        for (i, rule) in self.own.iter().enumerate() {
            rule.check(&list.index(i), at, total, errors);
        }
        let here = path.to_string();
        let atomic = schema.map_type.as_deref() == Some("atomic");
        let blocked = at.blocked.or(atomic.then_some(here.as_str()));
        for (name, rules) in &self.properties {
            if let Some(schema) = schema.properties.get(name) {
                rules.check_below(schema, &path.child("properties").key(name), Place { blocked, ..at }, total, errors);
            }
        }
        let many = match &self.ty {
            Some(Type::List(list)) => list.max,
            Some(Type::Map(map)) => map.max,
            _ => None,
        };
        let times = at.times.saturating_mul(many.unwrap_or(u64::MAX));
        if let (Some(rules), Some(schema)) = (&self.additional, schema.additional_schema()) {
            rules.check_below(schema, &path.child("additionalProperties"), Place { times, blocked }, total, errors);
        }
        if let (Some(rules), Some(items)) = (&self.items, &schema.items) {
            let map = schema.list_type.as_deref() == Some("map");
            let blocked = at.blocked.or((!map).then_some(here.as_str()));
            rules.check_below(items, &path.child("items"), Place { times, blocked }, total, errors);
        }
    }
}

impl Rule {
    fn check(&self, item: &Path<'_>, at: Place<'_>, total: &mut Total, errors: &mut Errors) {
        let (rule_at, message_at) = (item.child("rule"), item.child("messageExpression"));
        if let Ok(program) = &self.program {
            let cost = program.cost().max.saturating_mul(at.times);
            if cost > RULE_LIMIT {
                errors.push(Error::forbidden(&rule_at, too_expensive("estimated rule cost", cost, RULE_LIMIT)));
            }
            total.add(&rule_at, cost);
        }
        if let Err(why) = &self.program {
            errors.push(Error::invalid(&rule_at, &self.spec, format!("compilation failed: {why}")));
        }
        match &self.message {
            None => {}
            Some(Ok(message)) => {
                let cost = message.cost().max;
                if cost > RULE_LIMIT {
                    let detail = too_expensive("estimated messageExpression cost", cost, RULE_LIMIT);
                    errors.push(Error::forbidden(&message_at, detail));
                }
                total.add(&message_at, cost);
            }
            Some(Err(why)) => {
                let detail = format!("messageExpression compilation failed: {why}");
                errors.push(Error::invalid(&message_at, &self.spec, detail));
            }
        }
        let Ok(program) = &self.program else { return };
        if !program.uses(OLD) {
            if let Some(optional) = self.spec.optional_old_self {
                let detail = "may not be set if oldSelf is not used in rule";
                errors.push(Error::invalid(&item.child("optionalOldSelf"), optional, detail));
            }
        } else if let Some(blocked) = at.blocked {
            let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {blocked}");
            errors.push(Error::invalid(&rule_at, &self.spec.rule, detail));
        }
    }
}

fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

//! LimitRanges.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use serde_json::Value;
use skep_api::Quantity;
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::cell;
use super::checks::{self, canonical};
use super::strategy::{Column, Strategy};
use super::table_info::info;

/// The strategy of limit ranges.
#[derive(Debug)]
pub(crate) struct LimitRanges;

type Amounts = BTreeMap<String, WireQuantity>;

impl Strategy for LimitRanges {
    type Object = LimitRange;

    fn info(&self) -> &'static ResourceInfo {
        info("", "limitranges")
    }

    fn prefix(&self) -> &'static str {
        "/registry/limitranges/"
    }

    fn default(&self, range: &mut LimitRange) {
        for item in range.spec.iter_mut().flat_map(|s| &mut s.limits) {
            for list in [
                &mut item.default,
                &mut item.default_request,
                &mut item.max,
                &mut item.max_limit_request_ratio,
                &mut item.min,
            ] {
                canonical(list);
            }
            if item.type_ == "Container" {
                let limits = fill(item.default.take(), &item.max);
                let requests = fill(item.default_request.take(), &limits);
                item.default_request = fill(requests, &item.min);
                item.default = limits;
            }
        }
    }

    fn validate(&self, range: &LimitRange) -> Errors {
        let mut errors = Errors::new();
        let list = Path::new("spec.limits");
        let mut seen: Vec<&str> = Vec::new();
        for (i, item) in range.spec.iter().flat_map(|s| &s.limits).enumerate() {
            let path = list.index(i);
            checks::name(&mut errors, &path.child("type"), &item.type_, skep_api::name::qualified_name);
            if seen.contains(&item.type_.as_str()) {
                errors.push(Error::duplicate(&path.child("type"), &item.type_));
            }
            seen.push(&item.type_);
            validate_item(item, &path, &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::CREATED_AT] }
    }

    fn row(&self, range: &LimitRange, _now: Timestamp) -> Vec<Value> {
        vec![cell::name(&range.metadata), cell::created_at(&range.metadata)]
    }
}

/// Adds what `own` does not say from `other`.
fn fill(own: Option<Amounts>, other: &Option<Amounts>) -> Option<Amounts> {
    let mut amounts = own.unwrap_or_default();
    for (name, amount) in other.iter().flatten() {
        amounts.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    (!amounts.is_empty()).then_some(amounts)
}

fn validate_item(item: &LimitRangeItem, path: &Path<'_>, errors: &mut Errors) {
    if item.type_ == "Pod" {
        for (field, list) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
            if list.as_ref().is_some_and(|l| !l.is_empty()) {
                errors.push(Error::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
            }
        }
    }
    if item.type_ == "PersistentVolumeClaim"
        && ![&item.min, &item.max].into_iter().flatten().any(|l| l.contains_key("storage"))
    {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(Error::required(&path.child("limits"), why));
    }
    let at = |list: &Option<Amounts>, name: &str| {
        list.as_ref().and_then(|l| l.get(name)).and_then(|q| Quantity::parse(&q.0).ok())
    };
    let lists = [&item.min, &item.max, &item.default, &item.default_request, &item.max_limit_request_ratio];
    let mut names: Vec<&String> = lists.into_iter().flatten().flat_map(BTreeMap::keys).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (min, max) = (at(&item.min, name), at(&item.max, name));
        let (request, limit) = (at(&item.default_request, name), at(&item.default, name));
        // What must not be greater than what: (field, its name in words, amount), twice.
        let orders = [
            ("min", "min", min, "max", max),
            ("defaultRequest", "min", min, "default request", request),
            ("defaultRequest", "default request", request, "max", max),
            ("defaultRequest", "default request", request, "default limit", limit),
            ("default", "min", min, "default", limit),
            ("default", "default", limit, "max", max),
        ];
        for (field, low_name, low, high_name, high) in orders {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                // The complaint shows the amount of the field it is about.
                let shown = if high_name.starts_with(field) || (field == "defaultRequest" && low_name == "min") {
                    high
                } else {
                    low
                };
                let why = format!("{low_name} value {low} is greater than {high_name} value {high}");
                errors.push(Error::invalid(&path.child(field).key(name), shown.to_string(), why));
            }
        }
        if let Some(ratio) = at(&item.max_limit_request_ratio, name) {
            let at = path.child("maxLimitRequestRatio");
            if ratio.milli_value() < 1000 {
                let why = format!("ratio {ratio} is less than 1");
                errors.push(Error::invalid(&at.key(name), ratio.to_string(), why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(item: Value) -> LimitRange {
        let mut range = serde_json::from_value(json!({"spec": {"limits": [item]}})).unwrap();
        LimitRanges.default(&mut range);
        range
    }

    #[test]
    fn requests_and_limits_of_containers_follow_min_and_max() {
        let made = range(json!({"type": "Container", "max": {"cpu": "1000m"}, "min": {"memory": "1Mi"}}));
        let made = serde_json::to_value(made).unwrap();
        let item = &made["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "1"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "1", "memory": "1Mi"}));
    }

    #[test]
    fn min_is_not_above_max() {
        let found = LimitRanges.validate(&range(json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}})));
        assert_eq!(
            found[0].to_string(),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
    }
}

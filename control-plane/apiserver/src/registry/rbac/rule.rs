//! What roles consist of.

use k8s_openapi::api::rbac::v1::PolicyRule;
use skep_api::field::{Error, Errors, Path};

/// Checks the rules of a role.
pub(super) fn validate(rules: &Option<Vec<PolicyRule>>, namespaced: bool) -> Errors {
    let mut errors = Errors::new();
    let list = Path::new("rules");
    for (i, rule) in rules.iter().flatten().enumerate() {
        validate_rule(rule, namespaced, &list.index(i), &mut errors);
    }
    errors
}

fn validate_rule(rule: &PolicyRule, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if rule.verbs.is_empty() {
        errors.push(Error::required(&path.child("verbs"), "verbs must contain at least one value"));
    }
    if given(&rule.non_resource_urls) {
        let at = path.child("nonResourceURLs");
        if namespaced {
            let why = "namespaced rules cannot apply to non-resource URLs";
            errors.push(Error::invalid(&at, &rule.non_resource_urls, why));
        }
        if given(&rule.api_groups) || given(&rule.resources) || given(&rule.resource_names) {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(Error::invalid(&at, &rule.non_resource_urls, why));
        }
        return;
    }
    if !given(&rule.api_groups) {
        errors.push(Error::required(&path.child("apiGroups"), "resource rules must supply at least one api group"));
    }
    if !given(&rule.resources) {
        errors.push(Error::required(&path.child("resources"), "resource rules must supply at least one resource"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_about_resources_or_paths() {
        let rules = serde_json::from_value(json!([
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics"]},
            {"apiGroups": [""]},
        ]))
        .unwrap();
        let texts: Vec<_> = validate(&rules, true).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "rules[1].nonResourceURLs: Invalid value: [\"/metrics\"]: namespaced rules cannot apply to non-resource \
                 URLs",
                "rules[2].verbs: Required value: verbs must contain at least one value",
                "rules[2].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        assert_eq!(validate(&rules, false).len(), 2);
    }
}

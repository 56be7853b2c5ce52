//! What policies and their bindings have in common: which requests they are about.

use k8s_openapi::api::admissionregistration::v1::MatchResources;
use skep_api::field::{Errors, Path};

use super::webhook::{validate_operations, validate_policies, validate_rule};
use crate::registry::checks;

pub(super) fn set_defaults(matching: &mut MatchResources) {
    matching.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
    matching.namespace_selector.get_or_insert_default();
    matching.object_selector.get_or_insert_default();
    let rules = matching.resource_rules.iter_mut().chain(matching.exclude_resource_rules.iter_mut());
    for rule in rules.flatten() {
        rule.scope.get_or_insert_with(|| "*".to_owned());
    }
}

pub(super) fn validate(matching: &MatchResources, path: &Path<'_>, errors: &mut Errors) {
    validate_policies(&None, &matching.match_policy, path, errors);
    let selectors =
        [("namespaceSelector", &matching.namespace_selector), ("objectSelector", &matching.object_selector)];
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            checks::selector(errors, &path.child(field), selector);
        }
    }
    let lists =
        [("resourceRules", &matching.resource_rules), ("excludeResourceRules", &matching.exclude_resource_rules)];
    for (field, rules) in lists {
        let list = path.child(field);
        for (i, rule) in rules.iter().flatten().enumerate() {
            let path = list.index(i);
            validate_operations(&rule.operations, &path, errors);
            validate_rule(&rule.api_groups, &rule.api_versions, &rule.resources, &rule.scope, &path, errors);
        }
    }
}

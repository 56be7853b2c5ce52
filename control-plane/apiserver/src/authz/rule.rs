//! What a rule of a role allows, and whether rules allow all that others do.

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::Attributes;

/// Stands for every verb, group, resource or path.
const ALL: &str = "*";

/// Whether the rule allows it.
pub(crate) fn allows(rule: &PolicyRule, wanted: &Attributes<'_>) -> bool {
    if !has(&rule.verbs, wanted.verb) {
        return false;
    }
    if !wanted.is_resource {
        return some(&rule.non_resource_urls).iter().any(|url| matches_path(url, wanted.path));
    }
    has(some(&rule.api_groups), wanted.group)
        && some(&rule.resources).iter().any(|own| matches_resource(own, wanted.resource, wanted.subresource))
        && (some(&rule.resource_names).is_empty() || some(&rule.resource_names).iter().any(|own| own == wanted.name))
}

fn some(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == wanted || own == ALL)
}

fn matches_resource(own: &str, resource: &str, subresource: &str) -> bool {
    if own == ALL {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((ALL, sub)) => !sub.is_empty() && sub == subresource,
        Some((parent, sub)) => parent == resource && sub == subresource && !sub.is_empty(),
    }
}

fn matches_path(own: &str, path: &str) -> bool {
    own == ALL || own == path || (own.ends_with('*') && path.starts_with(own.trim_end_matches('*')))
}

/// The parts of `wanted` that `owned` do not allow, each with one verb, one group, one resource and one name or with one
/// verb and one path.
pub(crate) fn missing(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(break_down).filter(|part| !owned.iter().any(|rule| covers(rule, part))).collect()
}

/// The rule as rules of one thing each.
fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| vec![text.clone()];
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for url in some(&rule.non_resource_urls) {
            parts.push(PolicyRule { verbs: one(verb), non_resource_urls: Some(one(url)), ..PolicyRule::default() });
        }
        for group in some(&rule.api_groups) {
            for resource in some(&rule.resources) {
                let part = |names: Option<Vec<String>>| PolicyRule {
                    verbs: one(verb),
                    api_groups: Some(one(group)),
                    resources: Some(one(resource)),
                    resource_names: names,
                    ..PolicyRule::default()
                };
                if some(&rule.resource_names).is_empty() {
                    parts.push(part(None));
                }
                parts.extend(some(&rule.resource_names).iter().map(|name| part(Some(one(name)))));
            }
        }
    }
    parts
}

/// Whether a rule allows a broken-down one.
fn covers(owner: &PolicyRule, part: &PolicyRule) -> bool {
    if !part.verbs.iter().all(|verb| has(&owner.verbs, verb)) {
        return false;
    }
    let urls = some(&part.non_resource_urls);
    if !urls.is_empty() {
        // A path with a star is owned by the same, or by one that is as wide.
        return urls.iter().all(|url| some(&owner.non_resource_urls).iter().any(|own| covers_path(own, url)));
    }
    let resource = |wanted: &String| {
        some(&owner.resources).iter().any(|own| {
            own == ALL
                || own == wanted
                || own.strip_prefix("*/").is_some_and(|sub| wanted.split_once('/').is_some_and(|(_, own)| own == sub))
        })
    };
    let (own, names) = (some(&owner.resource_names), some(&part.resource_names));
    some(&part.api_groups).iter().all(|group| has(some(&owner.api_groups), group))
        && some(&part.resources).iter().all(resource)
        && (own.is_empty() || (!names.is_empty() && names.iter().all(|name| own.contains(name))))
}

fn covers_path(own: &str, wanted: &str) -> bool {
    own == ALL || own == wanted || (own.ends_with('*') && wanted.starts_with(own.trim_end_matches('*')))
}

/// Broken-down rules that differ in the verb alone, as one.
pub(crate) fn compact(parts: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for part in parts {
        let same = |rule: &&mut PolicyRule| {
            rule.api_groups == part.api_groups
                && rule.resources == part.resources
                && rule.resource_names == part.resource_names
                && rule.non_resource_urls == part.non_resource_urls
                && part.non_resource_urls.is_none()
        };
        match rules.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => rules.push(part),
        }
    }
    rules
}

/// A rule in upstream's short notation.
pub(crate) fn describe(rule: &PolicyRule) -> String {
    let lists = [
        ("APIGroups", some(&rule.api_groups)),
        ("Resources", some(&rule.resources)),
        ("NonResourceURLs", some(&rule.non_resource_urls)),
        ("ResourceNames", some(&rule.resource_names)),
        ("Verbs", &rule.verbs),
    ];
    let parts = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let parts: Vec<_> = parts.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", parts.join(", "))
}

/// Strings as upstream prints a list of them.
pub(crate) fn quoted(list: &[String]) -> String {
    let quoted: Vec<_> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::user::UserInfo;

    fn rule(value: Value) -> PolicyRule {
        serde_json::from_value(value).unwrap()
    }

    fn resource(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        rule(json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names}))
    }

    #[test]
    fn a_rule_allows_what_it_names_and_no_more() {
        let user = UserInfo::authenticated("x", []);
        let wants = |verb, group, resource: &'static str, name| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            Attributes { subresource, ..Attributes::resource(&user, verb, group, resource).named(name) }
        };
        let pods = resource(&["get", "list"], &[""], &["pods", "pods/log"], &[]);
        assert!(allows(&pods, &wants("get", "", "pods", "a")));
        assert!(allows(&pods, &wants("list", "", "pods", "")));
        assert!(allows(&pods, &wants("get", "", "pods/log", "a")));
        assert!(!allows(&pods, &wants("get", "", "pods/exec", "a")));
        assert!(!allows(&pods, &wants("watch", "", "pods", "")));
        assert!(!allows(&pods, &wants("get", "apps", "pods", "a")));
        assert!(!allows(&pods, &wants("get", "", "secrets", "a")));

        let named = resource(&["*"], &[""], &["secrets"], &["a"]);
        assert!(allows(&named, &wants("delete", "", "secrets", "a")));
        assert!(!allows(&named, &wants("delete", "", "secrets", "b")));
        assert!(!allows(&named, &wants("list", "", "secrets", "")), "a name restricts lists too");
        assert!(!allows(&named, &wants("create", "", "secrets", "")));

        let all = resource(&["*"], &["*"], &["*"], &[]);
        assert!(allows(&all, &wants("frobnicate", "x.io", "things/sub", "a")));
        let scales = resource(&["get"], &["*"], &["*/scale"], &[]);
        assert!(allows(&scales, &wants("get", "apps", "deployments/scale", "a")));
        assert!(!allows(&scales, &wants("get", "apps", "deployments", "a")));
        assert!(!allows(&scales, &wants("get", "apps", "deployments/status", "a")));
        // Nothing is not everything.
        assert!(!allows(&resource(&[], &["*"], &["*"], &[]), &wants("get", "", "pods", "a")));
        assert!(!allows(&resource(&["*"], &[], &["*"], &[]), &wants("get", "", "pods", "a")));
        assert!(!allows(&resource(&["*"], &["*"], &[], &[]), &wants("get", "", "pods", "a")));
    }

    #[test]
    fn paths_match_whole_or_by_their_beginning() {
        let user = UserInfo::authenticated("x", []);
        let may = |url: &str, verb, path| {
            let rule = rule(json!({"verbs": ["get"], "nonResourceURLs": [url]}));
            let wanted = Attributes { is_resource: false, path, ..Attributes::resource(&user, verb, "", "") };
            allows(&rule, &wanted)
        };
        assert!(may("/healthz", "get", "/healthz"));
        assert!(!may("/healthz", "get", "/healthz/etcd"));
        assert!(!may("/healthz", "post", "/healthz"));
        assert!(may("/apis/*", "get", "/apis/apps"));
        assert!(!may("/apis/*", "get", "/apis"));
        assert!(may("*", "get", "/"));
        // A rule about resources says nothing about paths, and the other way round.
        let all = resource(&["*"], &["*"], &["*"], &[]);
        let path = Attributes { is_resource: false, path: "/", ..Attributes::resource(&user, "get", "", "") };
        assert!(!allows(&all, &path));
        let urls = rule(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        assert!(!allows(&urls, &Attributes::resource(&user, "get", "", "pods")));
    }

    #[test]
    fn what_is_missing_is_named_in_short() {
        let owned = [resource(&["get", "list"], &[""], &["pods"], &[]), resource(&["get"], &["*"], &["*/scale"], &[])];
        let none: [PolicyRule; 0] = [];
        let texts =
            |wanted: PolicyRule| -> Vec<String> { compact(missing(&owned, &[wanted])).iter().map(describe).collect() };
        assert_eq!(texts(resource(&["get"], &[""], &["pods"], &[])), none.each_ref().map(describe));
        assert_eq!(texts(resource(&["get"], &[""], &["pods"], &["a"])), none.each_ref().map(describe));
        assert_eq!(texts(resource(&["get"], &["apps"], &["deployments/scale"], &[])), none.each_ref().map(describe));
        assert_eq!(
            texts(resource(&["get", "delete", "watch"], &[""], &["pods", "secrets"], &[])),
            [
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "delete" "watch"]}"#,
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#,
            ]
        );
        assert_eq!(
            texts(resource(&["*"], &["*"], &["*"], &[])),
            [r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#]
        );
        assert_eq!(
            texts(rule(json!({"verbs": ["get"], "nonResourceURLs": ["/a"]}))),
            [r#"{NonResourceURLs:["/a"], Verbs:["get"]}"#]
        );
        // A right to one object is no right to all.
        let one = [resource(&["get"], &[""], &["pods"], &["a"])];
        assert_eq!(missing(&one, &[resource(&["get"], &[""], &["pods"], &[])]).len(), 1);
        assert_eq!(missing(&one, &[resource(&["get"], &[""], &["pods"], &["a", "b"])]).len(), 1);
    }
}

//! Which requests a webhook or policy is about.

use std::sync::{OnceLock, Weak};

use k8s_openapi::{
    api::admissionregistration::v1::{MatchResources, NamedRuleWithOperations, RuleWithOperations},
    apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector,
};
use serde_json::Value;
use skep_api::{resource::ResourceInfo, selector::LabelSelector, status::StatusError};
use skep_storage::{Resource, Storage};

use super::{Attributes, Operation};
use crate::{
    registry::{generic::Registry, object::Object},
    service::Shared,
};

/// The group whose objects decide who is asked; nobody is asked about them.
const OWN_GROUP: &str = "admissionregistration.k8s.io";

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: Scope,
    /// No name: any.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Any,
    Namespaced,
    Cluster,
}

impl Rule {
    pub(super) fn of(rule: RuleWithOperations) -> Self {
        Self::new(rule.operations, rule.api_groups, rule.api_versions, rule.resources, rule.scope, None)
    }

    fn named(rule: NamedRuleWithOperations) -> Self {
        let names = rule.resource_names;
        Self::new(rule.operations, rule.api_groups, rule.api_versions, rule.resources, rule.scope, names)
    }

    fn new(
        operations: Option<Vec<String>>,
        groups: Option<Vec<String>>,
        versions: Option<Vec<String>>,
        resources: Option<Vec<String>>,
        scope: Option<String>,
        names: Option<Vec<String>>,
    ) -> Self {
        let scope = match scope.as_deref() {
            Some("Namespaced") => Scope::Namespaced,
            Some("Cluster") => Scope::Cluster,
            _ => Scope::Any,
        };
        Self {
            operations: operations.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            versions: versions.unwrap_or_default(),
            resources: resources.unwrap_or_default(),
            scope,
            names: names.unwrap_or_default(),
        }
    }

    /// Whether it is about this request, were the resource asked for in `group` and `version`.
    fn matches(&self, attributes: &Attributes<'_>, group: &str, version: &str, name: &str) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|it| it == "*" || it == wanted);
        self.matches_resource(&attributes.info.plural, attributes.subresource)
            && any(&self.operations, attributes.operation.as_str())
            && any(&self.groups, group)
            && any(&self.versions, version)
            && match self.scope {
                Scope::Any => true,
                Scope::Namespaced => attributes.info.namespaced,
                Scope::Cluster => !attributes.info.namespaced,
            }
            && (self.names.is_empty() || self.names.iter().any(|it| it == name))
    }

    fn matches_resource(&self, plural: &str, subresource: &str) -> bool {
        self.resources.iter().any(|wanted| match wanted.split_once('/') {
            None => subresource.is_empty() && (wanted == "*" || wanted == plural),
            Some((resource, part)) => {
                // `*/*` is every resource and every subresource; `x/*` every subresource of x, and `x` itself is not one.
                (resource == "*" || resource == plural)
                    && (part == subresource || part == "*" && (resource == "*" || !subresource.is_empty()))
            }
        })
    }
}

/// Rules and selectors of a webhook, a policy or a binding.
#[derive(Debug)]
pub(super) struct Matching {
    rules: Vec<Rule>,
    exclude: Vec<Rule>,
    /// An empty list of rules matches everything (bindings).
    all: bool,
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// In which version a request is about what the rules name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    No,
    /// As asked for.
    Exact,
    /// As if it were asked for in this group and version.
    As {
        group: String,
        version: String,
    },
}

impl Matching {
    pub(super) fn new(
        rules: Vec<RuleWithOperations>,
        match_policy: Option<&str>,
        namespaces: Option<&WireSelector>,
        objects: Option<&WireSelector>,
    ) -> Result<Self, StatusError> {
        Ok(Self {
            rules: rules.into_iter().map(Rule::of).collect(),
            exclude: Vec::new(),
            all: false,
            equivalent: match_policy != Some("Exact"),
            namespaces: selector(namespaces)?,
            objects: selector(objects)?,
        })
    }

    /// Of a policy, or (`all`) of a binding, where no rules mean no restriction.
    pub(super) fn of(matching: MatchResources, all: bool) -> Result<Self, StatusError> {
        Ok(Self {
            all,
            equivalent: matching.match_policy.as_deref() != Some("Exact"),
            namespaces: selector(matching.namespace_selector.as_ref())?,
            objects: selector(matching.object_selector.as_ref())?,
            rules: matching.resource_rules.into_iter().flatten().map(Rule::named).collect(),
            exclude: matching.exclude_resource_rules.into_iter().flatten().map(Rule::named).collect(),
        })
    }

    /// Whether any rule may be about this resource, whatever the version, names and selectors say: cheap, and never wrong
    /// about a no.
    pub(super) fn may_match(&self, attributes: &Attributes<'_>) -> bool {
        attributes.info.group != OWN_GROUP
            && (self.all && self.rules.is_empty()
                || self.rules.iter().any(|rule| {
                    rule.matches_resource(&attributes.info.plural, attributes.subresource)
                        && rule.operations.iter().any(|it| it == "*" || it == attributes.operation.as_str())
                }))
    }

    /// Whether it is about this request.
    pub(super) fn matches(&self, world: &World, attributes: &Attributes<'_>, object: Option<&dyn Object>) -> Match {
        if !self.may_match(attributes) {
            return Match::No;
        }
        let labels = |object: &dyn Object| {
            let labels = object.meta().labels.clone().unwrap_or_default();
            self.objects.matches(|key| labels.get(key).map(String::as_str))
        };
        if !self.objects.is_empty() && ![object, attributes.old].into_iter().flatten().any(labels) {
            return Match::No;
        }
        if !self.namespaces.is_empty() && !world.namespace_matches(&self.namespaces, attributes, object) {
            return Match::No;
        }
        let name = name_of(attributes, object);
        let found = |rules: &[Rule]| {
            let own = (&*attributes.info.group, &*attributes.info.version);
            if rules.iter().any(|rule| rule.matches(attributes, own.0, own.1, name)) {
                return Match::Exact;
            }
            if self.equivalent && matches!(attributes.subresource, "" | "status") {
                for (group, version) in world.equivalents(attributes.info) {
                    if rules.iter().any(|rule| rule.matches(attributes, &group, &version, name)) {
                        return Match::As { group, version };
                    }
                }
            }
            Match::No
        };
        if !self.exclude.is_empty() && found(&self.exclude) != Match::No {
            return Match::No;
        }
        if self.all && self.rules.is_empty() {
            return Match::Exact;
        }
        found(&self.rules)
    }
}

fn selector(wire: Option<&WireSelector>) -> Result<LabelSelector, StatusError> {
    wire.map_or_else(|| Ok(LabelSelector::everything()), |wire| LabelSelector::from_optional(Some(wire)))
}

/// The name of what the request is about.
pub(super) fn name_of<'a>(attributes: &Attributes<'a>, object: Option<&'a dyn Object>) -> &'a str {
    match attributes.name {
        "" => object.map(Object::meta).and_then(|meta| meta.name.as_deref()).unwrap_or_default(),
        name => name,
    }
}

/// The namespace of the request as admission tells it: that of a Namespace is itself.
pub(super) fn namespace_of<'a>(attributes: &Attributes<'a>) -> &'a str {
    if attributes.info.plural == "namespaces" && attributes.info.group.is_empty() {
        return attributes.name;
    }
    attributes.scope.namespace.filter(|_| attributes.info.namespaced).unwrap_or_default()
}

/// What matching needs to know of the cluster.
pub(crate) struct World {
    namespaces: Option<Resource>,
    shared: OnceLock<Weak<Shared>>,
}

impl World {
    pub(crate) fn new(storage: &Storage) -> Self {
        Self { namespaces: storage.resource("/registry/namespaces/"), shared: OnceLock::new() }
    }

    /// Tells it of the server, once that is there.
    pub(crate) fn attach(&self, shared: Weak<Shared>) {
        // Set once, by the server that made it.
        let _ = self.shared.set(shared);
    }

    pub(super) fn shared(&self) -> Option<std::sync::Arc<Shared>> {
        self.shared.get()?.upgrade()
    }

    /// A namespace's stored JSON.
    pub(super) fn namespace(&self, name: &str) -> Option<std::sync::Arc<skep_storage::Object>> {
        self.namespaces.as_ref()?.get(&format!("/registry/namespaces/{name}"))
    }

    fn namespace_matches(
        &self,
        selector: &LabelSelector,
        attributes: &Attributes<'_>,
        object: Option<&dyn Object>,
    ) -> bool {
        let is_namespace = attributes.is("", "namespaces");
        if let Some(object) =
            object.filter(|_| is_namespace && matches!(attributes.operation, Operation::Create | Operation::Update))
        {
            let labels = object.meta().labels.clone().unwrap_or_default();
            return selector.matches(|key| labels.get(key).map(String::as_str));
        }
        let name = namespace_of(attributes);
        if name.is_empty() {
            return true;
        }
        match self.namespace(name) {
            Some(namespace) => selector.matches(|key| namespace.label(key)),
            None => selector.matches(|_| None),
        }
    }

    /// Other groups and versions the same objects are served under.
    fn equivalents(&self, info: &ResourceInfo) -> Vec<(String, String)> {
        let Some(shared) = self.shared() else { return Vec::new() };
        let Some(own) = shared.registries.get(&info.group, &info.version, &info.plural) else { return Vec::new() };
        let custom = shared.registries.custom();
        let all = shared.registries.built_in().iter().chain(custom.iter());
        all.filter(|other| {
            let other_info = other.info();
            other_info.plural == info.plural
                && other.strategy.prefix() == own.strategy.prefix()
                && (other_info.group != info.group || other_info.version != info.version)
        })
        .map(|other| (other.info().group.to_string(), other.info().version.to_string()))
        .collect()
    }

    /// An object's JSON in another version of its resource.
    pub(super) async fn convert(
        &self,
        plural: &str,
        from: (&str, &str),
        to: (&str, &str),
        json: Value,
    ) -> Result<Value, StatusError> {
        let missing = || StatusError::internal_error(format!("{plural} is no longer served in {}/{}", to.0, to.1));
        let shared = self.shared().ok_or_else(missing)?;
        let from = shared.registries.get(from.0, from.1, plural).ok_or_else(missing)?;
        let to = shared.registries.get(to.0, to.1, plural).ok_or_else(missing)?;
        let bytes = convert(&from, &to, json).await?;
        serde_json::from_slice(&bytes).map_err(StatusError::internal_error)
    }
}

async fn convert(from: &Registry, to: &Registry, json: Value) -> Result<Vec<u8>, StatusError> {
    use super::Codec as _;
    let bytes = serde_json::to_vec(&json).map_err(StatusError::internal_error)?;
    match &from.conversion {
        Some(conversion) => {
            let stored = conversion.store(bytes).await?;
            Ok(to.show(&stored.into()).await?.to_vec())
        }
        None => to.to_json(&*from.to_object(json)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(resources: &[&str]) -> Rule {
        Rule {
            operations: vec!["*".into()],
            groups: vec!["*".into()],
            versions: vec!["*".into()],
            resources: resources.iter().map(|it| (*it).to_owned()).collect(),
            scope: Scope::Any,
            names: Vec::new(),
        }
    }

    #[test]
    fn stars_cover_resources_and_subresources_as_upstream() {
        for (resources, plural, part, expected) in [
            (&["pods"][..], "pods", "", true),
            (&["pods"], "pods", "status", false),
            (&["*"], "pods", "", true),
            (&["*"], "pods", "status", false),
            (&["pods/*"], "pods", "status", true),
            (&["pods/*"], "pods", "", false),
            (&["*/status"], "pods", "status", true),
            (&["*/status"], "pods", "scale", false),
            (&["*/*"], "pods", "", true),
            (&["*/*"], "pods", "exec", true),
            (&["pods/attach"], "pods", "attach", true),
            (&["nodes", "pods"], "pods", "", true),
        ] {
            assert_eq!(rule(resources).matches_resource(plural, part), expected, "{resources:?} {plural}/{part}");
        }
    }
}

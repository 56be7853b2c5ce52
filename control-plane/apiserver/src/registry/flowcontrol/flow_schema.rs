//! FlowSchemas.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, FlowSchemaStatus, PolicyRulesWithSubjects, Subject};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::GROUP;
use crate::registry::cell;
use crate::registry::checks::{required, text};
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;

/// The strategy of flow schemas.
#[derive(Debug)]
pub(crate) struct FlowSchemas;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("PriorityLevel", "string", "Reference to the PriorityLevelConfiguration."),
    Column::new("MatchingPrecedence", "string", "Lower ones are tried first."),
    Column::new("DistinguisherMethod", "string", "How flows are told apart."),
    Column::AGE,
    Column::new("MissingPL", "string", "References a broken or non-existent PriorityLevelConfiguration"),
];
const DEFAULT_PRECEDENCE: i32 = 1000;
const MAX_PRECEDENCE: i32 = 10_000;
const METHODS: [&str; 2] = ["ByNamespace", "ByUser"];

impl Strategy for FlowSchemas {
    type Object = FlowSchema;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "flowschemas")
    }

    fn prefix(&self) -> &'static str {
        "/registry/flowschemas/"
    }

    fn default(&self, schema: &mut FlowSchema) {
        let spec = schema.spec.get_or_insert_default();
        spec.matching_precedence = spec.matching_precedence.filter(|p| *p != 0).or(Some(DEFAULT_PRECEDENCE));
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, schema: &mut FlowSchema) {
        schema.status = Some(FlowSchemaStatus::default());
    }

    fn validate(&self, schema: &FlowSchema) -> Errors {
        let mut errors = Errors::new();
        let spec = schema.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let at = path.child("matchingPrecedence");
        let precedence = spec.matching_precedence.unwrap_or(0);
        if precedence <= 0 {
            errors.push(Error::invalid(&at, precedence, "must be a positive value"));
        }
        if precedence > MAX_PRECEDENCE {
            errors.push(Error::invalid(&at, precedence, format!("must not be greater than {MAX_PRECEDENCE}")));
        }
        if precedence == 1 && text(&schema.metadata.name) != "exempt" {
            errors.push(Error::invalid(
                &at,
                precedence,
                "only the schema named 'exempt' may have matchingPrecedence 1",
            ));
        }
        if let Some(method) = spec.distinguisher_method.as_ref().filter(|m| !METHODS.contains(&m.type_.as_str())) {
            errors.push(Error::not_supported(&path.child("distinguisherMethod.type"), &method.type_, &METHODS));
        }
        required(&mut errors, &path.child("priorityLevelConfiguration.name"), &spec.priority_level_configuration.name);
        let list = path.child("rules");
        for (i, rule) in spec.rules.iter().flatten().enumerate() {
            validate_rule(rule, &list.index(i), &mut errors);
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, schema: &mut FlowSchema, old: &FlowSchema) {
        schema.status.clone_from(&old.status);
    }

    fn bumps_generation(&self, schema: &FlowSchema, old: &FlowSchema) -> bool {
        schema.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, schema: &mut FlowSchema, old: &FlowSchema) {
        schema.spec.clone_from(&old.spec);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, schema: &FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = schema.spec.clone().unwrap_or_default();
        let conditions = schema.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let dangling = conditions.iter().find(|c| text(&c.type_) == "Dangling");
        vec![
            cell::name(&schema.metadata),
            json!(spec.priority_level_configuration.name),
            json!(spec.matching_precedence.unwrap_or(0)),
            json!(spec.distinguisher_method.as_ref().map_or("<none>", |m| &m.type_)),
            cell::age(&schema.metadata, now),
            json!(dangling.map_or("?", |c| text(&c.status))),
        ]
    }
}

fn validate_rule(rule: &PolicyRulesWithSubjects, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("subjects");
    if rule.subjects.is_empty() {
        errors.push(Error::required(&list, "subjects must contain at least one value"));
    }
    for (i, subject) in rule.subjects.iter().enumerate() {
        validate_subject(subject, &list.index(i), errors);
    }
    if rule.resource_rules.as_ref().is_none_or(Vec::is_empty)
        && rule.non_resource_rules.as_ref().is_none_or(Vec::is_empty)
    {
        errors.push(Error::required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    let list = path.child("resourceRules");
    for (i, rule) in rule.resource_rules.iter().flatten().enumerate() {
        let path = list.index(i);
        for (field, values) in [("verbs", &rule.verbs), ("apiGroups", &rule.api_groups), ("resources", &rule.resources)]
        {
            validate_values(values, &path, field, errors);
        }
        if rule.cluster_scope != Some(true) && rule.namespaces.as_ref().is_none_or(Vec::is_empty) {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(Error::required(&path.child("namespaces"), why));
        }
    }
    let list = path.child("nonResourceRules");
    for (i, rule) in rule.non_resource_rules.iter().flatten().enumerate() {
        let path = list.index(i);
        validate_values(&rule.verbs, &path, "verbs", errors);
        validate_values(&rule.non_resource_urls, &path, "nonResourceURLs", errors);
    }
}

/// A list that says something, and nothing beside `*`.
fn validate_values(values: &[String], path: &Path<'_>, field: &str, errors: &mut Errors) {
    let path = path.child(field);
    if values.is_empty() {
        errors.push(Error::required(&path, format!("{field} must contain at least one value")));
    }
    if values.len() > 1 && values.iter().any(|value| value == "*") {
        errors.push(Error::invalid(&path, values, format!("if '*' is present, must not specify other {field}")));
    }
}

fn validate_subject(subject: &Subject, path: &Path<'_>, errors: &mut Errors) {
    let needed = |field: &str, kind: &str| {
        Error::required(&path.child(field), format!("{field} is required when subject kind is '{kind}'"))
    };
    match (subject.kind.as_str(), &subject.user, &subject.group, &subject.service_account) {
        ("User", None, ..) => errors.push(needed("user", "User")),
        ("User", Some(user), ..) => required(errors, &path.child("user.name"), &user.name),
        ("Group", _, None, _) => errors.push(needed("group", "Group")),
        ("Group", _, Some(group), _) => required(errors, &path.child("group.name"), &group.name),
        ("ServiceAccount", _, _, None) => errors.push(needed("serviceAccount", "ServiceAccount")),
        ("ServiceAccount", _, _, Some(account)) => {
            required(errors, &path.child("serviceAccount.name"), &account.name);
            required(errors, &path.child("serviceAccount.namespace"), &account.namespace);
        }
        (other, ..) => {
            let kinds = ["Group", "ServiceAccount", "User"];
            errors.push(Error::not_supported(&path.child("kind"), other, &kinds));
        }
    }
}

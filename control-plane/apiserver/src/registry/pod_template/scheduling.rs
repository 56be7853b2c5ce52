//! Validation of what the scheduler reads: tolerations, affinity, spread constraints, gates.

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint,
};
use skep_api::field::{Error, Errors, Path};
use skep_api::{meta, name};

use crate::registry::checks::{self, one_of, text};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Checks what the scheduler reads of a pod spec.
pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_tolerations(spec.tolerations.as_deref().unwrap_or_default(), &path.child("tolerations"), errors);
    if let Some(affinity) = &spec.affinity {
        validate_affinity(affinity, &path.child("affinity"), errors);
    }
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    validate_spread(constraints, &path.child("topologySpreadConstraints"), errors);
    let list = path.child("schedulingGates");
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        checks::name(errors, &list.index(i), &gate.name, name::qualified_name);
        if spec.scheduling_gates.iter().flatten().take(i).any(|g| g.name == gate.name) {
            errors.push(Error::duplicate(&list.index(i), &gate.name));
        }
    }
    let list = path.child("readinessGates");
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        checks::name(errors, &list.index(i).child("conditionType"), &gate.condition_type, name::qualified_name);
    }
}

/// Checks tolerations.
pub(crate) fn validate_tolerations(list: &[Toleration], path: &Path<'_>, errors: &mut Errors) {
    for (i, toleration) in list.iter().enumerate() {
        let path = path.index(i);
        let key = text(&toleration.key);
        let operator = text(&toleration.operator);
        if !key.is_empty() {
            checks::name(errors, &path.child("key"), key, name::qualified_name);
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(&path.child("operator"), operator, why));
        }
        if toleration.toleration_seconds.is_some() && text(&toleration.effect) != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(&path.child("effect"), text(&toleration.effect), why));
        }
        match operator {
            "" | "Equal" => {
                let value = text(&toleration.value);
                let complaints = name::label_value(value);
                if !complaints.is_empty() {
                    errors.push(Error::invalid(&path.child("operator"), value, complaints.join(";")));
                }
            }
            "Exists" => {
                if !text(&toleration.value).is_empty() {
                    let why = "value must be empty when `operator` is 'Exists'";
                    errors.push(Error::invalid(&path.child("operator"), toleration, why));
                }
            }
            other => errors.push(Error::not_supported(&path.child("operator"), other, &["Equal", "Exists"])),
        }
        let effect = text(&toleration.effect);
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(Error::not_supported(&path.child("effect"), effect, &EFFECTS));
        }
    }
}

fn validate_affinity(affinity: &Affinity, path: &Path<'_>, errors: &mut Errors) {
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            let path = path.child("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
            if required.node_selector_terms.is_empty() {
                errors.push(Error::required(&path, "must have at least one node selector term"));
            }
            for (i, term) in required.node_selector_terms.iter().enumerate() {
                validate_node_term(term, &path.index(i), errors);
            }
        }
        let list = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in node.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
            let path = list.index(i);
            validate_weight(term.weight, &path, errors);
            validate_node_term(&term.preference, &path.child("preference"), errors);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        let path = path.child("podAffinity");
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default();
        validate_pod_terms(required, &path, errors);
        let list = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in pod.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
            validate_weight(term.weight, &list.index(i), errors);
            validate_pod_term(&term.pod_affinity_term, &list.index(i).child("podAffinityTerm"), errors);
        }
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default();
        validate_pod_terms(required, &path, errors);
        let list = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, term) in pod.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
            validate_weight(term.weight, &list.index(i), errors);
            validate_pod_term(&term.pod_affinity_term, &list.index(i).child("podAffinityTerm"), errors);
        }
    }
}

fn validate_weight(weight: i32, path: &Path<'_>, errors: &mut Errors) {
    if !(1..=100).contains(&weight) {
        errors.push(Error::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn validate_pod_terms(terms: &[PodAffinityTerm], path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in terms.iter().enumerate() {
        validate_pod_term(term, &list.index(i), errors);
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Errors) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            errors.extend(meta::validate_label_selector(selector, &path.child(field)));
        }
    }
    for namespace in term.namespaces.iter().flatten() {
        checks::name(errors, &path.child("namespace"), namespace, name::dns1123_label);
    }
    if term.topology_key.is_empty() {
        errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
    } else {
        checks::name(errors, &path.child("topologyKey"), &term.topology_key, name::qualified_name);
    }
}

fn validate_node_term(term: &NodeSelectorTerm, path: &Path<'_>, errors: &mut Errors) {
    let lists = [("matchExpressions", &term.match_expressions), ("matchFields", &term.match_fields)];
    for (field, requirements) in lists {
        let list = path.child(field);
        for (i, requirement) in requirements.iter().flatten().enumerate() {
            let path = list.index(i);
            let values = requirement.values.as_deref().unwrap_or_default();
            match requirement.operator.as_str() {
                "In" | "NotIn" if values.is_empty() => {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    errors.push(Error::required(&path.child("values"), why));
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    errors.push(Error::forbidden(&path.child("values"), why));
                }
                "Gt" | "Lt" if values.len() != 1 => {
                    let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    errors.push(Error::required(&path.child("values"), why));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => {
                    errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator"));
                }
            }
            if field == "matchFields" {
                if requirement.key != "metadata.name" {
                    let why = "not a valid field selector key";
                    errors.push(Error::invalid(&path.child("key"), &requirement.key, why));
                }
            } else {
                checks::name(errors, &path.child("key"), &requirement.key, name::qualified_name);
            }
        }
    }
}

fn validate_spread(list: &[TopologySpreadConstraint], path: &Path<'_>, errors: &mut Errors) {
    for (i, constraint) in list.iter().enumerate() {
        let path = path.index(i);
        if constraint.max_skew <= 0 {
            errors.push(Error::invalid(&path.child("maxSkew"), constraint.max_skew, checks::POSITIVE));
        }
        if constraint.topology_key.is_empty() {
            errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
        }
        let supported = ["DoNotSchedule", "ScheduleAnyway"];
        one_of(errors, &path.child("whenUnsatisfiable"), &constraint.when_unsatisfiable, &supported);
        let pair = |c: &TopologySpreadConstraint| (c.topology_key.clone(), c.when_unsatisfiable.clone());
        if list[..i].iter().any(|c| pair(c) == pair(constraint)) {
            let both = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            errors.push(Error::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), both));
        }
        if let Some(selector) = &constraint.label_selector {
            errors.extend(meta::validate_label_selector(selector, &path.child("labelSelector")));
        }
    }
}

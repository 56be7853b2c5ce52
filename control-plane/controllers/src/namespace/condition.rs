//! The conditions that tell why a namespace is still there.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};

use super::content::Outcome;
use crate::meta;

/// Sets all five conditions after a pass.
pub(super) fn update(status: &mut NamespaceStatus, outcome: &Outcome) {
    let discovery = (!outcome.undiscovered.is_empty()).then(|| {
        let groups =
            outcome.undiscovered.iter().map(|(group, reason)| format!("{group}: {reason}")).collect::<Vec<_>>();
        (
            "DiscoveryFailed",
            format!("Discovery failed for some groups, {} failing: {}", groups.len(), groups.join(", ")),
        )
    });
    set(
        status,
        "NamespaceDeletionDiscoveryFailure",
        discovery,
        "ResourcesDiscovered",
        "All resources successfully discovered",
    );
    set(
        status,
        "NamespaceDeletionGroupVersionParsingFailure",
        None,
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    );
    let content = (!outcome.failures.is_empty()).then(|| {
        let count = outcome.failures.len();
        (
            "ContentDeletionFailed",
            format!("Failed to delete all resource types, {count} remaining: {}", outcome.failures.join(", ")),
        )
    });
    set(
        status,
        "NamespaceDeletionContentFailure",
        content,
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    );
    let remaining = (!outcome.remaining.is_empty()).then(|| {
        let list = join(&outcome.remaining, |resource, count| format!("{resource} has {count} resource instances"));
        ("SomeResourcesRemain", format!("Some resources are remaining: {list}"))
    });
    set(status, "NamespaceContentRemaining", remaining, "ContentRemoved", "All content successfully removed");
    let finalizers = (!outcome.finalizers.is_empty()).then(|| {
        let list = join(&outcome.finalizers, |finalizer, count| format!("{finalizer} in {count} resource instances"));
        ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {list}"))
    });
    set(
        status,
        "NamespaceFinalizersRemaining",
        finalizers,
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
    );
}

fn join(counts: &BTreeMap<String, usize>, text: impl Fn(&str, usize) -> String) -> String {
    counts.iter().map(|(name, count)| text(name, *count)).collect::<Vec<_>>().join(", ")
}

/// True with the problem's reason and message, or False with the good ones. The good state is written only over a bad
/// one or on the first pass.
fn set(status: &mut NamespaceStatus, type_: &str, problem: Option<(&str, String)>, ok_reason: &str, ok_message: &str) {
    let (value, reason, message) = match problem {
        Some((reason, message)) => ("True", reason.to_owned(), message),
        None => ("False", ok_reason.to_owned(), ok_message.to_owned()),
    };
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter_mut().find(|condition| condition.type_ == type_);
    if let Some(known) = known {
        if known.status != value {
            known.last_transition_time = Some(meta::now());
        }
        known.status = value.to_owned();
        known.reason = Some(reason);
        known.message = Some(message);
    } else {
        conditions.push(NamespaceCondition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: Some(reason),
            message: Some(message),
            last_transition_time: Some(meta::now()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_pods_are_named_and_later_cleared() {
        let mut status = NamespaceStatus::default();
        let mut outcome = Outcome::default();
        outcome.remaining.insert("pods.".into(), 2);
        update(&mut status, &outcome);
        let find = |status: &NamespaceStatus| {
            let conditions = status.conditions.clone().unwrap_or_default();
            conditions.into_iter().find(|c| c.type_ == "NamespaceContentRemaining").unwrap()
        };
        let condition = find(&status);
        assert_eq!(condition.status, "True");
        assert_eq!(condition.message.as_deref(), Some("Some resources are remaining: pods. has 2 resource instances"));
        update(&mut status, &Outcome::default());
        assert_eq!(find(&status).reason.as_deref(), Some("ContentRemoved"));
        assert_eq!(status.conditions.map(|c| c.len()), Some(5));
    }
}

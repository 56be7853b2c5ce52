//! Whose names are accepted: definitions of one group share plural, singular and short names, and kinds.

use std::collections::BTreeSet;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, CustomResourceDefinitionNames},
    jiff::Timestamp,
};

use crate::definition::{is_true, set_condition};

/// Names that are taken in a group.
#[derive(Debug, Default)]
struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    /// The names accepted of the other definitions of the group of `crd`.
    fn by_others<'a>(
        crd: &CustomResourceDefinition,
        all: impl IntoIterator<Item = &'a CustomResourceDefinition>,
    ) -> Self {
        let mut taken = Self::default();
        for other in all {
            if other.spec.group != crd.spec.group || other.metadata.name == crd.metadata.name {
                continue;
            }
            let Some(names) = other.status.as_ref().and_then(|status| status.accepted_names.as_ref()) else { continue };
            taken.resources.insert(names.plural.clone());
            taken.resources.extend(names.singular.clone());
            taken.resources.extend(names.short_names.iter().flatten().cloned());
            taken.kinds.insert(names.kind.clone());
            taken.kinds.extend(names.list_kind.clone());
        }
        taken
    }
}

/// Decides about the names of `crd` and whether it is established, and writes both into its status. `all` are all
/// definitions there are.
pub fn accept<'a>(
    crd: &mut CustomResourceDefinition,
    all: impl IntoIterator<Item = &'a CustomResourceDefinition>,
    now: Timestamp,
) {
    let taken = Taken::by_others(crd, all);
    let wanted = crd.spec.names.clone();
    let mut accepted = crd.status.as_ref().and_then(|status| status.accepted_names.clone()).unwrap_or_default();
    let mut conflict: Option<(&str, String)> = None;
    let mut try_name = |name: &str, own: &str, used: &BTreeSet<String>, reason: &'static str| {
        let free = name == own || !used.contains(name);
        if !free {
            conflict = Some((reason, format!("{name:?} is already in use")));
        }
        free
    };
    if try_name(&wanted.plural, &accepted.plural, &taken.resources, "PluralConflict") {
        accepted.plural.clone_from(&wanted.plural);
    }
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    if try_name(&text(&wanted.singular), &text(&accepted.singular), &taken.resources, "SingularConflict") {
        accepted.singular.clone_from(&wanted.singular);
    }
    let own: Vec<String> = accepted.short_names.clone().unwrap_or_default();
    let shorts = wanted.short_names.clone().unwrap_or_default();
    let fresh = shorts.iter().filter(|short| !own.contains(short));
    // All of them are tried: each conflict is told.
    let conflicts = fresh.filter(|short| !try_name(short, "", &taken.resources, "ShortNamesConflict")).count();
    if conflicts == 0 {
        accepted.short_names.clone_from(&wanted.short_names);
    }
    if try_name(&wanted.kind, &accepted.kind, &taken.kinds, "KindConflict") {
        accepted.kind.clone_from(&wanted.kind);
    }
    if try_name(&text(&wanted.list_kind), &text(&accepted.list_kind), &taken.kinds, "ListKindConflict") {
        accepted.list_kind.clone_from(&wanted.list_kind);
    }
    accepted.categories.clone_from(&wanted.categories);
    set_names(crd, accepted);
    match conflict {
        Some((reason, message)) => {
            set_condition(crd, ("NamesAccepted", false, reason, &message), now);
            if !is_true(crd, "Established") {
                set_condition(crd, ("Established", false, "NotAccepted", "not all names are accepted"), now);
            }
        }
        None => {
            set_condition(crd, ("NamesAccepted", true, "NoConflicts", "no conflicts found"), now);
            let message = "the initial names have been accepted";
            set_condition(crd, ("Established", true, "InitialNamesAccepted", message), now);
        }
    }
}

fn set_names(crd: &mut CustomResourceDefinition, accepted: CustomResourceDefinitionNames) {
    crd.status.get_or_insert_default().accepted_names = Some(accepted);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::condition;

    fn crd(plural: &str, kind: &str, short: &[&str]) -> CustomResourceDefinition {
        let mut crd = CustomResourceDefinition::default();
        crd.metadata.name = Some(format!("{plural}.example.com"));
        crd.spec.group = "example.com".to_owned();
        crd.spec.names.plural = plural.to_owned();
        crd.spec.names.kind = kind.to_owned();
        crd.spec.names.short_names = Some(short.iter().map(|short| (*short).to_owned()).collect());
        crate::definition::default(&mut crd);
        crd
    }

    #[test]
    fn the_first_to_take_a_name_has_it() {
        let mut first = crd("foos", "Foo", &["f"]);
        accept(&mut first, [], Timestamp::UNIX_EPOCH);
        assert!(is_true(&first, "NamesAccepted") && is_true(&first, "Established"));

        let mut second = crd("bars", "Bar", &["f"]);
        accept(&mut second, [&first], Timestamp::UNIX_EPOCH);
        let names = condition(&second, "NamesAccepted").unwrap();
        assert_eq!(names.reason.as_deref(), Some("ShortNamesConflict"));
        assert_eq!(names.message.as_deref(), Some("\"f\" is already in use"));
        assert_eq!(condition(&second, "Established").unwrap().reason.as_deref(), Some("NotAccepted"));

        // The name is free again.
        accept(&mut second, [], Timestamp::UNIX_EPOCH);
        assert!(is_true(&second, "Established"));
        assert_eq!(second.status.unwrap().accepted_names.unwrap().short_names, Some(vec!["f".to_owned()]));
    }

    #[test]
    fn an_established_definition_stays_so_when_it_wants_another_name() {
        let mut first = crd("foos", "Foo", &["f"]);
        accept(&mut first, [], Timestamp::UNIX_EPOCH);
        let mut second = crd("bars", "Bar", &[]);
        accept(&mut second, [&first], Timestamp::UNIX_EPOCH);
        second.spec.names.short_names = Some(vec!["f".to_owned()]);
        accept(&mut second, [&first], Timestamp::UNIX_EPOCH);
        assert!(!is_true(&second, "NamesAccepted") && is_true(&second, "Established"));
    }
}

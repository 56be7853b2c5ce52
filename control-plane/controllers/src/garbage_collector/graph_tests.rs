use super::*;

fn identity(kind: &str, name: &str) -> Identity {
    Identity {
        api_version: "v1".into(),
        kind: kind.into(),
        namespace: "ns".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
    }
}

fn owned_by(owners: &[&str]) -> ObjectMeta {
    let owners = owners.iter().map(|name| OwnerReference {
        api_version: "v1".into(),
        kind: "Owner".into(),
        name: (*name).into(),
        uid: format!("uid-{name}"),
        controller: None,
        block_owner_deletion: Some(true),
    });
    ObjectMeta { owner_references: Some(owners.collect()), ..Default::default() }
}

fn deleting(finalizer: &str) -> ObjectMeta {
    ObjectMeta { deletion_timestamp: Some(meta::now()), finalizers: Some(vec![finalizer.into()]), ..Default::default() }
}

#[test]
fn an_unknown_owner_becomes_a_virtual_node_that_is_looked_at() {
    let mut graph = Graph::default();
    let todo = graph.apply(identity("Pod", "p"), &owned_by(&["o"]));
    assert_eq!(todo.delete, ["uid-o"]);
    assert!(!graph.get("uid-o").unwrap().observed);
    assert_eq!(graph.apply(identity("Owner", "o"), &ObjectMeta::default()), Todo::default());
    assert!(graph.get("uid-o").unwrap().observed);
}

#[test]
fn dependents_of_a_deleted_owner_are_looked_at() {
    let mut graph = Graph::default();
    graph.apply(identity("Owner", "o"), &ObjectMeta::default());
    graph.apply(identity("Pod", "p"), &owned_by(&["o"]));
    assert_eq!(graph.remove("uid-o").delete, ["uid-p"]);
}

#[test]
fn foreground_deletion_looks_at_dependents_then_at_the_owner_when_they_are_gone() {
    let mut graph = Graph::default();
    graph.apply(identity("Owner", "o"), &ObjectMeta::default());
    graph.apply(identity("Pod", "p"), &owned_by(&["o"]));
    let todo = graph.apply(identity("Owner", "o"), &deleting(FOREGROUND));
    assert_eq!(todo.delete, ["uid-p", "uid-o"]);
    assert_eq!(graph.remove("uid-p").delete, ["uid-o"]);
}

#[test]
fn a_dependent_that_appears_during_foreground_deletion_is_looked_at() {
    let mut graph = Graph::default();
    graph.apply(identity("Owner", "o"), &deleting(FOREGROUND));
    assert_eq!(graph.apply(identity("Pod", "p"), &owned_by(&["o"])).delete, ["uid-p"]);
}

#[test]
fn orphaning_is_asked_for_once() {
    let mut graph = Graph::default();
    graph.apply(identity("Owner", "o"), &ObjectMeta::default());
    assert_eq!(graph.apply(identity("Owner", "o"), &deleting(ORPHAN)).orphan, ["uid-o"]);
    assert!(graph.apply(identity("Owner", "o"), &deleting(ORPHAN)).orphan.is_empty());
}

#[test]
fn a_dependent_with_wrong_coordinates_of_its_owner_is_looked_at() {
    let mut graph = Graph::default();
    graph.apply(identity("Owner", "o"), &ObjectMeta::default());
    let mut wrong = owned_by(&["o"]);
    wrong.owner_references.as_mut().unwrap()[0].name = "other".into();
    assert_eq!(graph.apply(identity("Pod", "p"), &wrong).delete, ["uid-p"]);
}

#[test]
fn an_absent_virtual_owner_frees_only_those_who_named_it_so() {
    let mut graph = Graph::default();
    graph.apply(identity("Pod", "p"), &owned_by(&["o"]));
    let mut other = owned_by(&["o"]);
    other.owner_references.as_mut().unwrap()[0].name = "elsewhere".into();
    graph.apply(identity("Pod", "q"), &other);
    let absent = graph.get("uid-o").unwrap().identity.clone();
    let todo = graph.absent(&absent);
    assert_eq!(todo.delete, ["uid-p", "uid-o"]);
    assert_eq!(graph.get("uid-o").unwrap().identity.name, "elsewhere");
}

#[test]
fn a_virtual_owner_nobody_names_any_more_is_forgotten() {
    let mut graph = Graph::default();
    graph.apply(identity("Pod", "p"), &owned_by(&["o"]));
    graph.apply(identity("Pod", "p"), &ObjectMeta::default());
    assert!(graph.get("uid-o").is_none());
    assert_eq!(graph.len(), 1);
}

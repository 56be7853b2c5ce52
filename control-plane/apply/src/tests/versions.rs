//! Managers of several versions: v1 has `spec.hostPort`, v2 has `spec.host` and `spec.port`.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::at;
use crate::{
    Apply, Changes, Custom, Error, Managed, Manager, Operation, Set, Type, Versions, apply, compare,
    reset::{Ignored, ignored},
};

#[derive(Debug)]
struct Hosts;

impl Versions for Hosts {
    fn convert(&self, object: &Value, to: &str) -> Result<Option<Value>, Error> {
        let mut new = object.clone();
        new["apiVersion"] = to.into();
        let text = |name: &str| object["spec"][name].as_str().unwrap_or_default();
        new["spec"] = match (object["apiVersion"].as_str(), to) {
            (from, to) if from == Some(to) => return Ok(Some(object.clone())),
            (_, "g/v1") => json!({"hostPort": format!("{}:{}", text("host"), text("port"))}),
            (_, "g/v2") => match text("hostPort").split_once(':') {
                Some((host, port)) => json!({"host": host, "port": port}),
                None => json!({}),
            },
            _ => return Ok(None),
        };
        Ok(Some(new))
    }

    fn type_of(&self, _: &str) -> Type<'_> {
        OF.view()
    }
}

/// The type of both versions: which fields an object has tells them apart.
static OF: LazyLock<Custom> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let spec = json!({"type": "object", "properties": {"hostPort": text, "host": text, "port": text}});
    Custom::of_resource(Some(&json!({"type": "object", "properties": {"spec": spec}})))
});

fn host(version: &str, spec: Value) -> Value {
    json!({"apiVersion": version, "kind": "Host", "metadata": {"name": "a"}, "spec": spec})
}

fn apply_as(manager: &str, live: &mut Value, managed: &mut Managed, config: &Value, force: bool) -> Result<(), Error> {
    let api_version = config["apiVersion"].as_str().unwrap();
    // The object is shown in the version of the request.
    let shown = Hosts.convert(live, api_version)?.unwrap();
    let request = Apply {
        of: OF.view(),
        api_version,
        kind: "Host",
        live: (!live.is_null()).then_some(&shown),
        config,
        manager,
        subresource: "",
        force,
        ignored: Ignored::NOTHING,
        versions: &Hosts,
        now: at(1),
    };
    let applied = apply(&request, managed)?;
    *live = applied.unwrap_or(shown);
    Ok(())
}

fn owned(managed: &mut Managed, manager: &str) -> Vec<String> {
    let entries = managed.entries.iter_mut().filter(|entry| entry.manager.name == manager);
    entries
        .flat_map(|entry| {
            let version = entry.manager.api_version.clone();
            entry.set().paths().into_iter().map(move |path| format!("{version} {path}"))
        })
        .collect()
}

fn first(config: &Value) -> (Value, Managed) {
    let (mut live, mut managed) = (config.clone(), Managed::default());
    let request = Apply {
        of: OF.view(),
        api_version: config["apiVersion"].as_str().unwrap(),
        kind: "Host",
        live: None,
        config,
        manager: "one",
        subresource: "",
        force: false,
        ignored: Ignored::NOTHING,
        versions: &Hosts,
        now: at(0),
    };
    if let Some(object) = apply(&request, &mut managed).unwrap() {
        live = object;
    }
    (live, managed)
}

#[test]
fn what_another_version_owns_conflicts_only_if_it_changes_there() {
    let (mut live, mut managed) = first(&host("g/v1", json!({"hostPort": "h:1"})));
    let before = managed.clone();
    let Err(Error::Conflicts(conflicts)) =
        apply_as("two", &mut live, &mut managed, &host("g/v2", json!({"port": "2"})), false)
    else {
        panic!("v1's field changes with v2's");
    };
    assert_eq!(conflicts.iter().map(|c| c.path.to_string()).collect::<Vec<_>>(), [".spec.hostPort"]);
    managed = before;
    apply_as("two", &mut live, &mut managed, &host("g/v2", json!({"port": "1"})), false).unwrap();
    assert_eq!(owned(&mut managed, "one"), ["g/v1 .spec.hostPort"]);
    assert_eq!(owned(&mut managed, "two"), ["g/v2 .spec.port"]);
    apply_as("two", &mut live, &mut managed, &host("g/v2", json!({"port": "3"})), true).unwrap();
    assert_eq!(live["spec"], json!({"host": "h", "port": "3"}));
    assert_eq!(owned(&mut managed, "one"), [""; 0], "what it owned has another value now");
}

#[test]
fn an_applier_may_go_on_in_another_version() {
    let (mut live, mut managed) = first(&host("g/v1", json!({"hostPort": "h:1"})));
    apply_as("one", &mut live, &mut managed, &host("g/v2", json!({"host": "h", "port": "1"})), false).unwrap();
    assert_eq!(live["spec"], json!({"host": "h", "port": "1"}));
    assert_eq!(owned(&mut managed, "one"), ["g/v2 .spec.host", "g/v2 .spec.port"]);
    // What it leaves out goes.
    apply_as("one", &mut live, &mut managed, &host("g/v2", json!({"host": "h"})), false).unwrap();
    assert_eq!(live["spec"], json!({"host": "h"}));
}

#[test]
fn what_another_owns_in_another_version_is_not_pruned() {
    let (mut live, mut managed) = first(&host("g/v2", json!({"host": "h", "port": "1"})));
    apply_as("two", &mut live, &mut managed, &host("g/v1", json!({"hostPort": "h:1"})), false).unwrap();
    apply_as("one", &mut live, &mut managed, &host("g/v2", json!({"host": "h"})), false).unwrap();
    assert_eq!(live["spec"], json!({"host": "h", "port": "1"}));
}

#[test]
fn managers_of_versions_that_are_no_more_are_forgotten() {
    let (live, mut managed) = first(&host("g/v1", json!({"hostPort": "h:1"})));
    managed.entries[0].manager.api_version = "g/v0".to_owned();
    let new = host("g/v1", json!({"hostPort": "h:2"}));
    let mut changes = Changes::new(compare(OF.view(), &live, &new), Ignored::NOTHING);
    for version in managed.versions_beside("g/v1") {
        assert_eq!((Hosts.convert(&live, &version).unwrap(), version.as_str()), (None, "g/v0"));
        changes.add(&version, None, Ignored::NOTHING);
    }
    let manager = Manager {
        name: "two".to_owned(),
        operation: Operation::Update,
        api_version: "g/v1".to_owned(),
        subresource: String::new(),
    };
    managed.update(&changes, &manager, at(2));
    assert_eq!(owned(&mut managed, "one"), [""; 0]);
    assert_eq!(owned(&mut managed, "two"), ["g/v1 .spec.hostPort"]);
}

#[test]
fn only_what_a_subresource_is_for_is_owned_through_it() {
    let set = Set::of_fields(&[
        &["metadata", "labels"],
        &["spec", "ephemeralContainers"],
        &["spec", "ephemeralContainers", "x", "image"],
        &["spec", "containers", "x", "resources", "limits"],
        &["spec", "containers", "x", "image"],
        &["status", "phase"],
    ]);
    let left = |part: &str| {
        let left = ignored("", "pods", part, true).strip(set.clone());
        left.paths().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(left("ephemeralcontainers"), [".spec.ephemeralContainers", ".spec.ephemeralContainers.x.image"]);
    assert_eq!(left("resize"), [".spec.containers.x.resources.limits"]);
    assert_eq!(left("status"), [".metadata.labels", ".status.phase"]);
    assert_eq!(left("").len(), 5);
}

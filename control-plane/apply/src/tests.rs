//! Whole applies and updates, as clients do them.

mod properties;
mod versions;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Apply, Changes, Conflict, Custom, Error, Managed, Manager, OneVersion, Operation, Type, apply, compare,
    managers::keep_times,
    reset::{self, Ignored},
    scale,
    set::Path,
};

pub(crate) fn deployment() -> Type<'static> {
    Type::of_kind("apps", "v1", "Deployment")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// An object and who owns it.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) object: Option<Value>,
    pub(crate) managed: Managed,
    clock: i64,
}

impl State {
    pub(crate) fn apply_as(&mut self, of: Type<'_>, manager: &str, config: &Value, force: bool) -> Result<(), Error> {
        self.clock += 1;
        let request = Apply {
            of,
            api_version: config["apiVersion"].as_str().unwrap(),
            kind: config["kind"].as_str().unwrap(),
            live: self.object.as_ref(),
            config,
            manager,
            subresource: "",
            force,
            ignored: reset::ignored("apps", "deployments", "", true),
            versions: &OneVersion,
            now: at(self.clock),
        };
        let mut managed = Managed::decode(self.managed.clone().encode().unwrap_or_default())?;
        if let Some(object) = apply(&request, &mut managed)? {
            self.object = Some(object);
        }
        self.managed = managed;
        Ok(())
    }

    pub(crate) fn update_as(&mut self, of: Type<'_>, manager: &str, object: &Value) {
        self.clock += 1;
        let stored = self.managed.clone().encode().unwrap_or_default();
        let mut managed = Managed::of_update(&stored, None);
        let empty = json!({});
        let change = compare(of, self.object.as_ref().unwrap_or(&empty), object);
        let ignored = reset::ignored("apps", "deployments", "", true);
        managed.update(&Changes::new(change, ignored), &updater(manager), at(self.clock));
        self.object = Some(object.clone());
        self.managed = managed;
    }

    pub(crate) fn owned(&mut self, manager: &str) -> Vec<String> {
        let entries = self.managed.entries.iter_mut().filter(|entry| entry.manager.name == manager);
        entries.flat_map(|entry| entry.set().paths()).map(|path| path.to_string()).collect()
    }

    fn fields(&self, manager: &str) -> Value {
        let entries = self.managed.clone().encode().unwrap_or_default();
        let entry = entries.into_iter().find(|entry| entry.manager.as_deref() == Some(manager)).unwrap();
        entry.fields_v1.unwrap().0
    }
}

fn updater(name: &str) -> Manager {
    Manager {
        name: name.to_owned(),
        operation: Operation::Update,
        api_version: "apps/v1".to_owned(),
        subresource: String::new(),
    }
}

pub(crate) fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "d"}, "spec": spec})
}

fn containers(list: Value) -> Value {
    config(json!({"template": {"spec": {"containers": list}}}))
}

#[test]
fn a_creator_owns_what_upstream_says() {
    let mut state = State::default();
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "d", "uid": "u", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
                    "securityContext": {},
                },
            },
        },
        "status": {},
    });
    state.update_as(deployment(), "kubectl-create", &object);
    assert_eq!(
        state.fields("kubectl-create"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"c\"}": {
                            ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                        }},
                        "f:securityContext": {},
                    },
                },
            },
        })
    );
}

#[test]
fn an_applier_owns_what_it_says_and_no_more() {
    let mut state = State::default();
    state
        .apply_as(deployment(), "me", &config(json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}}})), false)
        .unwrap();
    assert_eq!(state.owned("me"), [".spec.replicas", ".spec.selector"]);
    assert_eq!(state.object.as_ref().unwrap()["spec"]["replicas"], 3);
}

#[test]
fn what_an_applier_no_longer_says_goes_unless_others_own_it() {
    let mut state = State::default();
    state.apply_as(deployment(), "a", &config(json!({"replicas": 3, "paused": true})), false).unwrap();
    state.apply_as(deployment(), "b", &config(json!({"replicas": 3})), false).unwrap();
    state.apply_as(deployment(), "a", &config(json!({})), false).unwrap();
    assert_eq!(state.object.as_ref().unwrap()["spec"], json!({"replicas": 3}));
    assert_eq!(state.owned("b"), [".spec.replicas"]);
    state.apply_as(deployment(), "b", &config(json!({})), false).unwrap();
    assert!(state.object.as_ref().unwrap()["spec"]["replicas"].is_null());
}

#[test]
fn list_items_belong_to_those_who_applied_them() {
    let mut state = State::default();
    state.apply_as(deployment(), "a", &containers(json!([{"name": "x", "image": "1"}])), false).unwrap();
    state.apply_as(deployment(), "b", &containers(json!([{"name": "y", "image": "2"}])), false).unwrap();
    let list = state.object.as_ref().unwrap()["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(list, json!([{"name": "x", "image": "1"}, {"name": "y", "image": "2"}]));
    state.apply_as(deployment(), "a", &containers(json!([])), false).unwrap();
    let list = state.object.as_ref().unwrap()["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(list, json!([{"name": "y", "image": "2"}]));
}

#[test]
fn conflicts_name_their_owners_in_upstreams_words() {
    let mut state = State::default();
    state.update_as(deployment(), "kubectl-create", &config(json!({"replicas": 1, "paused": false})));
    state.apply_as(deployment(), "a", &config(json!({"minReadySeconds": 1})), false).unwrap();
    let error = state.apply_as(deployment(), "b", &config(json!({"replicas": 2})), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas"
    );
    let greedy = config(json!({"replicas": 2, "paused": true, "minReadySeconds": 2}));
    let error = state.apply_as(deployment(), "b", &greedy, false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.minReadySeconds\nconflicts with \
         \"kubectl-create\" using apps/v1:\n- .spec.paused\n- .spec.replicas"
    );
    state.apply_as(deployment(), "b", &greedy, true).unwrap();
    assert_eq!(state.owned("a"), Vec::<String>::new());
    assert_eq!(state.owned("b"), [".spec.minReadySeconds", ".spec.paused", ".spec.replicas"]);
}

#[test]
fn appliers_of_the_same_value_share_it() {
    let mut state = State::default();
    state.apply_as(deployment(), "a", &config(json!({"replicas": 2})), false).unwrap();
    state.apply_as(deployment(), "b", &config(json!({"replicas": 2})), false).unwrap();
    assert_eq!(
        (state.owned("a"), state.owned("b")),
        (vec![".spec.replicas".to_owned()], vec![".spec.replicas".to_owned()])
    );
    let error = state.apply_as(deployment(), "b", &config(json!({"replicas": 3})), false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas");
}

#[test]
fn ports_without_a_protocol_are_those_with_the_default_one() {
    let of = Type::of_kind("", "v1", "Service");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": ports}});
    let mut state = State::default();
    state.apply_as(of, "a", &service(json!([{"port": 80, "targetPort": 1}])), false).unwrap();
    state.apply_as(of, "b", &service(json!([{"port": 80, "protocol": "TCP", "name": "web"}])), false).unwrap();
    let ports = &state.object.as_ref().unwrap()["spec"]["ports"];
    assert_eq!(*ports, json!([{"port": 80, "protocol": "TCP", "name": "web", "targetPort": 1}]));
    let twice = service(json!([{"port": 80}, {"port": 80, "protocol": "TCP"}]));
    let error = state.apply_as(of, "a", &twice, false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (/; /v1, Kind=Service): .spec.ports: duplicate entries for key \
         [port=80,protocol=\"TCP\"]"
    );
}

#[test]
fn what_fits_no_type_is_refused() {
    for (config, text) in [
        (config(json!({"replicaz": 1})), ".spec.replicaz: field not declared in schema"),
        (config(json!({"replicas": "x"})), ".spec.replicas: expected numeric (int or float), got string"),
    ] {
        let error = State::default().apply_as(deployment(), "a", &config, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("failed to create typed patch object (d/web; apps/v1, Kind=Deployment): {text}")
        );
    }
    let mut managed = config(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    let error = State::default().apply_as(deployment(), "a", &managed, false).unwrap_err();
    assert_eq!(error.to_string(), "metadata.managedFields must be nil");
}

#[test]
fn an_update_takes_what_it_changes_and_forgets_what_it_removes() {
    let mut state = State::default();
    state.apply_as(deployment(), "a", &config(json!({"replicas": 2, "paused": true})), false).unwrap();
    state.update_as(deployment(), "ctrl", &config(json!({"replicas": 3})));
    assert_eq!(state.owned("a"), Vec::<String>::new());
    assert_eq!(state.owned("ctrl"), [".spec.replicas"]);
}

#[test]
fn times_move_only_with_a_change() {
    let mut state = State::default();
    let one = config(json!({"replicas": 2}));
    state.apply_as(deployment(), "a", &one, false).unwrap();
    let before = state.managed.clone().encode().unwrap();
    state.apply_as(deployment(), "a", &one, false).unwrap();
    assert_eq!(state.managed.clone().encode().unwrap(), before);
    state.update_as(deployment(), "b", &one);
    assert_eq!(state.managed.clone().encode().unwrap(), before);

    let mut later = before.clone();
    later[0].time = None;
    assert!(keep_times(&before, &mut later));
    assert_eq!(later, before);
    later[0].manager = Some("other".to_owned());
    assert!(!keep_times(&before, &mut later));
}

#[test]
fn what_was_there_before_the_first_apply_has_an_owner() {
    let mut state = State { object: Some(config(json!({"replicas": 2}))), ..State::default() };
    let error = state.apply_as(deployment(), "a", &config(json!({"replicas": 3})), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let mut live = config(json!({"replicas": 2, "paused": false}));
    live["metadata"]["annotations"] =
        json!({crate::last_applied::ANNOTATION: config(json!({"replicas": 2})).to_string()});
    let mut state = State::default();
    state.update_as(deployment(), "kubectl-client-side-apply", &live);
    let wanted = config(json!({"replicas": 3}));
    assert!(matches!(state.clone().apply_as(deployment(), "other", &wanted, false), Err(Error::Conflicts(_))));
    let greedy = config(json!({"replicas": 3, "paused": true}));
    let Err(Error::Conflicts(rest)) = state.clone().apply_as(deployment(), "kubectl", &greedy, false) else {
        panic!("paused was not applied from the client")
    };
    assert_eq!(rest.iter().map(|one| one.path.to_string()).collect::<Vec<_>>(), [".spec.paused"]);
    state.apply_as(deployment(), "kubectl", &wanted, false).unwrap();
    assert_eq!(state.owned("kubectl"), [".spec.replicas"]);
    let annotation = crate::last_applied::annotation(state.object.as_ref().unwrap()).unwrap();
    let said: Value = serde_json::from_str(annotation).unwrap();
    assert_eq!(said, wanted);
}

#[test]
fn clients_may_clear_managed_fields_but_not_lose_them() {
    let mut state = State::default();
    state.update_as(deployment(), "a", &config(json!({"replicas": 2})));
    let stored = state.managed.encode().unwrap();
    assert!(Managed::of_update(&stored, Some(vec![Default::default()])).is_empty());
    assert_eq!(Managed::of_update(&stored, None).encode().unwrap(), stored);
    assert!(Managed::of_update(&stored, Some(Vec::new())).is_empty());
    let mut broken = stored.clone();
    broken[0].fields_v1.as_mut().unwrap().0 = json!({"x": {}});
    assert_eq!(Managed::of_update(&stored, Some(broken)).encode().unwrap(), stored);
    let mut changed = stored.clone();
    changed[0].manager = Some("b".to_owned());
    assert_eq!(Managed::of_update(&stored, Some(changed.clone())).encode().unwrap(), changed);
}

#[test]
fn the_oldest_of_too_many_updaters_are_united() {
    let mut state = State::default();
    for at in 0..14 {
        let mut labels = serde_json::Map::new();
        (0..=at).for_each(|label| drop(labels.insert(format!("l{label:02}"), json!("v"))));
        let mut object = config(json!({}));
        object["metadata"]["labels"] = labels.into();
        state.update_as(deployment(), &format!("m{at:02}"), &object);
    }
    let entries = state.managed.clone().encode().unwrap();
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0].manager.as_deref(), Some("ancient-changes"));
    let ancient = state.owned("ancient-changes");
    assert!(
        ancient.contains(&".metadata.labels.l00".to_owned()) && ancient.contains(&".metadata.labels.l04".to_owned())
    );
}

#[test]
fn replicas_of_a_scale_are_the_objects() {
    let replicas = Path(vec![crate::Element::field("spec"), crate::Element::field("replicas")]);
    let mut state = State::default();
    state.apply_as(deployment(), "a", &config(json!({"replicas": 2, "paused": true})), false).unwrap();
    let parent = state.managed;
    let mut of_scale = scale::of_parent(&parent, &replicas);
    assert_eq!(of_scale.entries.len(), 1);
    let scale_type = Type::of_kind("autoscaling", "v1", "Scale");
    let (old, new) = (json!({"spec": {"replicas": 2}}), json!({"spec": {"replicas": 5}}));
    let manager =
        Manager { subresource: "scale".to_owned(), api_version: "autoscaling/v1".to_owned(), ..updater("hpa") };
    of_scale.update(&Changes::new(compare(scale_type, &old, &new), Ignored::NOTHING), &manager, at(9));
    let mut after = State { managed: scale::to_parent(parent, of_scale, &replicas, "apps/v1"), ..State::default() };
    assert_eq!(after.owned("a"), [".spec.paused"]);
    assert_eq!(after.owned("hpa"), [".spec.replicas"]);
    let entries = after.managed.encode().unwrap();
    assert_eq!(
        (entries[1].api_version.as_deref(), entries[1].subresource.as_deref()),
        (Some("apps/v1"), Some("scale"))
    );
}

#[test]
fn custom_types_follow_their_schema() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                "items": {"type": "object", "properties": {
                    "a": {"type": "string"}, "b": {"type": "string", "default": "x"}, "v": {"type": "integer"}}}},
            "atom": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "either": {"x-kubernetes-int-or-string": true},
        }},
    }});
    let custom = Custom::of_resource(Some(&schema));
    let object = |spec: Value| json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "spec": spec});
    let mut state = State::default();
    let first = json!({"set": ["p"], "map": [{"a": "1", "v": 1}], "atom": {"k": "v"}, "open": {"deep": {"er": [1]}}, "either": 1});
    state.apply_as(custom.view(), "a", &object(first), false).unwrap();
    assert_eq!(
        state.owned("a"),
        [
            ".spec.atom",
            ".spec.either",
            ".spec.map[a=\"1\",b=\"x\"]",
            ".spec.map[a=\"1\",b=\"x\"].a",
            ".spec.map[a=\"1\",b=\"x\"].v",
            ".spec.open.deep",
            ".spec.open.deep.er",
            ".spec.set[=\"p\"]",
        ]
    );
    state.apply_as(custom.view(), "b", &object(json!({"set": ["q"], "map": [{"a": "1", "b": "y"}]})), false).unwrap();
    assert_eq!(state.object.as_ref().unwrap()["spec"]["set"], json!(["p", "q"]));
    assert_eq!(state.object.as_ref().unwrap()["spec"]["map"].as_array().unwrap().len(), 2);
    let error = state.apply_as(custom.view(), "b", &object(json!({"sett": []})), false).unwrap_err();
    assert!(error.to_string().ends_with(".spec.sett: field not declared in schema"), "{error}");
    assert_eq!(Conflict { manager: updater("x"), path: Path::default() }.owner(), "\"x\" using apps/v1");
}

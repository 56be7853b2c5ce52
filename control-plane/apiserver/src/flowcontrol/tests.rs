use http::{Method, Uri};
use serde_json::json;

use super::*;

fn control() -> FlowControl {
    FlowControl::new(600, Meters::new(&mut prometheus_client::registry::Registry::default()))
}

fn request(uri: &'static str) -> RequestInfo {
    RequestInfo::parse(&Method::GET, &Uri::from_static(uri)).unwrap()
}

fn objects() -> (Vec<FlowSchema>, Vec<PriorityLevelConfiguration>) {
    let schemas = bootstrap::flow_schemas().into_iter().map(|(_, value)| serde_json::from_value(value).unwrap());
    let levels = bootstrap::priority_levels().into_iter().map(|(_, value)| serde_json::from_value(value).unwrap());
    (schemas.collect(), levels.collect())
}

fn name_of(control: &FlowControl, user: &UserInfo, uri: &'static str) -> String {
    control.classify(user, &request(uri)).schema.clone()
}

#[test]
fn without_objects_the_mandatory_ones_hold() {
    let control = control();
    assert_eq!(name_of(&control, &UserInfo::master("a"), "/api/v1/pods"), "exempt");
    assert_eq!(name_of(&control, &UserInfo::component("jane"), "/api/v1/pods"), "catch-all");
    assert_eq!(name_of(&control, &UserInfo::default(), "/"), "catch-all");
}

#[test]
fn seats_are_shared_as_upstream_shares_them() {
    let control = control();
    let (schemas, levels) = objects();
    control.apply(schemas, levels);
    let mut limits: Vec<(String, usize)> = control
        .loads()
        .into_iter()
        .map(|(name, load)| (name, load.limit))
        .filter(|(name, _)| name != "exempt")
        .collect();
    limits.sort();
    let want = [
        ("catch-all", 13),
        ("global-default", 49),
        ("leader-election", 25),
        ("node-high", 98),
        ("system", 74),
        ("workload-high", 98),
        ("workload-low", 245),
    ];
    assert_eq!(limits, want.map(|(name, limit)| (name.to_owned(), limit)));
}

#[tokio::test]
async fn a_change_keeps_who_is_under_way_and_dangling_schemas_are_passed_over() {
    let control = control();
    let (mut schemas, levels) = objects();
    control.apply(schemas.clone(), levels.clone());
    let jane = UserInfo::component("jane");
    let info = request("/api/v1/pods");
    let flow = control.classify(&jane, &info);
    let permit = control.enter(&flow, &jane, &info, || 250).await.ok().unwrap();
    assert_eq!((flow.schema.as_str(), control.in_flight()), ("global-default", (1, 0)));
    let dangling = json!({
        "metadata": {"name": "mine"},
        "spec": {
            "priorityLevelConfiguration": {"name": "nowhere"},
            "matchingPrecedence": 10,
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "jane"}}],
                "resourceRules": [{
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"],
                }],
            }],
        },
    });
    schemas.push(serde_json::from_value(dangling).unwrap());
    control.apply(schemas.clone(), levels.clone());
    assert_eq!(name_of(&control, &jane, "/api/v1/pods"), "global-default");
    let load = control.loads().into_iter().find(|(name, _)| name == "global-default").unwrap().1;
    assert_eq!((load.executing, load.seats), (1, 3));
    drop(permit);
    let last = schemas.last_mut().unwrap();
    last.spec.as_mut().unwrap().priority_level_configuration.name = "system".to_owned();
    control.apply(schemas, levels);
    assert_eq!(name_of(&control, &jane, "/api/v1/pods"), "mine");
    assert_eq!(control.in_flight(), (0, 0));
}

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
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

/// How a level is doing.
fn of(control: &FlowControl, level: &str) -> (Load, Share) {
    let (levels, _) = control.report();
    levels.into_iter().find_map(|(name, load, share)| (name == level).then_some((load, share))).unwrap()
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
    let nominal: Vec<(String, usize)> =
        control.report().0.into_iter().map(|(name, _, share)| (name, share.bounds.nominal)).collect();
    let want = [
        ("catch-all", 13),
        ("exempt", 0),
        ("global-default", 49),
        ("leader-election", 25),
        ("node-high", 98),
        ("system", 74),
        ("workload-high", 98),
        ("workload-low", 245),
    ];
    assert_eq!(nominal, want.map(|(name, seats)| (name.to_owned(), seats)));
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
    let (load, _) = of(&control, "global-default");
    assert_eq!((load.executing, load.seats), (1, 3));
    drop(permit);
    let last = schemas.last_mut().unwrap();
    last.spec.as_mut().unwrap().priority_level_configuration.name = "system".to_owned();
    control.apply(schemas, levels);
    assert_eq!(name_of(&control, &jane, "/api/v1/pods"), "mine");
    assert_eq!(control.in_flight(), (0, 0));
}

/// Requests of one kind, that run or wait until they are dropped.
struct Crowd<'a> {
    permits: Vec<Permit<'a>>,
    waiting: FuturesUnordered<BoxFuture<'a, Result<Permit<'a>, Response<Body>>>>,
}

impl<'a> Crowd<'a> {
    fn new(control: &'a FlowControl, flow: &'a Flow, users: &'a [UserInfo], info: &'a RequestInfo) -> Self {
        let enter = |user| control.enter(flow, user, info, || 0).boxed();
        Self { permits: Vec::new(), waiting: users.iter().map(enter).collect() }
    }

    /// Lets in those who may come in by now; how many run.
    async fn settle(&mut self) -> usize {
        // The runtime lets a task do only so much in one go.
        for _ in 0..20 {
            while let Some(Some(Ok(permit))) = self.waiting.next().now_or_never() {
                self.permits.push(permit);
            }
            tokio::task::yield_now().await;
        }
        self.permits.len()
    }
}

#[tokio::test]
async fn a_level_that_is_flooded_borrows_until_the_lender_needs_its_seats() {
    let control = control();
    let (schemas, levels) = objects();
    control.apply(schemas, levels);
    let accounts: Vec<UserInfo> = (0..400)
        .map(|n| {
            UserInfo::authenticated(
                format!("system:serviceaccount:ns{n}:a"),
                ["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()],
            )
        })
        .collect();
    let people: Vec<UserInfo> =
        (0..60).map(|n| UserInfo::authenticated(format!("user-{n}"), ["system:authenticated".to_owned()])).collect();
    let info = request("/api/v1/namespaces/a/pods/b");
    let (low, default) = (control.classify(&accounts[0], &info), control.classify(&people[0], &info));
    assert_eq!((low.level_name.as_str(), default.level_name.as_str()), ("workload-low", "global-default"));

    let mut flood = Crowd::new(&control, &low, &accounts, &info);
    let before = flood.settle().await;
    let (_, share) = of(&control, "workload-low");
    assert_eq!(before, share.current);
    assert!(before < share.bounds.nominal, "idle levels hold what nobody has asked for");
    tokio::time::sleep(Duration::from_millis(20)).await;
    control.adjust();
    let borrowed = flood.settle().await;
    assert!(borrowed > share.bounds.nominal, "{borrowed} run, its own are {}", share.bounds.nominal);
    let lender = of(&control, "global-default").1;
    assert!(lender.current < lender.bounds.nominal, "{lender:?}");

    let mut guests = Crowd::new(&control, &default, &people, &info);
    assert_eq!(guests.settle().await, lender.current);
    tokio::time::sleep(Duration::from_millis(20)).await;
    control.adjust();
    let (load, cut) = of(&control, "workload-low");
    assert!(cut.current < borrowed && load.seats == borrowed, "those who run may end: {cut:?}");
    assert!(guests.settle().await >= lender.bounds.nominal, "the lender has its own again");
    // Who has borrowed too much gets no more before it has given back.
    flood.permits.truncate(cut.current);
    assert_eq!(flood.settle().await, cut.current);
    flood.permits.truncate(cut.current - 10);
    assert_eq!(flood.settle().await, cut.current);
}

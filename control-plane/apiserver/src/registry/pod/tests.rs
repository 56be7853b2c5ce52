use serde_json::json;
use skep_api::field::Error;

use super::*;
use crate::user::UserInfo;

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn created(value: Value) -> Pod {
    let mut pod = pod(value);
    let user = UserInfo::master("test");
    let ctx = Context { user: &user, namespace: Some("default"), now: Timestamp::UNIX_EPOCH, dry_run: false };
    Pods.default(&mut pod);
    Pods.prepare_for_create(&ctx, &mut pod);
    pod
}

fn simple() -> Pod {
    created(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}))
}

fn cells(value: Value) -> Vec<Value> {
    Pods.row(&pod(value), Timestamp::from_second(1000).unwrap())
}

#[test]
fn a_new_pod_is_pending() {
    let got = serde_json::to_value(simple()).unwrap();
    assert_eq!(got["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(got["spec"]["enableServiceLinks"], true);
    assert_eq!(Pods.validate(&simple()), []);
}

#[test]
fn requests_follow_limits_and_the_class_follows_both() {
    let with = |resources: Value| {
        let got = created(json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}}));
        serde_json::to_value(got).unwrap()
    };
    let got = with(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
    assert_eq!(got["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(got["status"]["qosClass"], "Guaranteed");
    assert_eq!(with(json!({"requests": {"cpu": "1"}}))["status"]["qosClass"], "Burstable");
    assert_eq!(with(json!({"limits": {"cpu": "1"}}))["status"]["qosClass"], "Burstable");
}

#[test]
fn host_network_ports_are_host_ports() {
    let got = created(json!({"spec": {"hostNetwork": true,
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}));
    assert_eq!(got.spec.unwrap().containers[0].ports.as_ref().unwrap()[0].host_port, Some(80));
}

#[test]
fn gates_keep_a_pod_from_the_scheduler() {
    let got = created(json!({"spec": {"containers": [], "schedulingGates": [{"name": "g"}]}}));
    assert_eq!(Pods.row(&got, Timestamp::UNIX_EPOCH)[2], "SchedulingGated");
}

#[test]
fn an_update_may_change_the_image_and_little_else() {
    let old = simple();
    let mut new = old.clone();
    new.spec.as_mut().unwrap().containers[0].image = Some("i:2".to_owned());
    assert_eq!(Pods.validate_update(&new, &old), []);
    assert!(Pods.bumps_generation(&new, &old));
    new.spec.as_mut().unwrap().node_name = Some("n".to_owned());
    let errors = Pods.validate_update(&new, &old);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().starts_with(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`"
    ));
    assert!(errors[0].detail.contains("+ \"nodeName\": \"n\""), "{}", errors[0].detail);
    let mut old = old;
    let toleration = json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"});
    old.spec.as_mut().unwrap().tolerations = Some(vec![serde_json::from_value(toleration).unwrap()]);
    let mut new = old.clone();
    new.spec.as_mut().unwrap().tolerations.as_mut().unwrap().remove(0);
    assert_eq!(
        Pods.validate_update(&new, &old)[0].to_string(),
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
    );
    new.spec.as_mut().unwrap().containers.clear();
    assert_eq!(
        Pods.validate_update(&new, &old).iter().map(Error::to_string).collect::<Vec<_>>(),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn deadlines_only_come_closer() {
    let mut old = simple();
    old.spec.as_mut().unwrap().active_deadline_seconds = Some(10);
    let mut new = old.clone();
    new.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
    assert_eq!(Pods.validate_update(&new, &old), []);
    assert_eq!(Pods.validate_update(&old, &new).len(), 1);
}

#[test]
fn a_status_update_changes_only_status() {
    let old = simple();
    let mut new = old.clone();
    new.spec.as_mut().unwrap().containers[0].image = Some("evil".to_owned());
    new.status = Some(PodStatus {
        phase: Some("Running".to_owned()),
        pod_ip: Some("10.0.0.1".to_owned()),
        ..PodStatus::default()
    });
    let user = UserInfo::master("test");
    let ctx = Context { user: &user, namespace: Some("default"), now: Timestamp::UNIX_EPOCH, dry_run: false };
    Pods.default(&mut new);
    Pods.prepare_for_status_update(&ctx, &mut new, &old);
    assert_eq!(new.spec, old.spec);
    let status = serde_json::to_value(&new.status).unwrap();
    assert_eq!(
        status,
        json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "BestEffort"})
    );
    assert_eq!(Pods.validate_status_update(&new, &old), []);
}

#[test]
fn a_pod_has_at_most_one_address_of_each_family() {
    let problems = |ips: &[&str]| {
        let mut pod = simple();
        let ips = ips.iter().map(|ip| PodIP { ip: (*ip).to_owned() }).collect();
        pod.status = Some(PodStatus { pod_ips: Some(ips), ..PodStatus::default() });
        Pods.validate_status_update(&pod, &simple()).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(problems(&["10.0.0.1", "fd00::1"]), [] as [&str; 0]);
    assert_eq!(
        problems(&["10.0.0.1", "10.0.0.2"]),
        [
            "status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP \
             for each IP family"
        ]
    );
}

#[test]
fn running_pods_are_given_time_and_others_are_not() {
    let mut pod = simple();
    let options = DeleteOptions::default();
    assert_eq!(Pods.grace_period(&pod, &options), Grace::Immediate);
    pod.spec.as_mut().unwrap().node_name = Some("n".to_owned());
    assert_eq!(Pods.grace_period(&pod, &options), Grace::Seconds(30));
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    assert_eq!(Pods.grace_period(&pod, &now), Grace::Immediate);
    pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    assert_eq!(Pods.grace_period(&pod, &options), Grace::Immediate);
}

#[test]
fn rows_say_what_containers_do() {
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1"});
    let row = cells(json!({
        "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:15:40Z"}, "spec": two,
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.9"}], "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}}},
            {"name": "b", "ready": false, "restartCount": 3, "image": "", "imageID": "",
             "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:16:10Z"}}}]},
    }));
    assert_eq!(
        row,
        [
            json!("p"),
            json!("1/2"),
            json!("CrashLoopBackOff"),
            json!("3 (30s ago)"),
            json!("60s"),
            json!("10.0.0.9"),
            json!("n1"),
            json!("<none>"),
            json!("<none>")
        ]
    );
}

#[test]
fn reasons_of_every_kind() {
    let one = |state: Value, phase: &str| {
        json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": phase, "containerStatuses": [
            {"name": "a", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state}]}})
    };
    let reason = |value: Value| cells(value)[2].as_str().unwrap().to_owned();
    assert_eq!(reason(one(json!({"waiting": {"reason": "ContainerCreating"}}), "Pending")), "ContainerCreating");
    assert_eq!(reason(one(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), "Succeeded")), "Completed");
    assert_eq!(reason(one(json!({"terminated": {"exitCode": 2}}), "Failed")), "ExitCode:2");
    assert_eq!(reason(one(json!({"terminated": {"exitCode": 2, "signal": 9}}), "Failed")), "Signal:9");
    assert_eq!(reason(json!({"status": {"phase": "Failed", "reason": "Evicted"}})), "Evicted");
    assert_eq!(
        reason(json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "status": {"phase": "Running"}})),
        "Terminating"
    );
    let init = |state: Value| {
        json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state}]}})
    };
    assert_eq!(reason(init(json!({"running": {}}))), "Init:0/1");
    assert_eq!(reason(init(json!({"waiting": {"reason": "ImagePullBackOff"}}))), "Init:ImagePullBackOff");
    assert_eq!(reason(init(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))), "Init:Error");
    assert_eq!(reason(init(json!({"terminated": {"exitCode": 0}}))), "Pending");
}

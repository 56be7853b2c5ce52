//! Who may do what: `kubectl auth`, `create token`, certificates that the cluster signs, and quotas.

use anyhow::{Context as _, Result, ensure};
use skep_tests::kubectl::Kubectl;

use crate::policy;

/// The same kubectl with a kubeconfig of its own, in which `credentials` (of `config set-credentials`) are the only ones.
pub(crate) fn as_user(k: &Kubectl, user: &str, credentials: &str) -> Result<Kubectl> {
    let path = k.folder().join(format!("{user}.conf"));
    std::fs::write(&path, k.ok("config view --raw --minify --flatten")?)?;
    let other = k.with_kubeconfig(&path);
    let before = other.ok("config view --minify -o jsonpath={.users[0].name}")?;
    other.says(&format!("config delete-user {before}"), &["deleted user"])?;
    other.says(&format!("config set-credentials {user} {credentials}"), &["set."])?;
    other.says(&format!("config set-context --current --user={user}"), &["modified."])?;
    Ok(other)
}

pub(crate) fn can_i(k: &Kubectl) -> Result<()> {
    /// What `auth can-i` answers with the exit code of that answer.
    fn answers(k: &Kubectl, question: &str, expected: bool) -> Result<()> {
        let told = k.tell(&format!("auth can-i {question}").replace("{ns}", k.namespace()), &[], "")?;
        let (word, code) = if expected { ("yes", 0) } else { ("no", 1) };
        ensure!(told.stdout.starts_with(word) && told.code == Some(code), "can-i {question}: {told:?}");
        Ok(())
    }
    answers(k, "create deployments.apps", true)?;
    answers(k, "'*' '*' --all-namespaces", true)?;
    answers(k, "get /logs/kube", true)?;
    answers(k, "list pods --as=jane", false)?;
    answers(k, "get /healthz --as=jane", true)?;
    answers(k, "get /logs/kube --as=jane", false)?;
    let told = k.tell("auth can-i get nonsense", &[], "")?;
    ensure!(told.stderr.contains("Warning: the server doesn't have a resource type 'nonsense'"), "{told:?}");
    k.ok("create role read --verb=get,list --resource=pods,pods/log,deployments.apps")?;
    k.ok("create rolebinding read --role=read --user=jane --group=readers")?;
    k.waits("auth can-i list pods --as=jane", &["yes"])?;
    answers(k, "get pods --subresource=log --as=jane", true)?;
    answers(k, "get deployments.apps/one --as=bob --as-group=readers", true)?;
    answers(k, "delete pods --as=jane", false)?;
    answers(k, "list pods --as=jane -n default", false)?;
    answers(k, "list pods --as=jane --all-namespaces", false)?;
    let list = k.says("auth can-i --list --as=jane", &["Resources", "Non-Resource URLs", "Resource Names", "Verbs"])?;
    for row in [
        "pods [] [] [get list]",
        "pods/log [] [] [get list]",
        "deployments.apps [] [] [get list]",
        "selfsubjectreviews.authentication.k8s.io [] [] [create]",
        "[/healthz] [] [get]",
    ] {
        ensure!(list.lines().any(|line| line.split_whitespace().eq(row.split(' '))), "no {row:?} in\n{list}");
    }
    // What may not be asked may not be had either.
    k.refuses(
        "delete pod none --as=jane",
        "Error from server (Forbidden): pods \"none\" is forbidden: User \"jane\" cannot delete resource \"pods\" in API group \"\" in the namespace \"{ns}\"",
    )?;
    k.refuses(
        "get pods --as=root --as-group=system:masters --as-uid=7 -n default --as-user-extra=a=b",
        "unknown flag",
    )?;

    k.says("auth whoami", &["ATTRIBUTE", "VALUE", "Username", "kubernetes-admin", "Groups", "system:authenticated"])?;
    k.is("auth whoami --as=jane --as-group=readers -o jsonpath={.status.userInfo.username}", "jane")?;
    k.is(
        "auth whoami --as=jane --as-group=readers --as-uid=7 -o 'jsonpath={.status.userInfo.groups} {.status.userInfo.uid}'",
        "[\"readers\",\"system:authenticated\"] 7",
    )
}

pub(crate) fn reconcile(k: &Kubectl) -> Result<()> {
    let role = |verbs: &str, user: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: read, namespace: '{{ns}}' }}
rules: [{{ apiGroups: [''], resources: [pods], verbs: [{verbs}] }}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: read, namespace: '{{ns}}' }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: read }}
subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: User, name: {user} }}]
"
        )
    };
    let verbs = "{.rules[*].verbs[*]}";
    k.file("role.yaml", &role("get, list", "jane"))?;
    k.says(
        "auth reconcile -f role.yaml",
        &["role.rbac.authorization.k8s.io/read reconciled", "rolebinding.rbac.authorization.k8s.io/read reconciled"],
    )?;
    k.has("role read", verbs, "get list")?;
    // Only what is missing is added, unless told otherwise.
    k.file("role.yaml", &role("get, watch", "bob"))?;
    k.says("auth reconcile -f role.yaml", &["role.rbac.authorization.k8s.io/read reconciled"])?;
    k.has("role read", verbs, "get list watch")?;
    k.has("rolebinding read", "{.subjects[*].name}", "jane bob")?;
    k.says("auth reconcile -f role.yaml --remove-extra-permissions --remove-extra-subjects", &["reconciled"])?;
    let left = k.ok(&format!("get role read -o 'jsonpath={verbs}'"))?;
    ensure!(!left.contains("list") && left.contains("watch"), "{left}");
    k.has("rolebinding read", "{.subjects[*].name}", "bob")
}

pub(crate) fn tokens(k: &Kubectl) -> Result<()> {
    let me = format!("system:serviceaccount:{}:robot", k.namespace());
    k.refuses("create token robot", "error: failed to create token: serviceaccounts \"robot\" not found")?;
    k.ok("create serviceaccount robot")?;
    k.refuses("create token robot --duration=1s", "may not specify a duration less than 10 minutes")?;
    let token = k.ok("create token robot --duration=1h")?;
    let robot = as_user(k, "robot", &format!("--token={}", token.trim()))?;
    robot.is("auth whoami -o jsonpath={.status.userInfo.username}", &me)?;
    robot.is(
        "auth whoami -o jsonpath={.status.userInfo.groups}",
        "[\"system:serviceaccounts\",\"system:serviceaccounts:{ns}\",\"system:authenticated\"]",
    )?;
    robot.refuses(
        "get pods",
        &format!("Error from server (Forbidden): pods is forbidden: User \"{me}\" cannot list resource \"pods\" in API group \"\" in the namespace \"{{ns}}\""),
    )?;
    k.ok("create role read --verb=get,list --resource=pods")?;
    k.ok("create rolebinding read --role=read --serviceaccount={ns}:robot")?;
    robot.waits("get pods -o name", &[])?;
    robot.refuses("get secrets", "cannot list resource \"secrets\"")?;
    robot.refuses("get pods -n default", "in the namespace \"default\"")?;
    // It cannot give itself more.
    k.ok("create role grant --verb=create --resource=roles")?;
    k.ok("create rolebinding grant --role=grant --serviceaccount={ns}:robot")?;
    robot.waits("auth can-i create roles", &["yes"])?;
    robot.refuses(
        "create role more --verb=delete --resource=pods",
        "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}",
    )?;

    // A token for somebody else, and one that lives as long as its object.
    let unauthorized = "error: You must be logged in to the server (Unauthorized)";
    let foreign = k.ok("create token robot --audience=elsewhere.example")?;
    as_user(k, "foreign", &format!("--token={}", foreign.trim()))?.refuses("get pods", unauthorized)?;
    k.ok("create secret generic bound")?;
    let bound = k.ok("create token robot --bound-object-kind=Secret --bound-object-name=bound")?;
    let bound = as_user(k, "bound", &format!("--token={}", bound.trim()))?;
    bound.ok("get pods")?;
    k.ok("delete secret bound")?;
    fails_at_last(&bound, "get pods", unauthorized)?;
    robot.ok("get pods")?;
    as_user(k, "forged", &format!("--token={}x", token.trim()))?.refuses("get pods", unauthorized)?;

    k.says("create token robot -o json", &["\"kind\": \"TokenRequest\"", "\"expirationTimestamp\""])?;
    k.ok("delete serviceaccount robot")?;
    fails_at_last(&robot, "get pods", unauthorized)?;
    // Another one of that name is somebody else.
    k.ok("create serviceaccount robot")?;
    let anew = k.ok("create token robot")?;
    as_user(k, "anew", &format!("--token={}", anew.trim()))?.waits("get pods", &[])?;
    robot.refuses("get pods", unauthorized)
}

/// Runs `line` until it is refused with `expected`: what was right a moment ago may be remembered for another.
pub(crate) fn fails_at_last(k: &Kubectl, line: &str, expected: &str) -> Result<()> {
    xtask::wait::until(&format!("the refusal of `kubectl {line}`"), skep_tests::cluster::LIMIT, || {
        k.refuses(line, expected)
    })
}

pub(crate) fn a_signed_certificate(k: &Kubectl) -> Result<()> {
    let name = k.namespace().to_owned();
    let user = format!("{name}-jane");
    let (request, key) = policy::signing_request(&name, &user, "kubernetes.io/kube-apiserver-client")?;
    k.file("jane.key", &key)?;
    k.reads("create -f -", &request, &["created"])?;
    k.says("get csr {ns}", &["kubernetes.io/kube-apiserver-client", "Pending"])?;
    // The controllers sign nothing that nobody approved.
    k.refuses("wait csr/{ns} --for=jsonpath='{.status.certificate}' --timeout=2s", "timed out waiting")?;
    k.says("certificate approve {ns}", &["approved"])?;
    k.waits("get csr {ns}", &["Approved,Issued"])?;
    let encoded = k.ok("get csr {ns} -o jsonpath={.status.certificate}")?;
    let certificate = policy::unbase64(&encoded)?;
    k.file("jane.crt", std::str::from_utf8(&certificate).context("the certificate is not PEM")?)?;
    let jane = as_user(k, "jane", "--client-certificate=jane.crt --client-key=jane.key --embed-certs")?;
    jane.is("auth whoami -o jsonpath={.status.userInfo.username}", &user)?;
    jane.is("auth whoami -o jsonpath={.status.userInfo.groups}", "[\"people\",\"system:authenticated\"]")?;
    jane.refuses("get pods", &format!("User \"{user}\" cannot list resource \"pods\""))?;
    k.ok(&format!("create rolebinding edit --clusterrole=edit --user={user}"))?;
    jane.waits("create configmap made --from-literal=a=b", &["configmap/made created"])?;
    jane.says("get pods", &[])?;
    jane.refuses("get pods -n default", "forbidden")?;

    // A denied request is never signed, and a signer's name decides who may ask what.
    let (request, _) = policy::signing_request(&format!("{name}-no"), &user, "kubernetes.io/kube-apiserver-client")?;
    k.reads("create -f -", &request, &["created"])?;
    k.says("certificate deny {ns}-no", &["denied"])?;
    k.has("csr {ns}-no", "{.status.certificate}{.status.conditions[0].type}", "Denied")?;
    jane.refuses("certificate approve {ns}-no", "forbidden")?;
    k.says("delete csr {ns} {ns}-no", &["deleted"])?;
    jane.ok("get pods").map(drop)
}

pub(crate) fn quotas(k: &Kubectl) -> Result<()> {
    k.waits("get configmap kube-root-ca.crt -o name", &["configmap/kube-root-ca.crt"])?;
    k.is(
        "create quota most --hard=configmaps=3,pods=2,requests.cpu=1,services.nodeports=0",
        "resourcequota/most created",
    )?;
    k.waits("get quota most -o 'jsonpath={.status.hard.configmaps} {.status.used.configmaps}'", &["3 1"])?;
    k.ok("create configmap a")?;
    k.ok("create configmap b")?;
    k.refuses(
        "create configmap c",
        "error: failed to create configmap: configmaps \"c\" is forbidden: exceeded quota: most, requested: configmaps=1, used: configmaps=3, limited: configmaps=3",
    )?;
    k.refuses(
        "run none --image=i",
        "pods \"none\" is forbidden: failed quota: most: must specify requests.cpu for: none",
    )?;
    let pod = |name: &str, cpu: &str| {
        let container =
            format!("{{\"name\":\"c\",\"image\":\"i\",\"resources\":{{\"requests\":{{\"cpu\":\"{cpu}\"}}}}}}");
        format!("run {name} --image=i --overrides='{{\"spec\":{{\"containers\":[{container}]}}}}'")
    };
    k.ok(&pod("one", "600m"))?;
    k.refuses(
        &pod("two", "500m"),
        "exceeded quota: most, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1",
    )?;
    k.ok(&pod("two", "400m"))?;
    k.refuses(&pod("three", "0"), "exceeded quota: most, requested: pods=1, used: pods=2, limited: pods=2")?;
    k.refuses(
        "create service nodeport out --tcp=80",
        "exceeded quota: most, requested: services.nodeports=1, used: services.nodeports=0, limited: services.nodeports=0",
    )?;
    let table = k.says("describe quota most", &["Name:", "most", "Namespace:", "Resource", "Used", "Hard"])?;
    for row in ["configmaps 3 3", "pods 2 2", "requests.cpu 1 1", "services.nodeports 0 0"] {
        ensure!(table.lines().any(|line| line.split_whitespace().eq(row.split(' '))), "no {row:?} in\n{table}");
    }
    k.says("describe namespace {ns}", &["Resource Quotas\n", "most"])?;
    k.says("get quota", &["REQUEST", "LIMIT", "configmaps: 3/3", "pods: 2/2"])?;
    // What goes makes room, and so does a larger quota.
    k.ok("delete configmap a")?;
    k.waits("create configmap c", &["configmap/c created"])?;
    k.ok("patch quota most -p '{\"spec\":{\"hard\":{\"configmaps\":\"4\"}}}'")?;
    k.waits("create configmap d", &["configmap/d created"])?;
    k.ok("delete pod one two --now")?;
    k.waits("get quota most -o jsonpath={.status.used.pods}", &["0"])?;
    k.ok("delete quota most")?;
    k.waits("create configmap e", &["configmap/e created"]).map(drop)
}

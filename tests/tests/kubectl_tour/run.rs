//! Pods that run: run, logs, exec, cp, attach, port-forward, debug, expose.

use anyhow::{Context as _, Result, ensure};
use skep_tests::kubectl::Kubectl;

use crate::access;

pub(crate) const IMAGE: &str = "localhost/skep/toolbox:1";

fn ready(k: &Kubectl, name: &str, command: &str) -> Result<()> {
    k.ok(&format!(
        "run {name} --image={IMAGE} --overrides='{{\"spec\":{{\"terminationGracePeriodSeconds\":1}}}}' {command}"
    ))?;
    k.ok(&format!("wait --for=condition=Ready pod/{name} --timeout=50s")).map(drop)
}

pub(crate) fn a_pod_from_run_to_delete(k: &Kubectl) -> Result<()> {
    k.is(&format!("run web --image={IMAGE} --port=8080 --env=A=b --labels=app=web,t=1"), "pod/web created")?;
    k.has(
        "pod web",
        "{.spec.containers[0].ports[0].containerPort} {.spec.containers[0].env[0].value} {.metadata.labels.t}",
        "8080 b 1",
    )?;
    k.ok("wait --for=condition=Ready pod/web --timeout=50s")?;
    k.says("get pod web -o wide", &["1/1     Running   0"])?;
    // To its end, with its output and its exit code; input, so that it waits to be attached to.
    let once = format!(
        "run once --image={IMAGE} --restart=Never --rm -i --quiet --command -- sh -c 'read word; echo got $word'"
    );
    let said = k.ok_with(&once, &[], "this\n")?;
    ensure!(said.contains("got this"), "{said}");
    k.refuses("get pod once", "not found")?;
    let told = k.tell(
        &format!("run fails --image={IMAGE} --restart=Never --rm -i --quiet --command -- sh -c 'exit 5'"),
        &[],
        "",
    )?;
    ensure!(told.code == Some(5), "{told:?}");
    k.says("delete pod web --now", &["pod \"web\" deleted"])?;
    k.refuses("get pod web", "not found").map(drop)
}

pub(crate) fn logs(k: &Kubectl) -> Result<()> {
    ready(k, "count", "--command -- sh -c 'for n in 1 2 3; do echo line $n; done; exec sleep 3600'")?;
    k.waits("logs count", &["line 1\nline 2\nline 3\n"])?;
    k.is("logs count --tail=1", "line 3")?;
    k.is("logs count --limit-bytes=6", "line 1")?;
    k.says("logs count --timestamps --tail=1", &["Z line 3"])?;
    k.says("logs count --prefix --tail=1", &["[pod/count/count] line 3"])?;
    k.is("logs -l run=count --tail=-1", "line 1\nline 2\nline 3")?;
    k.says("logs count --since=1h", &["line 1"])?;
    k.refuses("logs count -c none", "container none is not valid for pod count")?;
    k.refuses("logs count --previous", "previous terminated container \"count\" in pod \"count\" not found")?;
    ready(k, "ticks", "--command -- sh -c 'n=0; while sleep 0.2; do n=$((n+1)); echo tick $n; done'")?;
    let follow = k.spawn("logs -f ticks")?;
    follow.hears("tick 1")?;
    let first = follow.hears("tick")?;
    ensure!(first != follow.hears("tick")?, "it follows");
    // The end of the container ends the following.
    let mut follow = k.spawn("logs -f ticks --tail=1")?;
    follow.hears("tick")?;
    k.ok("delete pod ticks count --now")?;
    follow.end()?;
    Ok(())
}

pub(crate) fn exec_and_copy(k: &Kubectl) -> Result<()> {
    ready(k, "box", "--command -- sh -c 'busybox ln -s /bin/busybox /usr/bin/tar; exec sleep 3600'")?;
    k.is("exec box -- hostname", "box")?;
    k.is("exec pod/box -c box -- sh -c 'echo $((6*7))'", "42")?;
    let told = k.tell("exec box -- sh -c 'echo no >&2; exit 9'", &[], "")?;
    ensure!(told.code == Some(9) && told.stderr.contains("no\n"), "{told:?}");
    ensure!(k.ok_with("exec -i box -- cat", &[], "through")? == "through", "input goes through");
    k.refuses("exec none -- true", "pods \"none\" not found")?;
    k.file("folder/file", "copied\n")?;
    // tar must be found in the container.
    k.waits("exec box -- ls /usr/bin/tar", &["tar"])?;
    k.ok("cp folder box:/tmp/there")?;
    k.is("exec box -- cat /tmp/there/file", "copied")?;
    k.ok("cp box:/tmp/there/file back")?;
    let back = std::fs::read_to_string(k.folder().join("back"))?;
    ensure!(back == "copied\n", "{back:?} came back");
    k.ok("delete pod box --now").map(drop)
}

pub(crate) fn attach(k: &Kubectl) -> Result<()> {
    let overrides = "{\"spec\":{\"terminationGracePeriodSeconds\":1}}";
    k.ok(&format!("run parrot --image={IMAGE} --restart=Never --stdin --overrides='{overrides}' --attach=false --command -- sh -c 'while read w; do echo heard $w; done'"))?;
    k.ok("wait --for=condition=Ready pod/parrot --timeout=50s")?;
    let mut session = k.spawn("attach -i parrot")?;
    session.tell("hello\n")?;
    session.hears("heard hello")?;
    drop(session);
    // Another one joins the same container.
    let mut session = k.spawn("attach -i parrot -c parrot")?;
    session.tell("again\n")?;
    session.hears("heard again")?;
    drop(session);
    k.ok("delete pod parrot --now").map(drop)
}

pub(crate) fn forward(k: &Kubectl) -> Result<()> {
    ready(k, "web", "--port=8080 --expose")?;
    for target in ["pod/web", "service/web"] {
        let forward = k.spawn(&format!("port-forward {target} :8080"))?;
        let line = forward.hears("Forwarding from 127.0.0.1:")?;
        let port = line.split([':', ' ']).find_map(|word| word.parse::<u16>().ok()).context("no port")?;
        let ask = format!("get --server=http://127.0.0.1:{port} --raw /");
        // kubectl as the HTTP client: it runs where the port is.
        k.is(&ask, "web")?;
        k.is(&ask, "web")?;
    }
    k.refuses("port-forward pod/web 0:x", "error")?;
    k.ok("delete pod,service web --now").map(drop)
}

pub(crate) fn debug(k: &Kubectl) -> Result<()> {
    ready(k, "web", "")?;
    k.says(&format!("debug web --image={IMAGE} --copy-to=copy --attach=false -- sleep 3600"), &[])?;
    k.ok("wait --for=condition=Ready pod/copy --timeout=50s")?;
    ensure!(
        k.ok("get pod copy -o jsonpath={.spec.containers[*].name}")?.starts_with("web debugger-"),
        "the copy has both containers"
    );
    k.ok("delete pod web copy --now").map(drop)
}

pub(crate) fn debug_beside(k: &Kubectl) -> Result<()> {
    ready(k, "web", "")?;
    k.ok(&format!("debug web --image={IMAGE} -c extra --profile=general -- sleep 3600"))?;
    k.waits("get pod web -o 'jsonpath={.status.ephemeralContainerStatuses[0].state.running.startedAt}'", &["Z"])?;
    k.has("pod web", "{.spec.ephemeralContainers[0].name} {.spec.containers[*].name}", "extra web")?;
    k.is("exec web -c extra -- sh -c 'echo beside'", "beside")?;
    k.says("describe pod web", &["Ephemeral Containers:\n  extra:\n", IMAGE])?;
    k.ok("delete pod web --now").map(drop)
}

pub(crate) fn debug_in_a_terminal(k: &Kubectl) -> Result<()> {
    ready(k, "web", "")?;
    let line = format!("debug -it web --image={IMAGE} -c extra --profile=general --target=web -- sh");
    let mut session = k.spawn_in_terminal(&line)?;
    k.waits("get pod web -o 'jsonpath={.status.ephemeralContainerStatuses[0].state.running.startedAt}'", &["Z"])?;
    k.has("pod web", "{.spec.ephemeralContainers[0].stdin} {.spec.ephemeralContainers[0].tty}", "true true")?;
    session.tell("echo sum=$((40+2))\n")?;
    session.hears("sum=42")?;
    session.tell("test -t 0 && test -t 1 && echo a terminal $((1+0))\n")?;
    session.hears("a terminal 1")?;
    session.tell("exit\n")?;
    session.hears("code=0")?;
    session.end()?;
    k.waits("get pod web -o 'jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}'", &["0"])?;
    // A copy, with a shell in it.
    let mut session = k.spawn_in_terminal(&format!("debug -it web --image={IMAGE} --copy-to=copy -c shell -- sh"))?;
    k.waits("wait --for=condition=Ready pod/copy --timeout=50s", &["condition met"])?;
    session.tell("echo in $(hostname)\n")?;
    session.hears("in copy")?;
    session.tell("exit\n")?;
    session.hears("code=0")?;
    session.end()?;
    k.ok("delete pod web copy --now").map(drop)
}

/// A pod with the node's kubectl in it, which uses what every pod has: its token, the API's certificate authority, and
/// the API's address in its environment.
fn with_kubectl(k: &Kubectl) -> Result<String> {
    let program = skep_tests::kubectl::program(k.version())?.canonicalize()?;
    Ok(format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: inside }}
spec:
  serviceAccountName: robot
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: {IMAGE}
      command: [sh, -c, 'exec sleep 3600']
      env: [{{ name: HOME, value: /scratch }}]
      volumeMounts:
        - {{ name: kubectl, mountPath: /kubectl, readOnly: true }}
        - {{ name: scratch, mountPath: /scratch }}
  volumes:
    - {{ name: kubectl, hostPath: {{ path: '{}', type: File }} }}
    - {{ name: scratch, emptyDir: {{}} }}
",
        program.display()
    ))
}

pub(crate) fn identity_inside(k: &Kubectl) -> Result<()> {
    let me = format!("system:serviceaccount:{}:robot", k.namespace());
    k.ok("create serviceaccount robot")?;
    k.reads("create -f -", &with_kubectl(k)?, &["pod/inside created"])?;
    k.ok("wait --for=condition=Ready pod/inside --timeout=50s")?;
    let address = k.ok("get service kubernetes -n default -o 'jsonpath={.spec.clusterIP}:{.spec.ports[0].port}'")?;
    k.is("exec inside -- sh -c 'echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT'", &address)?;
    let inside = |line: &str| format!("exec inside -- /kubectl {line}");
    k.is(&inside("auth whoami -o jsonpath={.status.userInfo.username}"), &me)?;
    k.is(
        &inside("auth whoami -o 'jsonpath={.status.userInfo.extra.authentication\\.kubernetes\\.io/pod-name}'"),
        "[\"inside\"]",
    )?;
    k.refuses(
        &inside("get pods"),
        &format!("Error from server (Forbidden): pods is forbidden: User \"{me}\" cannot list resource \"pods\" in API group \"\" in the namespace \"{{ns}}\""),
    )?;
    k.ok("create role read --verb=get,list --resource=pods")?;
    k.ok("create rolebinding read --role=read --serviceaccount={ns}:robot")?;
    k.waits(&inside("get pods -o name"), &["pod/inside"])?;
    let told = k.tell(&inside("get pods -v=6"), &[], "")?;
    ensure!(told.stderr.contains(&format!("https://{address}/api/v1/namespaces/")), "another address: {told:?}");
    k.refuses(&inside("get secrets"), &format!("User \"{me}\" cannot list resource \"secrets\""))?;
    k.refuses(&inside("get pods -n default"), "in the namespace \"default\"")?;

    // The token is worth as much outside, but not longer than the pod lives.
    let token = k.ok("exec inside -- busybox cat /var/run/secrets/kubernetes.io/serviceaccount/token")?;
    let outside = access::as_user(k, "outside", &format!("--token={}", token.trim()))?;
    outside.says("get pods -o name", &["pod/inside"])?;
    k.ok("delete pod inside --now")?;
    access::fails_at_last(&outside, "get pods", "error: You must be logged in to the server (Unauthorized)")
}

pub(crate) fn expose(k: &Kubectl) -> Result<()> {
    k.ok(&format!("create deployment web --image={IMAGE} --port=8080"))?;
    k.is("expose deployment web --port=80 --target-port=8080", "service/web exposed")?;
    k.ok("rollout status deployment/web --timeout=50s")?;
    k.waits(
        "get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{.items[*].endpoints[*].conditions.ready}'",
        &["true"],
    )?;
    let address = k.ok("get service web -o jsonpath={.spec.clusterIP}")?;
    k.ok(&format!("run ask --image={IMAGE} --restart=Never --command -- toolbox get {address}:80"))?;
    k.ok("wait --for=jsonpath='{.status.phase}'=Succeeded pod/ask --timeout=50s")?;
    k.says("logs ask", &["web-"])?;
    k.ok("delete deployment,service web").map(drop)
}

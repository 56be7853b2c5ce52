//! `kubectl get` in all its forms.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

/// Three pods that stay Pending. Their nodes are there, or pods would be taken for left over; nobody serves them.
fn pods(k: &Kubectl) -> Result<()> {
    for node in ["w", "x"] {
        k.reads(
            "create -f -",
            &format!("---\n{{apiVersion: v1, kind: Node, metadata: {{name: '{{ns}}-{node}'}}}}"),
            &["created"],
        )?;
    }
    for (name, label, priority) in [("b", "x", 1), ("a", "w", 3), ("c", "x", 2)] {
        let pod = format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{l: {label}}}, annotations: {{weight: '{priority}'}}}}, spec: {{nodeName: {{ns}}-{label}, containers: [{{name: m, image: 'i:{priority}'}}]}}}}"
        );
        k.reads("create -f -", &pod, &["created"])?;
    }
    Ok(())
}

pub(crate) fn forms(k: &Kubectl) -> Result<()> {
    pods(k)?;
    k.says("get pods", &["NAME   READY   STATUS    RESTARTS   AGE\n", "\na      0/1     Pending   0          "])?;
    k.says("get pod a -o wide", &["NODE", "NOMINATED NODE", "READINESS GATES", "{ns}-w"])?;
    k.says("get pod a -o yaml", &["apiVersion: v1\nkind: Pod\n", "  - image: i:3\n", "status:\n  phase: Pending\n"])?;
    let yaml = k.ok("get pod a -o yaml")?;
    ensure!(!yaml.contains("managedFields"), "managed fields are shown only when asked for:\n{yaml}");
    k.says("get pods -o json", &["\"kind\": \"List\"", "\"name\": \"a\"", "\"resourceVersion\": \"\""])?;
    k.is("get pods -o name", "pod/a\npod/b\npod/c")?;
    k.is(
        "get pods -o jsonpath='{range .items[*]}{.metadata.name}={.spec.containers[0].image};{end}'",
        "a=i:3;b=i:1;c=i:2;",
    )?;
    k.is("get pods -o jsonpath-as-json='{.items[*].metadata.name}'", "[\n    \"a\",\n    \"b\",\n    \"c\"\n]")?;
    k.is("get pods -o go-template='{{range .items}}{{.metadata.name}} {{end}}'", "a b c")?;
    k.file("template", "{{len .items}}")?;
    k.is("get pods -o go-template-file=template", "3")?;
    k.says(
        "get pods -o custom-columns=WHO:.metadata.name,WHAT:.spec.containers[*].image",
        &["WHO   WHAT\na     i:3\n"],
    )?;
    k.file("columns", "WHO WHERE\nmetadata.name spec.nodeName\n")?;
    k.says("get pods -o custom-columns-file=columns", &["WHO   WHERE\na     {ns}-w\n"])?;
    k.says("get pods --show-labels", &["LABELS", "l=x"])?;
    k.says("get pods -L l,none", &["L     NONE", "w"])?;
    k.says("get pods --show-kind", &["pod/a "])?;
    k.says("get pods --no-headers", &["a     0/1"])?;
    k.says("get pods --server-print=false", &["NAME   AGE\n"])?;
    k.says("get pod/a namespace/{ns} -o name", &["pod/a", "namespace/{ns}"])?;
    k.says("get pods,configmaps", &["pod/a", "configmap/kube-root-ca.crt"])?;
    k.says("get all", &["pod/a"])?;
    k.says("get pods -o yaml --show-managed-fields", &["kind: List"])?;
    k.refuses("get pod none", "Error from server (NotFound): pods \"none\" not found")?;
    k.is("get pod none --ignore-not-found", "")?;
    k.refuses("get nothing", "error: the server doesn't have a resource type \"nothing\"")?;
    let told = k.tell("get secrets", &[], "")?;
    ensure!(told.stderr == format!("No resources found in {} namespace.\n", k.namespace()), "{told:?}");
    // Names people know.
    for alias in ["po", "Pod", "pods.v1.", "pod"] {
        k.is(&format!("get {alias} a -o name"), "pod/a")?;
    }
    k.says("get deploy,rs,ds,sts,cm,svc,ep,sa,pvc,quota,limits,ing,netpol,pdb,hpa,cj", &["kube-root-ca.crt"])?;
    k.says("get ns,no,pv,sc,pc,csr", &["kube-system"]).map(drop)
}

pub(crate) fn selections(k: &Kubectl) -> Result<()> {
    pods(k)?;
    k.is("get pods -l l=x -o name", "pod/b\npod/c")?;
    k.is("get pods -l 'l in (w,z)' -o name", "pod/a")?;
    k.is("get pods -l 'l notin (w),l' -o name", "pod/b\npod/c")?;
    k.is("get pods -l '!l' -o name", "")?;
    k.is("get pods --field-selector metadata.name=b -o name", "pod/b")?;
    k.is("get pods --field-selector spec.nodeName={ns}-x,metadata.name!=b -o name", "pod/c")?;
    k.is("get pods --field-selector status.phase=Running -o name", "")?;
    k.refuses("get pods --field-selector spec.nothing=1", "field label not supported: spec.nothing")?;
    k.refuses("get pods -l 'a b'", "unable to parse requirement")?;
    k.is("get pods --sort-by=.metadata.name -o name", "pod/a\npod/b\npod/c")?;
    k.is("get pods --sort-by=.metadata.annotations.weight -o name", "pod/b\npod/c\npod/a")?;
    k.is("get pods --sort-by='{.spec.containers[0].image}' -o name", "pod/b\npod/c\npod/a")?;
    k.is("get pods --chunk-size=1 -o name", "pod/a\npod/b\npod/c")?;
    let requests = k.tell("get pods --chunk-size=2 -v=6", &[], "")?.stderr;
    ensure!(requests.matches("limit=2").count() == 2, "two pages are asked for:\n{requests}");
    k.says("get pods -A", &["NAMESPACE", "{ns}"])?;
    k.says("get pods -A --field-selector metadata.namespace={ns} -o name", &["pod/a\npod/b\npod/c\n"])?;
    k.says("get namespaces -l kubernetes.io/metadata.name={ns} -o name", &["namespace/{ns}"])?;
    k.ok("create secret generic typed --type=example.com/t")?;
    k.is("get secrets --field-selector type=example.com/t -o name", "secret/typed")?;
    k.file("both.yaml", "---\n{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: a}}, {apiVersion: v1, kind: Pod, metadata: {name: b}}]}")?;
    k.is("get -f both.yaml -o name", "pod/a\npod/b")
}

pub(crate) fn watches(k: &Kubectl) -> Result<()> {
    k.ok("create configmap first --from-literal=a=1")?;
    let table = k.spawn("get configmaps --watch")?;
    table.hears("NAME")?;
    table.hears("first")?;
    let one = k.spawn("get configmap first --watch -o jsonpath='{.data.a};\n'")?;
    one.hears("1;")?;
    let events = k.spawn("get configmaps --watch-only --output-watch-events -o json -l seen=yes")?;
    let kinds = k.spawn("get configmaps --watch --output-watch-events")?;
    kinds.hears("EVENT")?;
    kinds.hears("ADDED")?;
    // A watch that has shown its beginning is under way; the last of them may need a moment more.
    std::thread::sleep(Duration::from_millis(500));
    k.ok("create configmap second")?;
    k.ok("patch configmap first -p '{\"data\":{\"a\":\"2\"}}'")?;
    k.ok("label configmap second seen=yes")?;
    k.ok("label configmap second seen=no --overwrite")?;
    k.ok("delete configmap second")?;
    table.hears("second")?;
    one.hears("2;")?;
    one.is_silent(Duration::from_millis(200))?;
    // What leaves the selection is deleted, for that watcher.
    events.hears("\"type\":\"ADDED\"")?;
    events.hears("\"type\":\"DELETED\"")?;
    kinds.hears("ADDED      second")?;
    kinds.hears("MODIFIED   first")?;
    kinds.hears("DELETED    second")?;
    drop(events);
    let pods = k.spawn("get pods --watch")?;
    k.reads("create -f -", "---\n{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: '{ns}', containers: [{name: m, image: i}]}}", &["created"])?;
    pods.hears("p      0/1     Pending")?;
    k.ok("delete pod p --grace-period=0 --force")?;
    pods.hears("Pending").map(drop)
}

pub(crate) fn raw_and_proxy(k: &Kubectl) -> Result<()> {
    k.says("get --raw /api/v1/namespaces/{ns}", &["\"kind\":\"Namespace\"", "\"phase\":\"Active\""])?;
    k.is("get --raw /healthz", "ok")?;
    k.says("get --raw /readyz?verbose", &["[+]ping ok", "[+]etcd ok", "readyz check passed"])?;
    k.says("get --raw /metrics", &["apiserver_request_total"])?;
    k.refuses("get --raw /no/such/path", "the server could not find the requested resource")?;
    let proxy = k.spawn("proxy --port=0 --api-prefix=/k8s/")?;
    let line = proxy.hears("Starting to serve on ")?;
    let address = line.rsplit(' ').next().unwrap_or_default().to_owned();
    let ask = |path: &str| -> Result<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask(&format!("/k8s/api/v1/namespaces/{}/configmaps", k.namespace()))?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"kind\":\"ConfigMapList\""), "{answer}");
    let answer = ask("/k8s/api/v1/namespaces/none")?;
    ensure!(answer.starts_with("HTTP/1.1 404") && answer.contains("namespaces \\\"none\\\" not found"), "{answer}");
    let answer = ask("/k8s/api/v1/namespaces/default/pods/p/exec")?;
    ensure!(answer.starts_with("HTTP/1.1 403"), "the proxy itself refuses exec: {answer}");
    Ok(())
}

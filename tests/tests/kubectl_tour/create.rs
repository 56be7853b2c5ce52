//! `kubectl create`, all generators, and what is refused.

use anyhow::{Result, ensure};
use skep_pki::{Authority, CertRequest};
use skep_tests::kubectl::Kubectl;

pub(crate) fn workloads(k: &Kubectl) -> Result<()> {
    k.is(
        "create deployment web --image=localhost/skep/toolbox:1 --replicas=2 --port=80",
        "deployment.apps/web created",
    )?;
    k.has("deployment web", "{.spec.replicas} {.spec.template.spec.containers[0].ports[0].containerPort}", "2 80")?;
    k.has("deployment web", "{.spec.template.spec.containers[0].name} {.metadata.labels.app}", "toolbox web")?;
    k.is("create cronjob tick --image=i --schedule='*/5 * * * *' -- echo tick", "cronjob.batch/tick created")?;
    k.has("cronjob tick", "{.spec.schedule} {.spec.concurrencyPolicy}", "*/5 * * * * Allow")?;
    k.is("create job once --image=i -- echo once", "job.batch/once created")?;
    k.has(
        "job once",
        "{.spec.backoffLimit} {.spec.template.spec.restartPolicy} {.spec.completionMode}",
        "6 Never NonIndexed",
    )?;
    k.is("create job manual --from=cronjob/tick", "job.batch/manual created")?;
    k.has("job manual", "{.metadata.annotations.cronjob\\.kubernetes\\.io/instantiate}", "manual")?;
    k.has("job manual", "{.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}", "CronJob/tick")?;
    k.is(
        "create priorityclass {ns} --value=1000 --description=mine",
        &format!("priorityclass.scheduling.k8s.io/{} created", k.namespace()),
    )?;
    k.has("priorityclass {ns}", "{.value} {.preemptionPolicy}", "1000 PreemptLowerPriority")?;
    k.is("create pdb guard --selector=app=web --min-available=50%", "poddisruptionbudget.policy/guard created")?;
    k.has("pdb guard", "{.spec.minAvailable}", "50%")?;
    k.ok("delete priorityclass {ns}").map(drop)
}

pub(crate) fn configuration(k: &Kubectl) -> Result<()> {
    k.file("plain", "a file\n")?;
    k.file("env", "FIRST=1\nSECOND=two words\n")?;
    k.is("create configmap literal --from-literal=a=b --from-literal=c='d e'", "configmap/literal created")?;
    k.has("configmap literal", "{.data.a} {.data.c}", "b d e")?;
    k.is("create configmap file --from-file=plain --from-file=other=plain", "configmap/file created")?;
    k.has("configmap file", "{.data.plain}{.data.other}", "a file\na file")?;
    k.is("create configmap env --from-env-file=env", "configmap/env created")?;
    k.has("configmap env", "{.data.FIRST} {.data.SECOND}", "1 two words")?;
    k.file("bytes/binary", "\0")?;
    std::fs::write(k.folder().join("bytes/binary"), [0xff, 0xfe, 0])?;
    k.ok("create configmap folder --from-file=bytes")?;
    k.has("configmap folder", "{.binaryData.binary}", "//4A")?;

    k.is("create secret generic plain --from-literal=user=me --type=example.com/kind", "secret/plain created")?;
    k.has("secret plain", "{.data.user} {.type}", "bWU= example.com/kind")?;
    let authority = Authority::create("tour", std::time::Duration::from_secs(3600))?;
    let identity = authority.issue(&CertRequest::server("tour.example", ["tour.example"]))?;
    k.file("tls.crt", &identity.certificate)?;
    k.file("tls.key", &identity.key)?;
    k.is("create secret tls pair --cert=tls.crt --key=tls.key", "secret/pair created")?;
    k.has("secret pair", "{.type}", "kubernetes.io/tls")?;
    k.is(
        "create secret docker-registry pull --docker-server=r.example --docker-username=u --docker-password=p",
        "secret/pull created",
    )?;
    k.has("secret pull", "{.type}", "kubernetes.io/dockerconfigjson")?;
    k.refuses(
        "create secret generic bad --type=kubernetes.io/tls --from-literal=a=b",
        "data[tls.crt]: Required value",
    )?;

    // Scopes are for what counts pods.
    k.refuses(
        "create quota most --hard=configmaps=9 --scopes=NotTerminating",
        "unsupported scope applied to resource",
    )?;
    k.is("create quota most --hard=pods=7,services=3", "resourcequota/most created")?;
    k.has("quota most", "{.spec.hard.pods} {.spec.hard.services}", "7 3")?;

    // Nothing of a dry run is stored; the server's is defaulted.
    let made =
        k.says("create configmap dry --from-literal=a=b --dry-run=client -o yaml", &["kind: ConfigMap", "a: b"])?;
    ensure!(!made.contains("uid:"), "a client's dry run asked the server:\n{made}");
    k.says("create configmap dry --from-literal=a=b --dry-run=server -o yaml", &["uid:", "creationTimestamp: \"2"])?;
    k.is("create configmap dry --from-literal=a=b --dry-run=server", "configmap/dry created (server dry run)")?;
    k.refuses("get configmap dry", "Error from server (NotFound): configmaps \"dry\" not found")?;

    // Several documents, a List, and a bare path.
    let two = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n---\n{\"apiVersion\":\"v1\",\"kind\":\"List\",\
               \"items\":[{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"generateName\":\"two-\"}}]}";
    k.reads("create -f -", two, &["configmap/one created", "configmap/two-"])?;
    let raw = "{\"metadata\":{\"name\":\"raw\"}}";
    k.file("raw.json", raw)?;
    k.says("create --raw /api/v1/namespaces/{ns}/configmaps -f raw.json", &["\"name\":\"raw\"", "\"uid\":"])?;
    k.has("configmap raw", "{.metadata.name}", "raw")
}

pub(crate) fn access(k: &Kubectl) -> Result<()> {
    k.is("create serviceaccount robot", "serviceaccount/robot created")?;
    k.is(
        "create role reader --verb=get,list --resource=pods,deployments.apps",
        "role.rbac.authorization.k8s.io/reader created",
    )?;
    k.has("role reader", "{.rules[0].apiGroups[0]}|{.rules[0].resources[0]}|{.rules[1].apiGroups[0]}", "|pods|apps")?;
    k.is(
        "create rolebinding read --role=reader --user=jane --serviceaccount={ns}:robot",
        "rolebinding.rbac.authorization.k8s.io/read created",
    )?;
    k.has("rolebinding read", "{.subjects[*].kind} {.roleRef.name}", "User ServiceAccount reader")?;
    k.says("create clusterrole {ns} --verb=get --resource=nodes --resource-name=n", &["created"])?;
    k.has("clusterrole {ns}", "{.rules[0].resourceNames[0]}", "n")?;
    k.says("create clusterrole {ns}-url --verb=get --non-resource-url=/logs/*", &["created"])?;
    k.has("clusterrole {ns}-url", "{.rules[0].nonResourceURLs[0]}", "/logs/*")?;
    k.says("create clusterrole {ns}-sum --aggregation-rule=tour={ns}", &["created"])?;
    k.says("create clusterrolebinding {ns} --clusterrole={ns} --group=people", &["created"])?;
    k.has("clusterrolebinding {ns}", "{.subjects[0].kind} {.subjects[0].name}", "Group people")?;
    k.says("describe role reader", &["pods", "deployments.apps", "[get list]"])?;
    k.says("describe rolebinding read", &["Kind:  Role", "jane", "robot"])?;
    k.says("delete clusterrole,clusterrolebinding {ns}", &["deleted"])?;
    k.says("delete clusterrole {ns}-url {ns}-sum", &["deleted"]).map(drop)
}

pub(crate) fn services(k: &Kubectl) -> Result<()> {
    k.is("create service clusterip inner --tcp=80:8080 --tcp=443", "service/inner created")?;
    k.has("service inner", "{.spec.type} {.spec.ports[*].port} {.spec.ports[0].targetPort}", "ClusterIP 80 443 8080")?;
    k.ok("create service clusterip headless --clusterip=None --tcp=80")?;
    k.has("service headless", "{.spec.clusterIP}", "None")?;
    k.is("create service nodeport outer --tcp=80", "service/outer created")?;
    let port: u16 = k.ok("get service outer -o jsonpath={.spec.ports[0].nodePort}")?.parse()?;
    ensure!((30000..=32767).contains(&port), "node port {port}");
    k.is("create service loadbalancer balanced --tcp=80", "service/balanced created")?;
    k.says("get service balanced", &["LoadBalancer", "<pending>", "80:3"])?;
    k.is("create service externalname away --external-name=example.com", "service/away created")?;
    k.says("get service away", &["ExternalName", "<none>", "example.com"])?;
    k.is(
        "create ingress front --class=c --rule='a.example/path*=inner:80,tls=pair' --default-backend=inner:80 --annotation=x=y",
        "ingress.networking.k8s.io/front created",
    )?;
    k.has("ingress front", "{.spec.rules[0].http.paths[0].pathType} {.spec.tls[0].secretName}", "Prefix pair")?;
    k.says("get ingress front", &["CLASS", "a.example", "80, 443"])?;
    k.says("expose service inner --name=again --port=81", &["service/again exposed"])?;
    k.refuses(
        "create service nodeport clash --tcp=80 --node-port=80",
        "provided port is not in the valid range. The range of valid ports is 30000-32767",
    )
}

pub(crate) fn what_is_refused(k: &Kubectl) -> Result<()> {
    k.ok("create configmap here")?;
    k.refuses("create configmap here", "error: failed to create configmap: configmaps \"here\" already exists")?;
    k.refuses(
        "create configmap Bad_Name",
        "ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of",
    )?;
    k.refuses(
        "create configmap elsewhere -n no-such-namespace",
        "error: failed to create configmap: namespaces \"no-such-namespace\" not found",
    )?;
    k.file("typo.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: typo}\nspec: {replica: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: i, imagee: j}]}}}\n")?;
    k.refuses("create -f typo.yaml", "strict decoding error: unknown field \"spec.replica\", unknown field \"spec.template.spec.containers[0].imagee\"")?;
    let told = k.tell("create -f typo.yaml --validate=warn", &[], "")?;
    ensure!(told.code == Some(0) && told.stderr.contains("Warning: unknown field \"spec.replica\""), "{told:?}");
    k.ok("delete -f typo.yaml")?;
    let told = k.tell("create -f typo.yaml --validate=ignore", &[], "")?;
    ensure!(told.code == Some(0) && told.stderr.is_empty(), "{told:?}");
    k.file("bad.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec: {replicas: -1, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: A, image: ''}]}}}\n")?;
    let told = k.tell("create -f bad.yaml", &[], "")?;
    for part in [
        "The Deployment \"bad\" is invalid:",
        "* spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        "* spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
        "* spec.template.spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of",
        "* spec.template.spec.containers[0].image: Required value",
    ] {
        ensure!(told.stderr.contains(part), "no {part:?} in\n{}", told.stderr);
    }
    k.file("wrong.yaml", "apiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: wrong}\n")?;
    k.refuses("create -f wrong.yaml", "no matches for kind \"Nothing\" in version \"example.com/v1\"")?;
    k.file("type.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: type}\nspec: {ports: wrong}\n")?;
    k.refuses("create -f type.yaml", "cannot be handled as a Service")
}

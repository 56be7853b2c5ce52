//! `kubectl explain`, and what the server says it serves.

use anyhow::{Result, ensure};
use skep_tests::kubectl::Kubectl;

pub(crate) fn fields(k: &Kubectl) -> Result<()> {
    k.says("explain pods", &["KIND:       Pod\nVERSION:    v1\n", "DESCRIPTION:", "FIELDS:", "  spec\t<PodSpec>"])?;
    k.says("explain pod.spec.containers", &["FIELD: containers <[]Container>", "  image\t<string>", "-required-"])?;
    k.says(
        "explain deployment.spec.strategy.type",
        &["GROUP:      apps", "FIELD: type <string>", "Can be \"Recreate\" or"],
    )?;
    let tree = k.says(
        "explain deployments --recursive",
        &["  spec\t<DeploymentSpec>", "    template\t<PodTemplateSpec> -required-"],
    )?;
    ensure!(tree.lines().count() > 500, "the tree has {} lines", tree.lines().count());
    k.says("explain hpa --api-version=autoscaling/v1", &["VERSION:    v1", "GROUP:      autoscaling"])?;
    k.says("explain hpa.spec.metrics --api-version=autoscaling/v2", &["<[]MetricSpec>"])?;
    k.says("explain pods --output=plaintext-openapiv2", &["KIND:     Pod"])?;
    k.refuses("explain pods.spec.nothing", "error: field \"nothing\" does not exist")
}

pub(crate) fn resources(k: &Kubectl) -> Result<()> {
    let table = k.says("api-resources", &["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"])?;
    for row in [
        "pods po v1 true Pod",
        "nodes no v1 false Node",
        "deployments deploy apps/v1 true Deployment",
        "cronjobs cj batch/v1 true CronJob",
        "horizontalpodautoscalers hpa autoscaling/v2 true HorizontalPodAutoscaler",
        "events ev events.k8s.io/v1 true Event",
        "poddisruptionbudgets pdb policy/v1 true PodDisruptionBudget",
        "certificatesigningrequests csr certificates.k8s.io/v1 false CertificateSigningRequest",
        "endpointslices discovery.k8s.io/v1 true EndpointSlice",
    ] {
        let there = table.lines().any(|line| line.split_whitespace().eq(row.split(' ')));
        ensure!(there, "no row {row:?} in\n{table}");
    }
    k.says("api-resources -o name --namespaced=false", &["nodes\n", "clusterroles.rbac.authorization.k8s.io\n"])?;
    k.is("api-resources --api-group=batch -o name", "cronjobs.batch\njobs.batch")?;
    k.says(
        "api-resources -o wide",
        &["VERBS", "CATEGORIES", "create,delete,deletecollection,get,list,patch,update,watch", "all"],
    )?;
    k.says("api-resources --verbs=list,watch --categories=all -o name", &["deployments.apps", "services"])?;
    let versions =
        k.says("api-versions", &["v1\n", "apps/v1\n", "autoscaling/v1\n", "autoscaling/v2\n", "events.k8s.io/v1\n"])?;
    for group in [
        "admissionregistration",
        "certificates",
        "coordination",
        "discovery",
        "events",
        "flowcontrol.apiserver",
        "networking",
        "node",
        "rbac.authorization",
        "resource",
        "scheduling",
        "storage",
    ] {
        ensure!(versions.contains(&format!("{group}.k8s.io/v1\n")), "no {group} in\n{versions}");
    }
    k.says("version", &["Server Version: v1.35"])?;
    k.says("version -o json", &["\"minor\": \"35\""])?;
    k.says("cluster-info", &["is running at"])?;
    k.ok("cluster-info dump --namespaces {ns} --output-directory=dump")?;
    ensure!(k.folder().join("dump/nodes.json").exists(), "the dump has no nodes");
    Ok(())
}

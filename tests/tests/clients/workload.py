"""What a program built on PyPI's `kubernetes` does, against the cluster of the kubeconfig in KUBECONFIG.

Each step asserts what upstream's server would answer; the first that fails ends it.
"""

import datetime
import os
import sys
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

IMAGE = "localhost/skep/toolbox:1"
NAMESPACE = "python"

config.load_kube_config(os.environ["KUBECONFIG"])
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()


def refused(status, reason, call, *args, **kwargs):
    """The call must fail with this code and reason."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == status and reason in error.body, (error.status, error.body)
        return
    raise AssertionError(f"{call.__name__}{args} was not refused")


def wait(what, probe, limit=60):
    end = time.monotonic() + limit
    while not (found := probe()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)
    return found


def namespaces_and_versions():
    assert client.VersionApi().get_code().minor == "35"
    core.create_namespace({"metadata": {"name": NAMESPACE}})
    wait("the default service account", lambda: core.list_namespaced_service_account(NAMESPACE).items)
    groups = [group.name for group in client.ApisApi().get_api_versions().groups]
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= set(groups), groups


def objects():
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="map", labels={"a": "b"}), data={"k": "1"})
    made = core.create_namespaced_config_map(NAMESPACE, body)
    assert made.metadata.uid and isinstance(made.metadata.creation_timestamp, datetime.datetime)
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, body)
    refused(404, "NotFound", core.read_namespaced_config_map, "none", NAMESPACE)
    refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, {"metadata": {"name": "Not Valid"}})

    # A dict is a strategic merge patch, a list a JSON patch.
    core.patch_namespaced_config_map("map", NAMESPACE, {"data": {"l": "2"}})
    core.patch_namespaced_config_map("map", NAMESPACE, [{"op": "replace", "path": "/data/k", "value": "3"}])
    now = core.read_namespaced_config_map("map", NAMESPACE)
    assert now.data == {"k": "3", "l": "2"}, now.data
    made.data = {"stale": "yes"}
    refused(409, "Conflict", core.replace_namespaced_config_map, "map", NAMESPACE, made)
    now.data = {"k": "4"}
    assert core.replace_namespaced_config_map("map", NAMESPACE, now).data == {"k": "4"}
    now = core.read_namespaced_config_map("map", NAMESPACE)
    now.data = {"k": "dry"}
    assert core.replace_namespaced_config_map("map", NAMESPACE, now, dry_run="All").data == {"k": "dry"}
    assert core.read_namespaced_config_map("map", NAMESPACE).data == {"k": "4"}
    status = core.delete_namespaced_config_map("map", NAMESPACE)
    assert status.status == "Success", status
    yaml = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "made"}, "stringData": {"a": "b"}}
    utils.create_from_dict(client.ApiClient(), yaml, namespace=NAMESPACE)
    assert core.read_namespaced_secret("made", NAMESPACE).data == {"a": "Yg=="}


def pages():
    for number in range(7):
        core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": f"page-{number}", "labels": {"page": "yes"}}})
    names, token, sizes = [], None, []
    while token != "":
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes", limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        sizes.append(len(page.items))
        token = page.metadata._continue or ""
    assert names == [f"page-{number}" for number in range(7)] and sizes == [3, 3, 1], (names, sizes)
    only = core.list_namespaced_config_map(NAMESPACE, field_selector="metadata.name=page-3").items
    assert [item.metadata.name for item in only] == ["page-3"]
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="page=yes")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes").items


def watches():
    seen, ready = [], threading.Event()

    def look():
        listed = core.list_namespaced_config_map(NAMESPACE)
        ready.set()
        version = listed.metadata.resource_version
        watcher = watch.Watch()
        for event in watcher.stream(
            core.list_namespaced_config_map, NAMESPACE, label_selector="w=1", resource_version=version, timeout_seconds=60
        ):
            seen.append((event["type"], event["object"].metadata.name, event["object"].data))
            if event["type"] == "DELETED":
                watcher.stop()

    thread = threading.Thread(target=look)
    thread.start()
    ready.wait()
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "seen", "labels": {"w": "1"}}, "data": {"n": "1"}})
    core.patch_namespaced_config_map("seen", NAMESPACE, {"data": {"n": "2"}})
    core.delete_namespaced_config_map("seen", NAMESPACE)
    thread.join(60)
    expected = [("ADDED", "seen", {"n": "1"}), ("MODIFIED", "seen", {"n": "2"}), ("DELETED", "seen", {"n": "2"})]
    assert seen == expected, seen


def deployments():
    labels = {"app": "web"}
    spec = client.V1DeploymentSpec(
        replicas=1,
        selector=client.V1LabelSelector(match_labels=labels),
        template=client.V1PodTemplateSpec(
            metadata=client.V1ObjectMeta(labels=labels),
            spec=client.V1PodSpec(
                termination_grace_period_seconds=1,
                containers=[client.V1Container(name="web", image=IMAGE, command=["toolbox", "serve"])],
            ),
        ),
    )
    body = client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec)
    apps.create_namespaced_deployment(NAMESPACE, body)
    wait("the deployment", lambda: apps.read_namespaced_deployment_status("web", NAMESPACE).status.ready_replicas == 1)
    apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 2}})
    wait("the second pod", lambda: apps.read_namespaced_deployment("web", NAMESPACE).status.ready_replicas == 2)
    assert apps.read_namespaced_deployment_scale("web", NAMESPACE).status.replicas == 2
    pods = core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items
    name = pods[0].metadata.name

    log = core.read_namespaced_pod_log(name, NAMESPACE)
    assert f"serving as {name}" in log, log
    lines = core.read_namespaced_pod_log(name, NAMESPACE, follow=True, _preload_content=False).stream()
    assert b"serving" in next(lines)

    # The WebSocket of this client speaks v4.channel.k8s.io.
    said = stream(core.connect_get_namespaced_pod_exec, name, NAMESPACE, command=["echo", "hello"],
                  stdout=True, stderr=True, stdin=False, tty=False)
    assert said == "hello\n", said
    shell = stream(core.connect_get_namespaced_pod_exec, name, NAMESPACE, command=["sh"],
                   stdout=True, stderr=True, stdin=True, tty=False, _preload_content=False)
    # One after the other: this client waits for the socket, not for what TLS has read from it already, so of two frames
    # that arrive together it sees the second only with the third.
    shell.write_stdin("echo out\n")
    out = shell.readline_stdout(timeout=20)
    assert out == "out", out
    shell.write_stdin("echo err >&2\n")
    err = shell.readline_stderr(timeout=20)
    assert err == "err", err
    shell.write_stdin("exit 3\n")
    shell.run_forever(timeout=20)
    assert shell.returncode == 3, shell.returncode
    refused_exec = None
    try:
        stream(core.connect_get_namespaced_pod_exec, "none", NAMESPACE, command=["true"], stdout=True)
    except ApiException as error:
        refused_exec = error
    assert refused_exec and "404 Not Found" in refused_exec.reason, refused_exec

    forward = portforward(core.connect_get_namespaced_pod_portforward, name, NAMESPACE, ports="8080")
    socket = forward.socket(8080)
    socket.setblocking(True)
    socket.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = b""
    while part := socket.recv(1024):
        answer += part
    assert answer.startswith(b"HTTP/1.1 200") and name.encode() in answer, answer

    evicted = client.V1Eviction(metadata=client.V1ObjectMeta(name=name))
    assert core.create_namespaced_pod_eviction(name, NAMESPACE, evicted)
    wait("another pod", lambda: name not in
         [pod.metadata.name for pod in core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items])
    apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
    wait("its end", lambda: not core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items
         and not apps.list_namespaced_deployment(NAMESPACE).items)


def any_kind():
    anything = dynamic.DynamicClient(client.ApiClient())
    maps = anything.resources.get(api_version="v1", kind="ConfigMap")
    maps.create(body={"metadata": {"name": "any"}, "data": {"a": "b"}}, namespace=NAMESPACE)
    maps.patch(name="any", namespace=NAMESPACE, body={"data": {"a": "c"}}, content_type="application/merge-patch+json")
    assert maps.get(name="any", namespace=NAMESPACE).data.a == "c"
    jobs = anything.resources.get(api_version="batch/v1", kind="Job")
    assert jobs.namespaced and jobs.group == "batch"
    maps.delete(name="any", namespace=NAMESPACE)


def election():
    from kubernetes.leaderelection import electionconfig, leaderelection
    from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

    led = threading.Event()

    def lead(holder):
        elect = electionconfig.Config(
            ConfigMapLock("leader", NAMESPACE, holder), lease_duration=3, renew_deadline=2, retry_period=1,
            onstarted_leading=led.set, onstopped_leading=lambda: None,
        )
        leaderelection.LeaderElection(elect).run()

    threading.Thread(target=lead, args=("one",), daemon=True).start()
    assert led.wait(30), "nobody leads"
    record = core.read_namespaced_config_map("leader", NAMESPACE).metadata.annotations
    assert "one" in record["control-plane.alpha.kubernetes.io/leader"], record


STEPS = [namespaces_and_versions, objects, pages, watches, deployments, any_kind, election]

for step in STEPS:
    print(step.__name__, flush=True)
    step()
# The threads of a leader never end.
sys.stdout.flush()
os._exit(0)

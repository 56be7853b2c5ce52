//! `kubectl describe` of many kinds.

use anyhow::Result;
use skep_tests::kubectl::Kubectl;

const OBJECTS: &str = "
apiVersion: v1
kind: PersistentVolume
metadata: { name: '{ns}' }
spec: { capacity: { storage: 1Gi }, accessModes: [ReadWriteOnce], hostPath: { path: /tmp/none }, storageClassName: '{ns}' }
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: { name: '{ns}' }
provisioner: example.com/none
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: claim }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } }, storageClassName: '{ns}' }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: policy }
spec: { podSelector: { matchLabels: { a: b } }, ingress: [{ from: [{ podSelector: {} }], ports: [{ port: 80 }] }] }
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: { name: '{ns}' }
spec: { controller: example.com/c }
---
apiVersion: v1
kind: LimitRange
metadata: { name: limits }
spec: { limits: [{ type: Container, default: { cpu: 300m }, max: { cpu: '1' } }] }
---
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: set }
spec: { serviceName: set, replicas: 0, selector: { matchLabels: { a: b } }, template: { metadata: { labels: { a: b } }, spec: { containers: [{ name: c, image: i }] } } }
---
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: every }
spec: { selector: { matchLabels: { a: b } }, template: { metadata: { labels: { a: b } }, spec: { nodeSelector: { none: none }, containers: [{ name: c, image: i }] } } }
---
apiVersion: v1
kind: Pod
metadata: { name: pod, labels: { app: web } }
spec:
  nodeName: none
  containers:
    - name: main
      image: i
      env: [{ name: SIMPLE, value: x }, { name: KEY, valueFrom: { configMapKeyRef: { name: map, key: k } } }]
      ports: [{ containerPort: 80 }]
      resources: { requests: { cpu: 100m } }
      volumeMounts: [{ name: empty, mountPath: /empty }]
      livenessProbe: { httpGet: { port: 80 }, periodSeconds: 7 }
  volumes: [{ name: empty, emptyDir: {} }, { name: map, configMap: { name: map } }]
---
apiVersion: v1
kind: ReplicationController
metadata: { name: old }
spec: { replicas: 0, selector: { x: z }, template: { metadata: { labels: { x: z } }, spec: { containers: [{ name: c, image: i }] } } }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: slice }
addressType: IPv4
endpoints: [{ addresses: [192.0.2.9], conditions: { ready: true } }]
ports: [{ port: 80, name: http }]
";

pub(crate) fn kinds(k: &Kubectl) -> Result<()> {
    k.file("objects.yaml", OBJECTS)?;
    k.ok("create -f objects.yaml")?;
    k.ok("create deployment web --image=i --replicas=0")?;
    k.ok("create configmap map --from-literal=key=value")?;
    k.ok("create secret generic hidden --from-literal=key=value")?;
    k.ok("create service clusterip web --tcp=80:8080")?;
    k.ok("create ingress front --rule=a.example/=web:80")?;
    k.ok("create cronjob tick --image=i --schedule='@daily' -- true")?;
    k.ok("create quota most --hard=pods=9")?;
    k.ok("create pdb guard --selector=app=web --max-unavailable=1")?;
    k.ok("create job once --image=i -- true")?;
    let described: &[(&str, &[&str])] = &[
        (
            "deployment web",
            &["Selector:               app=web", "0 desired | 0 updated", "StrategyType:           RollingUpdate"],
        ),
        (
            "pod pod",
            &[
                "Service Account:  default",
                "Node:             none/",
                "Status:           Pending",
                ":       80/TCP",
                "Liveness:  http-get http://:80/ delay=0s timeout=1s period=7s #success=1 #failure=3",
                "SIMPLE:  x",
                "KEY:     <set to the key 'k' of config map 'map'>",
                "/empty from empty (rw)",
                "QoS Class:",
                "node.kubernetes.io/not-ready:NoExecute op=Exists for 300s",
            ],
        ),
        ("configmap map", &["key:\n----\nvalue\n"]),
        ("secret hidden", &["key:  5 bytes"]),
        (
            "service web",
            &[
                "Type:                     ClusterIP",
                "TargetPort:               8080/TCP",
                "Session Affinity:         None",
            ],
        ),
        ("ingress front", &["a.example", "/   web:80"]),
        ("cronjob tick", &["Schedule:                      @daily", "Concurrency Policy:            Allow"]),
        ("job once", &["Parallelism:", "Completion Mode:"]),
        ("quota most", &["Resource", "Used", "Hard"]),
        ("pdb guard", &["Max unavailable:  1"]),
        ("pv {ns}", &["Capacity:", "1Gi", "RWO"]),
        ("storageclass {ns}", &["Provisioner:           example.com/none", "ReclaimPolicy:         Delete"]),
        ("pvc claim", &["StorageClass:  {ns}"]),
        ("networkpolicy policy", &["PodSelector:     a=b", "To Port: 80/TCP", "Policy Types: Ingress"]),
        ("ingressclass {ns}", &["Controller:   example.com/c"]),
        ("limitrange limits", &["Container", "300m"]),
        ("statefulset set", &["Replicas:           0 desired | 0 total", "Update Strategy:    RollingUpdate"]),
        ("daemonset every", &["Node-Selector:", "Desired Number of Nodes Scheduled: 0"]),
        ("rc old", &["Replicas:     0 current / 0 desired"]),
        ("endpointslice slice", &["AddressType:  IPv4", "192.0.2.9"]),
        ("namespace {ns}", &["Status:       Active", "Resource Quotas", "Resource Limits"]),
        ("serviceaccount default", &["Image pull secrets:  <none>"]),
        ("lease -n kube-system", &["Holder Identity"]),
        ("priorityclass system-node-critical", &["Value:             2000001000"]),
    ];
    for (what, expected) in described {
        k.says(&format!("describe {what}"), expected)?;
    }
    k.says("describe pods,configmaps -l app=web", &["Name:             pod"])?;
    k.says("describe configmap ma", &["Name:         map"])?;
    k.refuses("describe pod none", "Error from server (NotFound): pods \"none\" not found")?;
    k.ok("delete pv,storageclass,ingressclass {ns} --wait=false").map(drop)
}

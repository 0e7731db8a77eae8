"""Clusters of any size, as an API server would tell of them: what ``benchmarks.control`` measures the operator with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resources.testing.cluster import Cluster

PODS_PER_SERVICE = 5
NODES = 50
NAMESPACES = 20
_HASH = "7c5ddbdf54"


def fill(cluster: Cluster, pods: int) -> None:
    """Put in nodes, namespaces, Services with their slices and accounts, and so many pods."""
    for collection, body in objects(pods):
        cluster.put(collection, body)


def objects(pods: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Collection and object, one after the other."""
    for number in range(NODES):
        labels = {"topology.kubernetes.io/region": "r1", "topology.kubernetes.io/zone": f"r1-z{number % 3}"}
        yield "/nodes", {"metadata": {"name": f"node-{number}", "labels": labels}}
    for number in range(NAMESPACES):
        metadata = {"name": f"team-{number}", "labels": {"istio.io/dataplane-mode": "ambient"}}
        yield "/namespaces", {"metadata": metadata}
    for service in range((pods + PODS_PER_SERVICE - 1) // PODS_PER_SERVICE):
        namespace, name = f"team-{service % NAMESPACES}", f"app-{service}"
        yield "/serviceaccounts", {"metadata": {"name": name, "namespace": namespace}}
        yield "/services", _service(service, namespace, name)
        members = range(service * PODS_PER_SERVICE, min((service + 1) * PODS_PER_SERVICE, pods))
        yield "discovery.k8s.io/endpointslices", _slice(namespace, name, members)
        for number in members:
            yield "/pods", pod(number)


def pod(number: int, ready: bool = True) -> dict[str, Any]:
    """One pod, with as much about it as real ones have."""
    service = number // PODS_PER_SERVICE
    namespace, name = f"team-{service % NAMESPACES}", f"app-{service}"
    labels = {"app": name, "pod-template-hash": _HASH, "version": "v1", "app.kubernetes.io/part-of": "benchmark"}
    container = {
        "name": "main",
        "image": "registry.example/app:1.2.3",
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
        "env": [{"name": f"VARIABLE_{index}", "value": "value"} for index in range(10)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in ("PodReadyToStartContainers", "Initialized", "ContainersReady", "PodScheduled")
    ]
    state = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    owner = {
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{name}-{_HASH}", "uid": f"owner-{service}",
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    return {
        "metadata": {
            "name": _pod_name(number),
            "generateName": f"{name}-{_HASH}-",
            "namespace": namespace,
            "uid": f"5f3c3d3e-0000-4000-8000-{number:012d}",
            "labels": labels,
            "annotations": {"ambient.istio.io/redirection": "enabled", "cni.example/status": "x" * 200},
            "ownerReferences": [owner],
            "managedFields": [
                {"manager": name, "operation": "Update", "fieldsV1": {f"f:{index}": {} for index in range(40)}}
                for name in ("kube-controller-manager", "kubelet")
            ],
        },
        "spec": {
            "containers": [container],
            "nodeName": f"node-{number % NODES}",
            "serviceAccountName": name,
            "serviceAccount": name,
            "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
        },
        "status": {
            "phase": "Running",
            "conditions": [*conditions, state],
            "podIP": _address(number),
            "podIPs": [{"ip": _address(number)}],
            "hostIP": f"192.168.0.{number % NODES}",
            "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": [{"name": "main", "ready": ready, "restartCount": 0, "image": "app:1.2.3"}],
            "qosClass": "Burstable",
        },
    }


def resources_of(pods: int) -> int:
    """How many addresses a proxy knows once it knows all of a cluster: pods and Services."""
    return pods + (pods + PODS_PER_SERVICE - 1) // PODS_PER_SERVICE


def _service(service: int, namespace: str, name: str) -> dict[str, Any]:
    address = f"10.{96 + service // 65536}.{service // 256 % 256}.{service % 256}"
    port = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
    spec = {"clusterIP": address, "clusterIPs": [address], "ports": [port], "selector": {"app": name}}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {**spec, "type": "ClusterIP"}}


def _slice(namespace: str, name: str, members: range) -> dict[str, Any]:
    endpoints = [
        {
            "addresses": [_address(number)],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{number % NODES}",
            "zone": f"r1-z{number % NODES % 3}",
            "targetRef": {"kind": "Pod", "name": _pod_name(number), "namespace": namespace},
        }
        for number in members
    ]
    labels = {"kubernetes.io/service-name": name}
    metadata = {"name": f"{name}-abcde", "namespace": namespace, "labels": labels}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}


def _pod_name(number: int) -> str:
    return f"app-{number // PODS_PER_SERVICE}-{_HASH}-{number:05x}"


def _address(number: int) -> str:
    return f"10.{128 + number // 65536}.{number // 256 % 256}.{number % 256}"

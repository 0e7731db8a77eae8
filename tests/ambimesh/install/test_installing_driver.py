"""Installing, upgrading and removing, against a real API server and its controllers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ambimesh.chart.loading_driver import load_chart, render
from ambimesh.cluster.client_driver import Cluster, Json
from ambimesh.install import record as records
from ambimesh.install.installing_driver import check_all, install, read_record
from ambimesh.install.planning import Key, key_of
from ambimesh.install.removing_driver import clean_nodes, made_by_operator, remove
from mesh.errors import ConfigurationError, EnvironmentLacks

pytestmark = pytest.mark.kubernetes

SECONDS = 60.0


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    name = "ambimesh-system"
    yield name
    found = read_record(cluster, name)
    for key in found.objects if found is not None else ():
        cluster.delete(key.api_version, key.kind, key.name, key.namespace)


def _objects(namespace: str, **values: Any) -> list[Json]:
    return render(load_chart(), {"namespace": {"create": True}, **values}, namespace=namespace)


def _install(cluster: Cluster, namespace: str, told: Any, seconds: float = SECONDS, **values: Any) -> list[Json]:
    objects = _objects(namespace, **values)
    install(cluster, namespace, objects, version="1.0", values=values, seconds=seconds, report=told.reporter)
    return objects


def _small(kind: str, name: str, **metadata: Any) -> Json:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default", **metadata}}


def test_a_mesh_is_installed_changed_and_removed(cluster: Cluster, kubelets: Any, told: Any, namespace: str) -> None:
    objects = _install(cluster, namespace, told)
    waits = [step for step in told.steps if step.startswith("waiting")]
    assert waits == ["waiting for operator", "waiting for agent", "waiting for ztunnel"]
    record = read_record(cluster, namespace)
    assert record is not None
    assert record.complete
    assert record.objects == [key_of(value) for value in objects]
    agents = cluster.get("apps/v1", "DaemonSet", "ambimesh-agent", namespace)
    assert agents["status"]["numberAvailable"] == 2

    # A version that has no disruption budget any more, and another number of replicas.
    fewer = [value for value in _objects(namespace, operator={"replicas": 3}) if value["kind"] != "PodDisruptionBudget"]
    install(cluster, namespace, fewer, version="1.1", values={}, seconds=SECONDS, report=told.reporter)
    assert cluster.find("policy/v1", "PodDisruptionBudget", "ambimesh-operator", namespace) is None
    assert cluster.get("apps/v1", "Deployment", "ambimesh-operator", namespace)["status"]["availableReplicas"] == 3

    # What the operator makes is taken away, what users write is not.
    labelled = {"name": "ambimesh-root-cert", "labels": {"app.kubernetes.io/managed-by": "ambimesh"}}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"root-cert.pem": "roots"}}
    roots = {**config_map, "metadata": {**labelled, "namespace": "default"}}
    mixed = {"root-cert.pem": "roots", "own": "1"}
    shared = {**config_map, "metadata": {**labelled, "namespace": "kube-public"}, "data": mixed}
    users = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "users-own", "namespace": "default"}}
    labels = {"ambimesh.dev/managed": "waypoint"}
    part = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "w", "namespace": "default", "labels": labels},
    }
    for value in (roots, shared, users, part):
        cluster.apply(value)
    assert set(made_by_operator(cluster)) == {key_of(roots), key_of(part)}
    clean_nodes(cluster, _objects(namespace, agent={"action": "uninstall"}), SECONDS, told.reporter)
    agents = cluster.get("apps/v1", "DaemonSet", "ambimesh-agent", namespace)
    assert agents["spec"]["template"]["spec"]["initContainers"][0]["command"][-1] == "uninstall"
    record = read_record(cluster, namespace)
    assert record is not None
    remove(cluster, namespace, record.objects, SECONDS, told.reporter)
    assert list(made_by_operator(cluster)) == []
    assert cluster.find("v1", "ConfigMap", "users-own", "default") is not None
    assert cluster.get("v1", "ConfigMap", "ambimesh-root-cert", "kube-public")["data"] == {"own": "1"}
    cluster.delete("v1", "ConfigMap", "ambimesh-root-cert", "kube-public")
    cluster.delete("v1", "ConfigMap", "users-own", "default")
    for value in [*objects, records.to_object(record, namespace)]:
        key = key_of(value)
        assert cluster.find(key.api_version, key.kind, key.name, key.namespace) is None


def test_what_operators_make_goes_when_none_runs_any_more(
    cluster: Cluster, kubelets: Any, told: Any, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that still ran would make its Lease again, and the namespace would stay with it."""
    objects = _install(cluster, namespace, told)
    delete, running = Cluster.delete, []

    def noting(self: Cluster, api_version: str, kind: str, *where: str, owned_first: bool = False) -> bool:
        if kind == "Lease":
            selector = "app.kubernetes.io/name=ambimesh-operator"
            running.append([key_of(pod) for pod in self.all_of("v1", "Pod", namespace, labels=selector)])
        return delete(self, api_version, kind, *where, owned_first=owned_first)

    monkeypatch.setattr(Cluster, "delete", noting)
    remove(cluster, namespace, [key_of(value) for value in objects], SECONDS, told.reporter)
    assert running == [[]]


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, "image", "--set images.prefix"),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, "crash", "started 4 times"),
        (None, "unschedulable", "Insufficient memory"),
    ],
)
def test_what_does_not_come_up_is_told_with_its_reason(
    cluster: Cluster, kubelets: Any, told: Any, namespace: str, state: Json | None, kind: str, said: str
) -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    fate = None if state is None else {"ready": False, "restartCount": 3, "state": state, "lastState": ended}
    kubelets.fate = lambda _pod: fate
    with pytest.raises(EnvironmentLacks, match="ambimesh-operator has 0 of 2 pods ready") as raised:
        _install(cluster, namespace, told, seconds=4)
    assert any(note.startswith(f"{kind}: pod ambimesh-operator-") and said in note for note in raised.value.__notes__)
    assert {problem.kind for problem in told.problems} == {kind}
    record = read_record(cluster, namespace)
    assert record is not None
    assert not record.complete
    if kind == "crash":  # the next attempt goes on from there
        kubelets.fate = type(kubelets)(cluster).fate
        _install(cluster, namespace, told)
        record = read_record(cluster, namespace)
        assert record is not None
        assert record.complete
    remove(cluster, namespace, record.objects, SECONDS, told.reporter)


def test_a_broken_upgrade_says_how_to_go_back(cluster: Cluster, kubelets: Any, told: Any, namespace: str) -> None:
    _install(cluster, namespace, told, mesh={"network": "old"})
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    well, old = kubelets.fate, {pod["metadata"]["name"] for pod in cluster.all_of("v1", "Pod", namespace)}

    def fate(pod: Json) -> Json:
        return well(pod) if pod["metadata"]["name"] in old else {"ready": False, "restartCount": 0, "state": waiting}

    kubelets.fate = fate
    with pytest.raises(EnvironmentLacks, match="ambimesh-operator has 0 of 2 pods ready") as raised:
        _install(cluster, namespace, told, seconds=4, mesh={"network": "new"})
    assert any("ambimesh upgrade --undo, with the command of version 1.0" in note for note in raised.value.__notes__)
    record = read_record(cluster, namespace)
    assert record is not None
    assert record.worked is not None
    assert (record.worked.version, record.worked.values) == ("1.0", {"mesh": {"network": "old"}})
    remove(cluster, namespace, record.objects, SECONDS, told.reporter)


def test_a_quota_that_takes_no_pods_is_told(cluster: Cluster, kubelets: Any, told: Any, namespace: str) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": namespace}}
    cluster.apply({**quota, "spec": {"hard": {"pods": "0"}}})
    with pytest.raises(EnvironmentLacks) as raised:
        _install(cluster, namespace, told, seconds=4)
    assert any(note.startswith("quota: Deployment ambimesh-operator") for note in raised.value.__notes__)
    cluster.delete("v1", "ResourceQuota", "none", namespace)
    record = read_record(cluster, namespace)
    assert record is not None
    remove(cluster, namespace, record.objects, SECONDS, told.reporter)


def test_nothing_is_changed_unless_everything_is_accepted(cluster: Cluster, told: Any) -> None:
    objects = _objects("nowhere")
    objects[-1]["spec"]["template"]["spec"]["nosuch"] = 1
    del objects[0]["metadata"]["labels"]["app.kubernetes.io/name"]
    with pytest.raises(ConfigurationError, match="nosuch") as raised:
        install(cluster, "nowhere", objects, version="1", values={}, seconds=1, report=told.reporter)
    assert "nothing was changed" in str(raised.value)
    assert cluster.find("v1", "Namespace", "nowhere") is None
    check_all(cluster, _objects("nowhere"))
    assert cluster.find("rbac.authorization.k8s.io/v1", "ClusterRole", "ambimesh-agent") is None


@pytest.mark.parametrize(("manager", "place", "said"), [("Helm", "x", "helm upgrade"), ("ambimesh", "other", "other")])
def test_one_mesh_leaves_another_alone(
    cluster: Cluster, told: Any, namespace: str, manager: str, place: str, said: str
) -> None:
    [binding] = [
        value
        for value in _objects(place)
        if value["kind"] == "ClusterRoleBinding" and value["metadata"]["name"] == "ambimesh-operator"
    ]
    binding["metadata"]["labels"]["app.kubernetes.io/managed-by"] = manager
    cluster.apply(binding)
    try:
        with pytest.raises(ConfigurationError, match=said):
            _install(cluster, namespace, told)
    finally:
        cluster.delete("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "ambimesh-operator")
    assert cluster.find("v1", "ServiceAccount", "ambimesh-agent", namespace) is None


def test_nodes_that_do_not_come_clean_keep_the_rest_in_place(
    cluster: Cluster, kubelets: Any, told: Any, namespace: str
) -> None:
    _install(cluster, namespace, told)
    kubelets.fate = lambda _pod: {
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": "PodInitializing"}},
    }
    with pytest.raises(EnvironmentLacks, match="ambimesh-agent"):
        clean_nodes(cluster, _objects(namespace, agent={"action": "uninstall"}), 3, told.reporter)
    assert cluster.find("apps/v1", "DaemonSet", "ambimesh-ztunnel", namespace) is not None
    record = read_record(cluster, namespace)
    assert record is not None
    assert Key("apps/v1", "Deployment", namespace, "ambimesh-operator") in record.objects
    remove(cluster, namespace, record.objects, SECONDS, told.reporter)

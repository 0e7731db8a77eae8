from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.base import Condition, ObjectMeta
from resources.kube.kinds import API_KINDS, Reading
from resources.kube.object_codec import MAX_OBJECT, decode_object, named
from resources.node import NOT_READY_TAINT
from resources.objects import (
    AuthorizationPolicy,
    ConfigMap,
    EndpointSlice,
    HTTPRoute,
    Node,
    ObjectKey,
    Pod,
    Secret,
)
from resources.problem import Problem

POD: dict[str, Any] = {
    "metadata": {
        "name": "p", "namespace": "n", "uid": "u", "resourceVersion": "3", "labels": {"a": "b"},
        "annotations": {"ambimesh.dev/fast-path": "direct", "cni.example/status": "long"},
        "managedFields": [{"manager": "x"}], "finalizers": ["f"],
    },
    "spec": {
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "aFieldOfTomorrow": 1}],
        "nodeName": "node1", "volumes": [{"name": "v"}], "aFieldOfTomorrow": {},
    },
    "status": {
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
        "conditions": [
            {"type": "Ready", "status": "True", "lastProbeTime": None},
            {"type": "Initialized", "status": "True"},
        ],
        "containerStatuses": [{}],
    },
}  # fmt: skip


def decode(kind: str, value: Any) -> Any:
    return decode_object(API_KINDS[kind], json.dumps(value).encode())


def test_a_pod_is_what_the_mesh_looks_at_of_it() -> None:
    pod = decode("Pod", POD)
    assert type(pod) is Pod
    assert pod.key == ObjectKey("Pod", "n", "p")
    assert pod.metadata.annotations == {"ambimesh.dev/fast-path": "direct"}
    assert pod.metadata.managed_fields is None
    assert pod.spec.volumes is None
    assert pod.spec.containers[0].ports[0].container_port == 80
    assert pod.status.conditions == (Condition(type="Ready", status="True"),)
    assert pod.status.ready
    assert pod.status.addresses == ("10.0.0.1",)


def test_of_a_config_map_only_roots_are_kept() -> None:
    metadata = {"name": "c", "namespace": "n", "resourceVersion": "1", "labels": {"a": "b"}}
    found = decode("ConfigMap", {"metadata": metadata, "data": {"ca.crt": "x", "y": "z"}, "binaryData": {"b": "AA=="}})
    assert found == ConfigMap(metadata=ObjectMeta(name="c", namespace="n"), data={"ca.crt": "x"})
    assert decode("ConfigMap", {"metadata": {**metadata, "resourceVersion": "2"}, "data": {"ca.crt": "x"}}) == found
    assert decode("ConfigMap", {"metadata": metadata, "data": None}).data == {}


def test_of_a_secret_only_certificates_and_keys_are_kept() -> None:
    metadata = {"name": "s", "namespace": "n", "annotations": {"a": "b"}}
    found = decode("Secret", {"metadata": metadata, "type": "Opaque", "data": {"tls.key": "eA==", "password": "eQ=="}})
    assert found == Secret(metadata=ObjectMeta(name="s", namespace="n"), data={"tls.key": "eA=="})
    assert "eA" not in f"{found} {found!r}"
    problem = decode("Secret", {"metadata": metadata, "data": {"tls.key": ["a-key"]}})
    assert isinstance(problem, Problem)
    assert "a-key" not in str(problem)


def test_nulls_are_absent_fields() -> None:
    value = {"metadata": {"name": "s", "namespace": "n"}, "addressType": "IPv4", "endpoints": None, "ports": None}
    decoded = decode("EndpointSlice", value)
    assert isinstance(decoded, EndpointSlice)
    assert decoded.endpoints == ()


def test_a_node_does_not_change_with_its_status() -> None:
    one = {"metadata": {"name": "n", "resourceVersion": "1", "labels": {"z": "1"}}, "status": {"images": []}}
    other = {"metadata": {"name": "n", "resourceVersion": "2", "labels": {"z": "1"}}, "status": {"images": [1]}}
    assert type(decode("Node", one)) is Node
    assert decode("Node", one) == decode("Node", other)


def test_of_a_nodes_taints_the_meshs_own_is_kept() -> None:
    taints = [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}]
    spec = {"podCIDR": "10.244.1.0/24", "taints": taints, "ofTomorrow": 1}
    found = decode("Node", {"metadata": {"name": "n"}, "spec": spec})
    assert found == Node(metadata=ObjectMeta(name="n"))
    spec["taints"] = [*taints, {"key": NOT_READY_TAINT, "effect": "NoSchedule"}]
    found = decode("Node", {"metadata": {"name": "n"}, "spec": spec})
    assert isinstance(found, Node)
    assert [taint.key for taint in found.spec.taints] == [NOT_READY_TAINT]


def test_a_wrong_type_is_a_problem_that_names_object_and_field() -> None:
    problem = decode("Pod", {**POD, "spec": {**POD["spec"], "nodeName": 3}})
    assert str(problem) == "Kubernetes API: Pod n/p: Expected `str`, got `int`, at $.spec.nodeName"
    assert problem.key == ObjectKey("Pod", "n", "p")


def test_an_unknown_field_in_a_policy_is_a_problem() -> None:
    problem = decode("AuthorizationPolicy", {"metadata": {"name": "a", "namespace": "n"}, "spec": {"rools": []}})
    assert isinstance(problem, Problem)
    assert (problem.field, problem.message) == ("$.spec.rools", "unknown field")


def test_what_others_write_into_a_status_is_no_problem() -> None:
    value = {"metadata": {"name": "r", "namespace": "n"}, "spec": {}, "status": {"parents": [], "new": 1}}
    assert type(decode("HTTPRoute", value)) is HTTPRoute
    value = {"metadata": {"name": "a", "namespace": "n", "new": 1}, "status": {"new": 1}}
    assert type(decode("AuthorizationPolicy", value)) is AuthorizationPolicy


def test_an_unknown_version_is_a_problem() -> None:
    value = {"apiVersion": "security.istio.io/v9", "metadata": {"name": "a", "namespace": "n"}}
    assert "security.istio.io/v9" in decode("AuthorizationPolicy", value).message


def test_what_admission_would_refuse_is_a_problem() -> None:
    value = {**POD, "status": {"podIP": "10.0.0.1.2"}}
    assert decode("Pod", value).field == "$.status.podIPs"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"metadata": 3}'])
def test_garbage_is_a_problem_without_a_name(raw: bytes) -> None:
    problem = decode_object(API_KINDS["Pod"], raw)
    assert isinstance(problem, Problem)
    assert problem.key is None


def test_an_object_of_ten_megabytes_is_a_problem() -> None:
    large = {**POD, "metadata": {**POD["metadata"], "annotations": {"x": "y" * MAX_OBJECT}}}
    problem = decode("Pod", large)
    assert "larger than" in problem.message
    assert problem.key == ObjectKey("Pod", "n", "p")


def test_names_of_cluster_scoped_kinds_have_no_namespace() -> None:
    assert named(API_KINDS["Node"], b'{"metadata":{"name":"n"}}') == ObjectKey("Node", "", "n")
    assert named(API_KINDS["Pod"], b'{"metadata":{"name":"n"}}') == ObjectKey("Pod", "default", "n")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from(sorted(API_KINDS)), _JSON, _JSON, _JSON)
def test_nothing_makes_it_raise(kind: str, metadata: Any, spec: Any, status: Any) -> None:
    value = {"metadata": metadata, "spec": spec, "status": status}
    decoded = decode(kind, value)
    assert isinstance(decoded, (Problem, API_KINDS[kind].type))


def test_kinds_whose_spec_says_what_is_wished_are_read_strictly() -> None:
    strict = {kind.name for kind in API_KINDS.values() if kind.reading is Reading.STRICT}
    assert {"AuthorizationPolicy", "PeerAuthentication", "HTTPRoute", "ServiceEntry"} <= strict
    assert not strict & {"Pod", "Service", "Node", "Namespace"}


def test_a_deployment_is_whole_and_may_have_fields_of_tomorrow() -> None:
    container = {"name": "c", "image": "i", "command": ["x"], "env": [{"name": "A", "value": "b"}], "aNew": 1}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container], "aNew": {}}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template, "aNew": 2}
    decoded = decode("Deployment", {"metadata": {"name": "d", "namespace": "n"}, "spec": spec})
    [kept] = decoded.spec.template.spec.containers
    assert (kept.image, kept.command, kept.env[0].value) == ("i", ("x",), "b")

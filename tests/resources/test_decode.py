from __future__ import annotations

import json
import textwrap
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.decode import decode_documents, format_path, parse_path
from resources.encode import to_document, to_yaml
from resources.object_set import with_identity
from resources.objects import AuthorizationPolicy, Namespace, ObjectKey, Pod, Service

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, creationTimestamp: 2024-01-01T00:00:00Z, labels: {"app": web}}
spec:
  containers:
  - name: c
    image: x
    ports: [{containerPort: 80, name: http}]
    readinessProbe: {httpGet: {path: /ready, port: http}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}], conditions: [{type: Ready, status: "True"}]}
"""


def one(text: str) -> object:
    objects, problems = decode_documents(textwrap.dedent(text), "file.yaml")
    assert problems == []
    (decoded,) = objects
    return decoded


def problem_of(text: str) -> str:
    objects, problems = decode_documents(textwrap.dedent(text), "file.yaml")
    assert objects == []
    return "\n".join(map(str, problems))


def test_pod_is_read_whole() -> None:
    pod = one(POD)
    assert isinstance(pod, Pod)
    assert pod.key == ObjectKey("Pod", "default", "web")
    assert pod.metadata.creation_timestamp == "2024-01-01T00:00:00Z"
    assert pod.status.ready
    assert pod.status.addresses == ("10.0.0.1", "fd00::1")
    assert pod.spec.account == "default"


def test_what_the_mesh_does_not_read_is_written_back() -> None:
    pod = one(POD)
    assert isinstance(pod, Pod)
    document = to_document(pod)
    assert list(document)[:3] == ["apiVersion", "kind", "metadata"]
    assert document["spec"]["volumes"] == [{"name": "data", "emptyDir": {}}]
    assert document["spec"]["containers"][0]["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert one(to_yaml(pod)) == pod


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POD.replace("readinessProbe", "readynessProbe"), ":10 (document 1): Pod default/web: unknown field, at "
            "$.spec.containers[0].readynessProbe; did you mean readinessProbe?"),
        (POD.replace("readinessProbe", "zzz"), "unknown field, at $.spec.containers[0].zzz; "
            "correct its name or remove it"),
        (POD.replace("containerPort: 80", "containerPort: eighty"), "Expected `int`, got `str`, at "
            "$.spec.containers[0].ports[0].containerPort"),
        (POD.replace("containerPort: 80", "containerPort: 70000"), "<= 65535"),
        (POD.replace("name: web,", ""), "the object has no name"),
        (POD.replace("name: web,", "name: ../web,"), "is not a name Kubernetes allows"),
        (POD.replace("apiVersion: v1", "apiVersion: v2"), "at $.apiVersion"),
        (POD.replace("apiVersion: v1\n", ""), "the object has no apiVersion"),
        (POD.replace("kind: Pod", "kind: Pud"), "the kind 'Pud' is not known, at $.kind; the kinds that are read are"),
        (POD.replace("podIP: 10.0.0.1,", "podIP: 10.0.0.256,"), "'10.0.0.256' is not an IP address"),
        (POD.replace("kind: Pod\n", ""), "the object has no kind"),
        ("just text", "an object is a mapping"),
        ("a: [", "malformed YAML"),
        ("a: 1\nb:\n  c: 1\n  c: 2", ":4 (document 1): the key 'c' stands twice"),
        ("a: !!python/object:os.system {}", "tag"),
        ("a: &a [*a]", "no finished anchor"),
        ("[" * 100_000, "nested deeper"),
        ("- " * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        ("x: " + "y" * 5_000_000, "larger than"),
        ("? [a]\n: b", "key must be text"),
        ("a: \x01", "malformed YAML"),
        ("kind: Namespace\napiVersion: v1\nmetadata: {name: n, namespace: m}", "a Namespace is in no namespace"),
        ("kind: Namespace\napiVersion: v1\nmetadata: {name: n, labels: {a: 1}}", "at $.metadata.labels"),
        ('{"kind": "Namespace", "kind": "Namespace"}', "stands twice"),
        ("kind: List\napiVersion: v1\nitems: {}", "a List holds objects"),
        (POD.replace("emptyDir: {}", "emptyDir: 123456789012345678901"), "not a value of its type"),
        ('{"kind": "Pod", "spec": 123456789012345678901}', "not a value of its type"),
        ('{"kind": "Pod", "metadata": {"name": "\\ud800"}}', "malformed YAML"),
    ],
)
def test_faults_name_place_and_field(text: str, expected: str) -> None:
    message = problem_of(text)
    assert message.startswith("file.yaml")
    assert expected in message


def test_alias_bomb_is_refused_at_once() -> None:
    levels = ["a: &a [1,1,1,1,1,1,1,1,1,1]"]
    names = "abcdefghi"
    levels += [f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]" for a, b in pairwise(names)]
    assert "aliases counted as what they stand for" in problem_of("\n".join(levels))


def test_many_faults_of_a_large_document_are_found_in_one_reading() -> None:
    items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"n{n}", "bad": n}} for n in range(3000)]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1)
    objects, problems = decode_documents(text, "f")
    assert objects == []
    assert len(problems) == 101
    assert "too many problems" in str(problems[-1])
    assert problems[1].line is not None
    assert problems[0].line is not None
    assert problems[1].line > problems[0].line


def test_anchors_and_merge_keys_are_taken() -> None:
    text = """
    apiVersion: v1
    kind: Namespace
    metadata:
      name: n
      labels: &labels {a: x, b: y}
      annotations: {<<: *labels, b: z}
    """
    namespace = one(text)
    assert isinstance(namespace, Namespace)
    assert namespace.metadata.annotations == {"a": "x", "b": "z"}


def test_a_broken_document_leaves_the_others_alone() -> None:
    good = "apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n"
    parts = [good % "a", "a: [\n", good % "b", "# nothing here\n", "kind: Job\n", good % "c"]
    text = "--- # comment\n".join(parts)
    objects, problems = decode_documents(text, "f")
    assert [value.metadata.name for value in objects] == ["a", "b", "c"]
    assert [(problem.document, problem.line) for problem in problems] == [(2, 6), (4, 13)]


def test_lists_are_unpacked() -> None:
    item = {"metadata": {"name": "a"}}
    text = json.dumps({"apiVersion": "v1", "kind": "NamespaceList", "items": [item, {"metadata": {"nme": "b"}}]})
    objects, problems = decode_documents(text, "f")
    assert [value.key for value in objects] == [ObjectKey("Namespace", "", "a")]
    assert [problem.field for problem in problems] == ["$.items[1].metadata.nme"]
    text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n"
    assert isinstance(one(text), Namespace)


def test_a_name_twice_in_one_file_is_told() -> None:
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, labels: {first: 'yes'}}\n"
    objects, problems = decode_documents(f"{text}---\n{text.replace('first', 'second')}", "f")
    assert [value.metadata.labels for value in objects] == [{"first": "yes"}]
    assert "stands earlier in this file" in str(problems[0])


def test_null_is_absent() -> None:
    head = "apiVersion: v1\nkind: Service\nmetadata: {name: s, labels: null}\n"
    service = one(head + "spec: {clusterIP: None, selector: ~}")
    assert isinstance(service, Service)
    assert service.spec.headless
    assert service.metadata.labels == {}


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("from: []", "$.spec.rules[0].from"),
        ("to: []", "$.spec.rules[0].to"),
        ("from: [{source: {}}]", "$.spec.rules[0].from[0].source"),
        ("from: [{}]", "$.spec.rules[0].from[0].source"),
        ("from: [{source: {principals: []}}]", "$.spec.rules[0].from[0].source.principals"),
        ("from: [{source: {principals: ['']}}]", "$.spec.rules[0].from[0].source.principals[0]"),
        ("from: [{source: {ipBlocks: [10.0.0.0/33]}}]", "$.spec.rules[0].from[0].source.ipBlocks[0]"),
        ("to: [{operation: {notPorts: ['0']}}]", "$.spec.rules[0].to[0].operation.notPorts[0]"),
        ("when: [{key: source.ip, values: [x]}]", "$.spec.rules[0].when[0].values[0]"),
        ("when: [{key: source.ip}]", "$.spec.rules[0].when[0]"),
    ],
)
def test_policies_that_could_open_by_mistake_are_refused(rule: str, field: str) -> None:
    text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{%s}]}"
    objects, problems = decode_documents(text % rule, "f")
    assert objects == []
    assert [problem.field for problem in problems] == [field]


def test_empty_rule_and_empty_spec_stay_different() -> None:
    head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n"
    match_all = one(head + "spec: {rules: [{}]}")
    nothing = one(head + "spec: {}")
    assert isinstance(match_all, AuthorizationPolicy)
    assert isinstance(nothing, AuthorizationPolicy)
    assert len(match_all.spec.rules) == 1
    assert nothing.spec.rules == ()
    assert one(to_yaml(match_all)) == match_all


def test_port_level_needs_a_selector() -> None:
    head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\n"
    assert "needs a selector" in problem_of(head + "spec: {portLevelMtls: {8080: {mode: STRICT}}}")


def test_path_round_trip() -> None:
    assert format_path(parse_path("$.spec.rules[0].from")) == "$.spec.rules[0].from"


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_no_text_raises(text: str) -> None:
    objects, problems = decode_documents(text, "f")
    assert all(str(problem).startswith("f") for problem in problems)
    assert objects == []


_NAMES = st.sampled_from(["name", "spec", "ports", "rules", "from", "metadata", "labels"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70000) | st.text("abc/-*:0", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from(["Pod", "Service", "AuthorizationPolicy", "EndpointSlice", "List"]), _JSON, _JSON)
def test_no_value_raises(kind: str, metadata: object, spec: object) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec, "items": spec})
    objects, problems = decode_documents(text, "f")
    assert bool(objects) or bool(problems) or (kind == "List" and not spec)
    for value in objects:
        assert one(to_yaml(value)) == value
        assert with_identity(value).metadata.uid

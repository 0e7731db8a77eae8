"""The chart's roles are the rights that the components are written for: no more, and none is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from ambimesh.chart.loading_driver import load_chart, render
from controlplane.kube.permissions import AGENT_CLUSTER, OPERATOR_CLUSTER, OPERATOR_NAMESPACE, Rule

NAMESPACE = "somewhere"
Right = tuple[str, str, str, str]
"""Group, resource, the one object's name or nothing, verb."""


def rendered() -> list[dict[str, Any]]:
    return render(load_chart(), {}, namespace=NAMESPACE, api_versions=[])


def of_chart(kind: str, name: str) -> list[Right]:
    (role,) = [one for one in rendered() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    assert role["metadata"].get("namespace", "") == ("" if kind == "ClusterRole" else NAMESPACE)
    return [
        (group, resource, object_name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for object_name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    ]


def of_component(rules: Iterable[Rule]) -> set[Right]:
    return {
        (rule.group, resource, object_name, verb)
        for rule in rules
        for resource in rule.resources
        for object_name in rule.names or ("",)
        for verb in rule.verbs
    }


@pytest.mark.parametrize(
    ("kind", "name", "rules"),
    [
        ("ClusterRole", "ambimesh-operator", OPERATOR_CLUSTER),
        ("Role", "ambimesh-operator", OPERATOR_NAMESPACE),
        ("ClusterRole", "ambimesh-agent", AGENT_CLUSTER),
    ],
)
def test_a_role_is_what_the_component_needs(kind: str, name: str, rules: tuple[Rule, ...]) -> None:
    found = of_chart(kind, name)
    assert set(found) == of_component(rules)
    assert len(set(found)) == len(found), "the chart says a right twice"


def test_there_are_no_other_roles_and_each_is_bound_to_its_component_only() -> None:
    found = {(one["kind"], one["metadata"]["name"]) for one in rendered() if one["kind"].endswith("Role")}
    assert found == {
        ("ClusterRole", "ambimesh-operator"),
        ("Role", "ambimesh-operator"),
        ("ClusterRole", "ambimesh-agent"),
    }
    bindings = [one for one in rendered() if one["kind"].endswith("RoleBinding")]
    assert {(one["roleRef"]["kind"], one["roleRef"]["name"]) for one in bindings} == found
    accounts = {one["metadata"]["name"] for one in rendered() if one["kind"] == "ServiceAccount"}
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["serviceAccountName"]
        for one in rendered()
        if one["kind"] in ("Deployment", "DaemonSet")
    }
    for binding in bindings:
        (subject,) = binding["subjects"]
        name = binding["roleRef"]["name"]
        assert subject == {"kind": "ServiceAccount", "name": pods[name], "namespace": NAMESPACE}
        assert subject["name"] in accounts
        assert binding["kind"] == f"{binding['roleRef']['kind']}Binding"
        assert binding["metadata"].get("namespace", "") == ("" if binding["kind"].startswith("Cluster") else NAMESPACE)

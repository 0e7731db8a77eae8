"""The order in which objects go in and out."""

from __future__ import annotations

from typing import Any

from ambimesh.chart.loading_driver import load_chart, render
from ambimesh.install.planning import Key, Phase, in_namespace, key_of, obsolete, phases, removal


def _objects() -> list[dict[str, Any]]:
    return render(load_chart(), {"namespace": {"create": True}}, namespace="m")


def test_rights_come_first_then_one_component_after_the_other() -> None:
    found = phases(_objects())
    assert [phase.name for phase in found] == ["rights and settings", "operator", "agent", "ztunnel"]
    assert found[0].objects[0]["kind"] == "Namespace"
    assert not found[0].workloads
    assert [len(phase.workloads) for phase in found[1:]] == [1, 1, 1]
    assert sorted(key_of(value) for phase in found for value in phase.objects) == sorted(map(key_of, _objects()))


def test_a_workload_of_no_component_comes_last() -> None:
    stranger = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "namespace": "m"}}
    assert phases([stranger, *_objects()])[-1] == Phase("others", (stranger,))


def test_what_a_version_no_longer_has_is_obsolete_whatever_its_api_version() -> None:
    now = _objects()
    before = [key_of(value)._replace(api_version="older/v1") for value in now]
    gone = [Key("v1", "ConfigMap", "m", "first"), Key("v1", "Service", "m", "second")]
    assert obsolete([*before, *gone], now) == [gone[1], gone[0]]


def test_out_go_workloads_first_and_the_namespace_last() -> None:
    kinds = [key.kind for key in removal(map(key_of, _objects()))]
    assert set(kinds[:3]) == {"Deployment", "DaemonSet"}
    assert kinds[-1] == "Namespace"
    assert kinds.index("ConfigMap") < kinds.index("ClusterRole")


def test_only_what_has_a_namespace_is_moved() -> None:
    role = {"apiVersion": "r/v1", "kind": "ClusterRole", "metadata": {"name": "x"}}
    assert in_namespace(role, "other") == role
    moved = in_namespace({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "m"}}, "other")
    assert str(key_of(moved)) == "Service other/x"
    assert str(key_of(role)) == "ClusterRole x"

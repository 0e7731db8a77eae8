from __future__ import annotations

import msgspec
import pytest

from resources.node import NodeSpec, Taint
from resources.objects import Node


def test_a_manifests_node_may_have_all_that_the_api_has_and_nothing_else() -> None:
    taint = {"key": "a", "effect": "NoSchedule", "value": "b", "timeAdded": "2026-01-01T00:00:00Z"}
    spec = {
        "podCIDR": "10.244.1.0/24",
        "podCIDRs": ["10.244.1.0/24"],
        "providerID": "x://y",
        "unschedulable": True,
        "configSource": {},
        "externalID": "z",
        "taints": [taint],
    }
    value = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec}
    node = msgspec.convert(value, Node)
    assert node.spec.taints == (Taint(key="a", effect="NoSchedule", value="b", time_added="2026-01-01T00:00:00Z"),)
    assert msgspec.to_builtins(node)["spec"] == {**spec, "taints": (taint,)}
    with pytest.raises(msgspec.ValidationError, match="taint_s"):
        msgspec.convert({**value, "spec": {"taint_s": []}}, Node)
    assert Node(metadata=node.metadata).spec == NodeSpec()

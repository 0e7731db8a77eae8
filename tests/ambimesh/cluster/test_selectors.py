"""Label selectors and NetworkPolicies."""

from __future__ import annotations

from typing import Any

import pytest

from ambimesh.cluster.selectors import blocking, selects

LABELS = {"app": "web", "tier": "front"}


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        (None, True),
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "web", "x": "y"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "Later"}]}, False),
    ],
)
def test_selection(selector: dict[str, Any] | None, found: bool) -> None:
    assert selects(selector, LABELS) is found


def _policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"podSelector": {}, **spec}}


POD = {"metadata": {"name": "x", "labels": LABELS}}


@pytest.mark.parametrize(
    ("spec", "direction", "blocked"),
    [
        ({}, "Ingress", True),
        ({}, "Egress", False),
        ({"podSelector": {"matchLabels": {"app": "other"}}}, "Ingress", False),
        ({"ingress": [{}]}, "Ingress", False),
        ({"ingress": [{"from": [{"podSelector": {}}]}]}, "Ingress", False),
        ({"ingress": [{"ports": [{"port": 8080}]}]}, "Ingress", True),
        ({"ingress": [{"ports": [{"port": 15008}]}]}, "Ingress", False),
        ({"ingress": [{"ports": [{"port": 15008, "protocol": "UDP"}]}]}, "Ingress", True),
        ({"ingress": [{"ports": [{"port": 15000, "endPort": 15010}]}]}, "Ingress", False),
        ({"ingress": [{"ports": [{"port": 15000, "endPort": 15007}]}]}, "Ingress", True),
        ({"ingress": [{"ports": [{"protocol": "TCP"}]}]}, "Ingress", False),
        ({"ingress": [{"ports": [{"port": "http"}]}]}, "Ingress", True),
        ({"policyTypes": ["Egress"]}, "Ingress", False),
        ({"policyTypes": ["Egress"]}, "Egress", True),
        ({"egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}, "Egress", True),
    ],
)
def test_one_policy(spec: dict[str, Any], direction: str, blocked: bool) -> None:
    assert bool(blocking([_policy(**spec)], POD, 15008, direction)) is blocked


def test_policies_add_up() -> None:
    narrow, wide = _policy(ingress=[{"ports": [{"port": 8080}]}]), _policy(ingress=[{"ports": [{"port": 15008}]}])
    assert blocking([narrow, wide], POD, 15008, "Ingress") == []
    assert blocking([narrow, narrow], POD, 15008, "Ingress") == [narrow, narrow]

"""How values of the model are shown."""

from __future__ import annotations

from controlplane.debug_pages import plain, shown_statuses
from controlplane.testing.routes import V1, route, translated
from mesh.addresses import parse_cidr, parse_ip
from mesh.identity import SpiffeId
from mesh.model.policy import Clause, Match, Policy, PolicyAction, PolicyScope, Rule
from mesh.testing.model import make_workload


def test_addresses_identities_and_names_are_text() -> None:
    assert plain(parse_ip("10.0.0.1")) == "10.0.0.1"
    assert plain(parse_cidr("fd00::/8")) == "fd00::/8"
    assert plain(SpiffeId("cluster.local", "shop", "web")) == "spiffe://cluster.local/ns/shop/sa/web"
    assert plain(PolicyAction.DENY) == "DENY"
    assert plain({1: (parse_ip("::1"), None)}) == {"1": ["::1", None]}


def test_only_what_differs_from_the_default_is_shown() -> None:
    shown = plain(make_workload("web", "10.0.0.1", namespace="shop", services={"shop/web": {80: 8080}}))
    assert shown["uid"] == "Kubernetes//Pod/shop/web"
    assert shown["addresses"] == ["10.0.0.1"]
    assert shown["tunnel_protocol"] == "HBONE"
    assert shown["services"]["shop/web"][0]["service_port"] == 80
    assert "authorization_policies" not in shown
    assert "network" not in shown


def test_a_policy_is_shown_with_its_rules() -> None:
    match = Match(source_ips=(parse_cidr("10.0.0.0/8"),), destination_ports=(80,))
    policy = Policy(
        name="p",
        namespace="shop",
        scope=PolicyScope.NAMESPACE,
        action=PolicyAction.ALLOW,
        rules=(Rule((Clause((match,)),)),),
    )
    shown = plain(policy)
    assert shown["scope"] == "NAMESPACE"
    assert "10.0.0.0/8" in str(shown["rules"])
    assert "not_source_ips" not in str(shown["rules"])


def test_statuses_are_shown_by_object_and_parent() -> None:
    shown = {one["name"]: one for one in shown_statuses(translated(route(f"[{{{V1}}}]")).statuses)}
    [bound] = shown["web"]["conditions"]
    assert bound == {"type": "istio.io/WaypointBound", "status": True, "reason": "WaypointAccepted", "message": ""}
    [parent] = shown["r"]["parents"]
    assert parent["parent"]["name"] == "web"
    assert [one["type"] for one in parent["conditions"]] == ["Accepted", "ResolvedRefs"]

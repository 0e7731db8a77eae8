"""To whom routes are attached, which of them count, and what their status says."""

from __future__ import annotations

import pytest

from controlplane.testing.routes import (
    V1,
    V2,
    conditions,
    findings,
    goes_to,
    port,
    route,
    served,
    translated,
)
from mesh.model.http_route import (
    Backend,
)
from mesh.model.workload import AppProtocol
from resources.objects import ObjectKey


def backend(name: str, weight: int = 1) -> Backend:
    return Backend(service=f"shop/{name}.shop.svc.cluster.local", port=80, weight=weight)


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        ("{group: '', kind: Service, name: absent}", "NoMatchingParent"),
        ("{group: '', kind: Service, name: web, port: 81}", "NoMatchingParent"),
        ("{group: '', kind: Service, name: web, sectionName: x}", "NoMatchingParent"),
        ("{group: '', kind: Service, name: web, port: 80, sectionName: any}", "NoMatchingParent"),
        ("{name: waypoint}", "Accepted"),
        ("{name: waypoint, sectionName: x}", "NoMatchingParent"),
    ],
)
def test_parents(parent: str, reason: str) -> None:
    translator = translated(route(f"[{{{V1}}}]", parent=parent))
    assert conditions(translator)[0] == f"Accepted={reason == 'Accepted'}/{reason}"
    assert bool(findings(translator)) is (reason != "Accepted")


def test_parents_of_others_have_no_status() -> None:
    translator = translated(route(f"[{{{V1}}}]", parent="{name: somebodys-ingress}"))
    assert ObjectKey("HTTPRoute", "shop", "r") not in translator.statuses


def test_routes_of_the_waypoint_serve_what_has_no_routes_of_its_own() -> None:
    whole = route(f"[{{{V2}}}]", parent="{name: waypoint}", name="whole")
    translator = translated(whole + route(f"[{{{V1}}}]"))
    assert goes_to(served(translator)) == "v1"
    assert goes_to(served(translator, number=90)) == "v2"
    named = whole.replace("rules:", "hostnames: [v1.shop.svc.cluster.local], rules:")
    assert served(translated(named)) is None
    assert served(translated(whole.replace("rules:", "hostnames: ['*.shop.svc.cluster.local'], rules:"))) is not None


def test_other_namespaces_need_the_gateways_consent() -> None:
    parent = "{name: waypoint, namespace: shop}"
    translator = translated(route("[{}]", parent=parent, namespace="b"))
    assert conditions(translator, namespace="b")[0] == "Accepted=False/NotAllowedByListeners"
    assert served(translator) is None


def test_of_several_types_on_a_port_the_most_specific_counts() -> None:
    both = "{group: '', kind: Service, name: web}"
    text = route(f"[{{{V1}}}]", kind="GRPCRoute") + route(f"[{{{V2}}}]") + route(f"[{{{V2}}}]", name="all", parent=both)
    translator = translated(text)
    assert goes_to(served(translator)) == "v1"
    assert goes_to(served(translator, number=90)) == "v2"
    assert conditions(translator)[0] == "Accepted=False/Conflicted"
    assert conditions(translator, name="all")[0] == "Accepted=True/Accepted"
    assert any("more specific type count instead" in text for text in findings(translator))
    other = translated(route(f"[{{{V1}}}]", kind="GRPCRoute", namespace="b") + route(f"[{{{V2}}}]"))
    assert conditions(other)[0] == "Accepted=True/Accepted", "a consumer's route takes nothing from other clients"


def test_tcp_and_tls_routes() -> None:
    any_port = "{group: '', kind: Service, name: web, port: 90}"
    split = "[{backendRefs: [{name: v1, port: 80, weight: 9}, {name: v2, port: 80, weight: 1}]}]"
    translator = translated(route(split, kind="TCPRoute", parent=any_port))
    found = port(translator, 90)
    assert found.protocol is AppProtocol.TCP
    assert [one.backends for one in found.stream_routes] == [(backend("v1", 9), backend("v2", 1))]
    assert conditions(translator, "TCPRoute")[0] == "Accepted=True/Accepted"
    http_only = translated(route(split, kind="TCPRoute"))
    assert conditions(http_only, "TCPRoute")[0] == "Accepted=False/NoMatchingParent"
    tls = route(split, kind="TLSRoute", parent=any_port, name="t").replace("rules:", "hostnames: ['*.x', A.x], rules:")
    translator = translated(route(split, kind="TCPRoute", parent=any_port) + tls)
    found = port(translator, 90)
    assert found.protocol is AppProtocol.TLS
    assert [one.server_names for one in found.stream_routes] == [("a.x",), ("*.x",)]
    assert conditions(translator, "TCPRoute")[0] == "Accepted=False/Conflicted"
    consumer = translated(route("[{}]", kind="TCPRoute", parent=any_port[:-1] + ", namespace: shop}", namespace="b"))
    assert conditions(consumer, "TCPRoute", "b")[0] == "Accepted=False/UnsupportedValue"
    assert port(consumer, 90).stream_routes == ()


def test_hostnames_have_no_effect_on_services() -> None:
    translator = translated(route(f"[{{{V1}}}]").replace("rules:", "hostnames: [a.example], rules:"))
    assert goes_to(served(translator)) == "v1"
    assert any("hostnames" in text for text in findings(translator))


def test_a_route_of_a_service_without_waypoint_is_told() -> None:
    translator = translated(route(f"[{{{V1}}}]"))
    translator.update(translator.objects.with_changes([], [ObjectKey("Namespace", "", "shop")]))
    assert conditions(translator)[0] == "Accepted=True/Accepted"
    assert any("goes through no waypoint" in text for text in findings(translator))

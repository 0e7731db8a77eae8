"""Who goes through which waypoint, and what is said where nobody does."""

from __future__ import annotations

import pytest

from controlplane.testing.routes import translated, view_of
from controlplane.translate.binding import BOUND, UNBOUND, Waypoint, bind, find_waypoint, waypoint_address
from controlplane.translate.settings import MeshSettings
from controlplane.translate.translator import Translator
from mesh.model.service import Service, WeightedWaypoint
from mesh.model.workload import Workload
from resources.base import ObjectMeta
from resources.objects import ObjectKey

SETTINGS = MeshSettings()
W = waypoint_address("shop", "waypoint", SETTINGS)


def gateway(name: str, *, labels: str = "", kind: str = "ambimesh-waypoint", more: str = "") -> str:
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}
spec:
  gatewayClassName: {kind}
  listeners: [{{name: mesh, port: 15008, protocol: HBONE{more}}}]
"""


def service(labels: str, namespace: str = "shop", annotations: str = "") -> str:
    return f"""
---
apiVersion: v1
kind: Service
metadata: {{name: s, namespace: {namespace}, labels: {{{labels}}}, annotations: {{{annotations}}}}}
spec: {{ports: [{{port: 80}}]}}
"""


def bound(translator: Translator, name: str = "s") -> tuple[Service, str]:
    [found] = [one for one in translator.addresses if isinstance(one, Service) and one.name == name]
    status = translator.statuses.get(ObjectKey("Service", found.namespace, name))
    return found, status.conditions[0].reason if status else ""


def served(translator: Translator, name: str = "s") -> list[str]:
    return sorted(one.waypoint for one in translator.destinations if f"/{name}." in one.key)


def test_a_namespaces_label_binds_its_services() -> None:
    translator = translated(service(""))
    assert bound(translator) == (bound(translator)[0], "WaypointAccepted")
    assert bound(translator)[0].waypoint == W
    assert served(translator) == ["shop/waypoint"]


def test_the_objects_own_label_beats_the_namespaces() -> None:
    translator = translated(service("istio.io/use-waypoint: none"))
    assert bound(translator)[0].waypoint is None
    assert served(translator) == []
    translator = translated(gateway("other") + service("istio.io/use-waypoint: other"))
    assert bound(translator)[0].waypoint == waypoint_address("shop", "other", SETTINGS)
    assert served(translator) == ["shop/other"]


@pytest.mark.parametrize(
    ("labels", "name", "reason", "called_through"),
    [
        ("", "absent", "WaypointIsNotReady", True),
        ("", "ingress", "WaypointIsNotReady", True),
        ("istio.io/waypoint-for: workload", "w", "UnsupportedTrafficType", False),
        ("istio.io/waypoint-for: none", "w", "UnsupportedTrafficType", False),
        ("istio.io/waypoint-for: all", "w", "WaypointAccepted", True),
        ("istio.io/waypoint-for: service", "w", "WaypointAccepted", True),
    ],
)
def test_who_asks_for_a_waypoint_is_not_called_past_it(
    labels: str, name: str, reason: str, called_through: bool
) -> None:
    text = gateway("w", labels=labels) + gateway("ingress", kind="somebody-elses")
    translator = translated(text + service(f"istio.io/use-waypoint: {name}"))
    found, told = bound(translator)
    assert told == reason
    assert (found.waypoint is not None) is called_through
    assert served(translator) == ([f"shop/{name}"] if reason == "WaypointAccepted" else [])
    findings = [str(one) for one in translator.findings if one.object.name == "s"]
    assert bool(findings) is (reason != "WaypointAccepted")


def test_other_namespaces_need_to_be_admitted() -> None:
    labels = "istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: shop"
    for allowed, reason in (
        ("", "AttachmentDenied"),
        (", allowedRoutes: {namespaces: {from: Same}}", "AttachmentDenied"),
        (", allowedRoutes: {namespaces: {from: All}}", "WaypointAccepted"),
        (
            ", allowedRoutes: {namespaces: {from: Selector, "
            "selector: {matchLabels: {kubernetes.io/metadata.name: b}}}}",
            "WaypointAccepted",
        ),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: "
            "[{key: tier, operator: NotIn, values: [gold]}, {key: tier, operator: Exists}]}}}",
            "AttachmentDenied",
        ),
    ):
        translator = translated(gateway("w", more=allowed) + service(labels, "b"))
        found, told = bound(translator)
        assert told == reason
        assert found.waypoint == waypoint_address("shop", "w", SETTINGS)
        assert served(translator) == (["shop/w"] if reason == "WaypointAccepted" else [])


def pod(labels: str = "") -> str:
    return f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: p, namespace: shop, labels: {{{labels}}}}}
spec: {{nodeName: n, containers: [{{name: c, ports: [{{containerPort: 8080, name: http-x}}]}}]}}
status: {{podIP: 10.0.0.1}}
"""


def workload(translator: Translator) -> Workload:
    [found] = [one for one in translator.addresses if isinstance(one, Workload)]
    return found


def test_pods_are_bound_to_waypoints_for_workloads_only() -> None:
    assert workload(translated(pod())).waypoint is None
    assert workload(translated(pod("istio.io/use-waypoint: absent"))).waypoint is not None
    translator = translated(gateway("w", labels="istio.io/waypoint-for: all") + pod("istio.io/use-waypoint: w"))
    assert workload(translator).waypoint == waypoint_address("shop", "w", SETTINGS)
    [destination] = [one for one in translator.destinations if one.waypoint == "shop/w"]
    assert destination.key == "Kubernetes//Pod/shop/p"
    assert destination.any_port
    assert [port.number for port in destination.ports] == [8080]


def test_a_waypoint_has_no_waypoint() -> None:
    translator = translated(service("gateway.networking.k8s.io/gateway-name: waypoint"))
    assert bound(translator)[0].waypoint is None
    translator = translated(service("gateway.istio.io/managed: istio.io-mesh-controller"))
    assert bound(translator)[0].waypoint is None
    translator = translated(service("gateway.networking.k8s.io/gateway-name: an-ingress"))
    assert bound(translator)[0].waypoint == W


@pytest.mark.parametrize(
    ("labels", "weight", "reason", "shares"),
    [
        ("canary", "10", "WaypointAccepted", [("waypoint", 90), ("canary", 10)]),
        ("canary", "100", "WaypointAccepted", [("canary", 100)]),
        ("canary", "0", "WaypointAccepted", [("waypoint", 100)]),
        ("canary", "101", "CanaryInvalidWeight", []),
        ("canary", "", "CanaryInvalidWeight", []),
        ("canary", "ten", "CanaryInvalidWeight", []),
        ("waypoint", "10", "CanarySameAsPrimary", []),
        ("absent", "10", "WaypointIsNotReady", []),
        ("workloads", "10", "UnsupportedTrafficType", []),
    ],
)
def test_canaries(
    labels: str, weight: str, reason: str, shares: list[tuple[str, int]]
) -> None:
    translator = translated(
        gateway("canary")
        + gateway("workloads", labels="istio.io/waypoint-for: workload")
        + service(
            f"istio.io/use-waypoint: waypoint, istio.io/use-waypoint-canary: {labels}",
            annotations=f"istio.io/use-waypoint-canary-weight: '{weight}'",
        )
    )
    found, told = bound(translator)
    assert told == reason
    assert found.waypoint == W
    assert found.weighted_waypoints == tuple(
        WeightedWaypoint(waypoint_address("shop", name, SETTINGS), share) for name, share in shares
    )
    both = ["shop/canary", "shop/waypoint"] if reason == "WaypointAccepted" else ["shop/waypoint"]
    assert served(translator) == both


def test_a_class_that_exists_tells_who_runs_it() -> None:
    made = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: NAME, labels: {istio.io/waypoint-for: all}}
spec: {controllerName: CONTROLLER}
"""
    ours = made.replace("NAME", "mine").replace("CONTROLLER", "ambimesh.dev/mesh-controller")
    view = view_of(translated(ours + gateway("w", kind="mine")))
    assert find_waypoint(view, "shop", "w") == Waypoint("shop", "w", "mine", "all")
    theirs = made.replace("NAME", "ambimesh-waypoint").replace("CONTROLLER", "x.example/y")
    assert find_waypoint(view_of(translated(theirs)), "shop", "waypoint") is None


def test_no_namespace_object_is_no_label() -> None:
    view = view_of(translated("", mesh=False))
    assert bind(view, ObjectMeta(name="s", namespace="nowhere"), "service") == UNBOUND
    assert BOUND == "istio.io/WaypointBound"


def test_a_namespaces_label_that_leads_nowhere_is_told() -> None:
    absent = "{apiVersion: v1, kind: Namespace, metadata: {name: b, labels: {istio.io/use-waypoint: w}}}"
    [told] = list(translated(absent, mesh=False).findings)
    assert "WaypointIsNotReady" in str(told)
    far = absent.replace("use-waypoint: w", "use-waypoint: waypoint, istio.io/use-waypoint-namespace: shop")
    [told] = list(translated(far).findings)
    assert "AttachmentDenied" in str(told)
    assert list(translated().findings) == []

"""Who goes through which waypoint.

A label ``istio.io/use-waypoint`` on an object, or else on its namespace, names a Gateway of a waypoint class; ``none``
opts out. The Gateway says what it serves: Services (the default), workloads, all or none.

Whoever asks for a waypoint is never called past it. Where the Gateway does not exist yet, is none of ours, or does not
admit the namespace, the service is bound to it all the same and nobody serves it: its clients fail with the reason
instead of reaching it without the policies that were to hold there. (Istio calls such services directly.) Only what a
waypoint is not for, a Service at one for workloads, is called directly, as in Istio: its Gateway's author wrote so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.translate.settings import MeshSettings
from controlplane.translate.status import CONTROLLER_NAME, StatusCondition
from controlplane.translate.tracking import View
from mesh.identity import SpiffeId
from mesh.model.service import WeightedWaypoint
from mesh.model.workload import GatewayAddress, NamespacedHostname
from resources.base import ObjectMeta
from resources.gateway import AllowedRoutes
from resources.objects import Gateway, GatewayClass, Namespace

USE_WAYPOINT_LABEL = "istio.io/use-waypoint"
WAYPOINT_NAMESPACE_LABEL = "istio.io/use-waypoint-namespace"
CANARY_LABEL = "istio.io/use-waypoint-canary"
CANARY_NAMESPACE_LABEL = "istio.io/use-waypoint-canary-namespace"
CANARY_WEIGHT_ANNOTATION = "istio.io/use-waypoint-canary-weight"
WAYPOINT_FOR_LABEL = "istio.io/waypoint-for"
GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
MANAGED_LABEL = "gateway.istio.io/managed"
BOUND = "istio.io/WaypointBound"
"""The condition's type."""

_CONTROLLERS = (CONTROLLER_NAME, "istio.io/mesh-controller")
_MANAGED = ("istio.io-mesh-controller", "istio.io-eastwest-controller", CONTROLLER_NAME.replace("/", "-"))
_SERVED = {"service": ("service",), "workload": ("workload",), "all": ("service", "workload"), "none": ()}


@dataclass(frozen=True, slots=True)
class Waypoint:
    """A Gateway that is a waypoint."""

    namespace: str
    name: str
    gateway_class: str
    traffic: str
    """``service``, ``workload``, ``all`` or ``none``."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def identity(self, settings: MeshSettings) -> SpiffeId:
        """Who its proxies are: the service account is named like the Gateway."""
        return SpiffeId(settings.trust_domain, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Binding:
    """What follows from an object's labels."""

    address: GatewayAddress | None = None
    """Where clients go; None: straight to the endpoints."""
    weighted: tuple[WeightedWaypoint, ...] = ()
    waypoints: tuple[Waypoint, ...] = ()
    """Who serves it; empty although ``address`` is set: nobody, so clients fail."""
    absent: Waypoint | None = None
    """Who was to serve it, in that case."""
    condition: StatusCondition | None = None
    """None: no waypoint was asked for."""

    @property
    def guards(self) -> tuple[Waypoint, ...]:
        """Whose policies hold, and who alone may call governed endpoints: an absent waypoint too, else its going would
        open what it guards."""
        return (self.absent,) if self.absent is not None else self.waypoints


UNBOUND = Binding()


def waypoint_address(namespace: str, name: str, settings: MeshSettings) -> GatewayAddress:
    """Where a waypoint is reached: the Service named like its Gateway, at the port of HBONE."""
    return GatewayAddress(NamespacedHostname(namespace, f"{name}.{namespace}.svc.{settings.cluster_domain}"))


def find_waypoint(view: View, namespace: str, name: str) -> Waypoint | None:
    """The waypoint of a name; None when there is no such Gateway, or it is of another kind."""
    gateway = view.find(Gateway, namespace, name)
    if gateway is None:
        return None
    class_name = gateway.spec.gateway_class_name
    gateway_class = view.find(GatewayClass, "", class_name)
    if gateway_class is None:
        ours = class_name in view.settings.waypoint_classes
    else:
        ours = gateway_class.spec.controller_name in _CONTROLLERS and "east-west" not in class_name
    if not ours:
        return None
    default = gateway_class.metadata.labels.get(WAYPOINT_FOR_LABEL, "service") if gateway_class else "service"
    traffic = gateway.metadata.labels.get(WAYPOINT_FOR_LABEL, default)
    return Waypoint(namespace, name, class_name, traffic)


def bind(view: View, metadata: ObjectMeta, traffic: str) -> Binding:
    """What an object's labels, and its namespace's, come to.

    Args:
        view: the objects.
        metadata: of a Service, ServiceEntry, Pod or WorkloadEntry.
        traffic: how clients call it: ``service`` or ``workload``.
    """
    if _is_waypoint(view, metadata):
        return UNBOUND
    namespace = view.find(Namespace, "", metadata.namespace)
    own = USE_WAYPOINT_LABEL in metadata.labels
    source = metadata if own else namespace.metadata if namespace else None
    named = _named(source.labels if source else {}, USE_WAYPOINT_LABEL, WAYPOINT_NAMESPACE_LABEL, metadata.namespace)
    if source is None or named is None:
        return UNBOUND
    key = "/".join(named)
    address = waypoint_address(*named, view.settings)
    primary = find_waypoint(view, *named)
    if primary is None:
        if traffic == "workload" and not own:
            # Unless its Gateway says otherwise, a namespace's waypoint is not for workloads.
            return UNBOUND
        message = f"waypoint {key!r} does not exist: clients fail until it does"
        absent = Waypoint(*named, gateway_class="", traffic="none")
        return Binding(address=address, absent=absent, condition=_refused("WaypointIsNotReady", message))
    if traffic not in _SERVED.get(primary.traffic, ()):
        if not own:
            return UNBOUND
        message = f"waypoint {key!r} is for {primary.traffic!r}, not for {traffic!r}: it is not used"
        return Binding(condition=_refused("UnsupportedTrafficType", message))
    if not admits(view, primary, metadata.namespace):
        message = f"waypoint {key!r} does not admit this namespace (allowedRoutes): clients fail"
        return Binding(address=address, absent=primary, condition=_refused("AttachmentDenied", message))
    return _with_canary(view, metadata, source, primary, address, traffic)


def namespace_condition(view: View, namespace: Namespace) -> StatusCondition | None:
    """What becomes of a namespace's own label; None when it has none, or all is well."""
    name = namespace.metadata.name
    named = _named(namespace.metadata.labels, USE_WAYPOINT_LABEL, WAYPOINT_NAMESPACE_LABEL, name)
    if named is None:
        return None
    key = "/".join(named)
    waypoint = find_waypoint(view, *named)
    if waypoint is None:
        message = f"waypoint {key!r} does not exist: clients of this namespace's Services fail until it does"
        return _refused("WaypointIsNotReady", message)
    if not admits(view, waypoint, name):
        message = f"waypoint {key!r} does not admit this namespace (allowedRoutes): clients of its Services fail"
        return _refused("AttachmentDenied", message)
    return None


def admits(view: View, waypoint: Waypoint, namespace: str) -> bool:
    """Whether a waypoint's listener admits a namespace; without a word it admits its own."""
    gateway = view.find(Gateway, waypoint.namespace, waypoint.name)
    listeners = [one for one in gateway.spec.listeners if one.protocol == "HBONE"] if gateway else []
    allowed = listeners[0].allowed_routes if listeners else None
    namespaces = (allowed or AllowedRoutes()).namespaces
    match namespaces.from_:
        case "All":
            return True
        case "Same":
            return namespace == waypoint.namespace
        case "Selector" if namespaces.selector is not None:
            found = view.find(Namespace, "", namespace)
            labels = {"kubernetes.io/metadata.name": namespace, **(found.metadata.labels if found else {})}
            return namespaces.selector.selects(labels)
    return False


def _with_canary(
    view: View, metadata: ObjectMeta, source: ObjectMeta, primary: Waypoint, address: GatewayAddress, traffic: str
) -> Binding:
    bound = Binding(address=address, waypoints=(primary,), condition=StatusCondition(BOUND, True, "WaypointAccepted"))
    named = _named(source.labels, CANARY_LABEL, CANARY_NAMESPACE_LABEL, metadata.namespace)
    if named is None:
        return bound
    key = "/".join(named)

    def without(reason: str, message: str) -> Binding:
        told = StatusCondition(BOUND, True, reason, f"canary waypoint {key!r} {message}: it gets no share")
        return Binding(address=address, waypoints=(primary,), condition=told)

    weight = source.annotations.get(CANARY_WEIGHT_ANNOTATION, "")
    if not (weight.isascii() and weight.isdigit() and len(weight) <= 3 and int(weight) <= 100):
        return without("CanaryInvalidWeight", f"has the weight {weight[:16]!r}, which is no whole number up to 100")
    if named == (primary.namespace, primary.name):
        return without("CanarySameAsPrimary", "is the primary one")
    canary = find_waypoint(view, *named)
    if canary is None:
        return without("WaypointIsNotReady", "does not exist")
    if traffic not in _SERVED.get(canary.traffic, ()):
        return without("UnsupportedTrafficType", f"is for {canary.traffic!r}")
    if not admits(view, canary, metadata.namespace):
        return without("AttachmentDenied", "does not admit this namespace (allowedRoutes)")
    shares = ((address, 100 - int(weight)), (waypoint_address(*named, view.settings), int(weight)))
    return Binding(
        address=address,
        weighted=tuple(WeightedWaypoint(place, share) for place, share in shares if share),
        waypoints=(primary, canary),
        condition=bound.condition,
    )


def _is_waypoint(view: View, metadata: ObjectMeta) -> bool:
    """Whether an object is part of a waypoint, which never has a waypoint itself."""
    if metadata.labels.get(MANAGED_LABEL) in _MANAGED:
        return True
    name = metadata.labels.get(GATEWAY_NAME_LABEL)
    return name is not None and find_waypoint(view, metadata.namespace, name) is not None


def _named(
    labels: Mapping[str, str], name_label: str, namespace_label: str, own_namespace: str
) -> tuple[str, str] | None:
    """Namespace and name of the Gateway that labels name."""
    name = labels.get(name_label)
    if not name or name == "none":
        return None
    return labels.get(namespace_label) or own_namespace, name


def _refused(reason: str, message: str) -> StatusCondition:
    return StatusCondition(BOUND, False, reason, message)

"""What the authors of routes and policies should know: status and findings, kind by kind.

These objects become nothing themselves; they take part in the destinations of what they are attached to.
"""

from __future__ import annotations

from controlplane.translate.binding import find_waypoint, namespace_condition
from controlplane.translate.layer7.authentication import authentication_findings
from controlplane.translate.layer7.authorization import authorization_findings
from controlplane.translate.layer7.backend_tls import backend_tls_status
from controlplane.translate.layer7.destination_rules import destination_rule_findings
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.layer7.route_status import route_status
from controlplane.translate.layer7.telemetry import telemetry_findings
from controlplane.translate.layer7.virtual_findings import virtual_service_findings
from controlplane.translate.outcome import NOTHING, Outcome
from controlplane.translate.status import ObjectStatus, StatusCondition
from controlplane.translate.tracking import View
from resources.objects import (
    AuthorizationPolicy,
    BackendTLSPolicy,
    DestinationRule,
    Gateway,
    GRPCRoute,
    HTTPRoute,
    KubernetesObject,
    Namespace,
    RequestAuthentication,
    TCPRoute,
    Telemetry,
    TLSRoute,
    VirtualService,
)

_TRAFFIC = ("service", "workload", "all", "none")


def advice_on(view: View, value: KubernetesObject) -> Outcome:
    """Status and findings of an object."""
    match value:
        case HTTPRoute() | GRPCRoute() | TCPRoute() | TLSRoute():
            status, found = route_status(view, value)
            return Outcome((), found, status)
        case VirtualService():
            return Outcome((), virtual_service_findings(view, value))
        case DestinationRule():
            return Outcome((), destination_rule_findings(view, value))
        case BackendTLSPolicy():
            status, found = backend_tls_status(view, value)
            return Outcome((), found, status)
        case AuthorizationPolicy() if value.spec.targets:
            return Outcome((), authorization_findings(view, value))
        case RequestAuthentication():
            return Outcome((), authentication_findings(view, value))
        case Telemetry():
            return Outcome((), telemetry_findings(view, value))
        case Gateway():
            return _gateway(view, value)
        case Namespace():
            return NOTHING.told(value.key, namespace_condition(view, value))
    return NOTHING


def _gateway(view: View, value: Gateway) -> Outcome:
    """A Gateway of ours is accepted; one of another class is for others to serve."""
    waypoint = find_waypoint(view, value.metadata.namespace, value.metadata.name)
    if waypoint is None:
        return NOTHING
    notes = Notes(value.key)
    if waypoint.traffic not in _TRAFFIC:
        notes.not_applied(
            f"istio.io/waypoint-for {waypoint.traffic[:32]!r} is none of {', '.join(_TRAFFIC)}: it serves nothing"
        )
    if not any(one.protocol == "HBONE" for one in value.spec.listeners):
        notes.unsupported("has no listener of the protocol HBONE: only its own namespace may use it")
    accepted = StatusCondition("Accepted", True, "Accepted")
    return Outcome((), tuple(notes.findings), ObjectStatus(conditions=(accepted,)))

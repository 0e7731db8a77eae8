"""Whether a connection may reach a pod."""

from __future__ import annotations

import structlog

from mesh.addresses import SocketAddress
from mesh.errors import DestinationMismatch, PolicyDenied, SelfCall, UnknownWorkload
from mesh.rbac import ConnectionFacts, Deny, decide
from ztunnel.pod import Pod
from ztunnel.proxy.connections import Connection

_log = structlog.get_logger("policy")


def check_destination(pod: Pod, destination: SocketAddress, what: str) -> None:
    """A pod's gate admits only the pod's own addresses, and never the mesh's own ports.

    Raises:
        DestinationMismatch: another address.
        SelfCall: a port of the mesh.
    """
    if destination.ip not in pod.addresses:
        raise DestinationMismatch(f"{what} to {destination}, which is not an address of pod {pod.name}")
    if destination.port in pod.mesh_ports:
        raise SelfCall(f"{what} to port {destination.port}, which is the mesh's own")


def judge(connection: Connection, facts: ConnectionFacts) -> None:
    """Ask the pod's policies; the facts stay with the connection, for when policies change.

    Raises:
        PolicyDenied: they say no.
        UnknownWorkload: the control plane has not said anything yet.
    """
    pod = connection.pod
    if pod.policies is None:
        raise UnknownWorkload(f"the control plane has not described pod {pod.name}")
    connection.facts = facts
    decision = decide(facts, pod.policies)
    for report in decision.dry_run:
        _log.debug(
            "dry-run policy",
            pod=pod.name,
            policy=report.policy,
            action=report.action.name,
            matched=report.matched,
            identity=str(facts.source_identity or "none"),
            port=facts.destination_port,
        )
    if isinstance(decision, Deny):
        raise PolicyDenied(decision.reason)

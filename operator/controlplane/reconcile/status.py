"""What the operator says of a waypoint's Gateway. Pure.

``Accepted`` as soon as it is ours, ``Programmed`` and an address once a replica is ready. Addresses are the Service's:
they do not change while replicas come and go.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from controlplane.reconcile.waypoints import WaypointSettings, is_waypoint
from resources.base import Condition
from resources.gateway import GatewayStatus, GatewayStatusAddress
from resources.object_set import ObjectSet
from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Gateway, Service


def gateway_statuses(objects: ObjectSet, settings: WaypointSettings, now: str) -> list[tuple[Gateway, GatewayStatus]]:
    """The Gateways whose status is to be written, and what to.

    Args:
        objects: of the cluster.
        settings: which Gateways are ours.
        now: the wall clock as the API writes it; a condition keeps its time while its status does.
    """
    changed = []
    waypoints = [gateway for gateway in objects.of_kind(Gateway) if is_waypoint(gateway, settings)]
    ready = _ready_replicas({(one.metadata.namespace, one.metadata.name) for one in waypoints}, objects)
    for gateway in waypoints:
        status = _status(gateway, ready[gateway.metadata.namespace, gateway.metadata.name], objects, now)
        if status != gateway.status:
            changed.append((gateway, status))
    return changed


def _ready_replicas(services: set[tuple[str, str]], objects: ObjectSet) -> Counter[tuple[str, str]]:
    """By namespace and name; in one look at all slices, however many waypoints there are."""
    found: Counter[tuple[str, str]] = Counter()
    if services:
        for each in objects.of_kind(EndpointSlice):
            service = each.metadata.namespace, each.metadata.labels.get(SERVICE_NAME_LABEL, "")
            if service in services:
                found[service] += sum(endpoint.conditions.ready is not False for endpoint in each.endpoints)
    return found


def _status(gateway: Gateway, ready: int, objects: ObjectSet, now: str) -> GatewayStatus:
    namespace, name = gateway.metadata.namespace, gateway.metadata.name
    service = objects.find(Service, namespace, name)
    addresses = service.spec.virtual_addresses if service is not None and ready else ()
    before = gateway.status or GatewayStatus()
    conditions = (
        _condition(before, "Accepted", "True", "Accepted", "the operator runs this waypoint", now),
        _condition(before, "Programmed", "True", "Programmed", f"replicas that are ready: {ready}", now)
        if addresses
        else _condition(before, "Programmed", "False", "Pending", "no replica is ready yet", now),
    )
    return msgspec.structs.replace(
        before,
        addresses=tuple(GatewayStatusAddress(value=address) for address in addresses),
        conditions=(*conditions, *(each for each in before.conditions if each.type not in ("Accepted", "Programmed"))),
    )


def _condition(before: GatewayStatus, kind: str, status: str, reason: str, message: str, now: str) -> Condition:
    old = next((each for each in before.conditions if each.type == kind), None)
    since = old.last_transition_time if old is not None and old.status == status else now
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=since)

"""References to services: where requests may go, and why not."""

from __future__ import annotations

from dataclasses import replace

from controlplane.translate.facets import full_host, namespace_facet
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.targets import ISTIO_NETWORKING, Target, find_entries, find_host, find_service
from controlplane.translate.tracking import View
from mesh.model.http_route import Backend
from resources.gateway import GATEWAY_GROUP, BackendReference
from resources.objects import ReferenceGrant
from resources.virtual_service import Destination

SERVICE = ("", "Service")
SERVICE_ENTRY = (ISTIO_NETWORKING, "ServiceEntry")


def referenced_backend(view: View, notes: Notes, reference: BackendReference, weight: int, place: str) -> Backend:
    """A backend of a Gateway API route.

    One that cannot be used is kept with the reason: its share of requests is answered 500 (HTTPRouteRule.backendRefs).
    """
    route = notes.key
    namespace = reference.namespace or route.namespace
    unusable = Backend(service=f"{namespace}/{reference.name}", port=reference.port or 0, weight=weight)

    def invalid(reason: str, message: str) -> Backend:
        notes.dangling(reason, f"{place}: {message}")
        return replace(unusable, invalid=message)

    kind = (reference.group, reference.kind)
    if kind not in (SERVICE, SERVICE_ENTRY):
        return invalid("InvalidKind", f"{reference.group or 'core'}/{reference.kind} is no kind of backend")
    named = f"{reference.kind} {namespace}/{reference.name}"
    if namespace != route.namespace and not is_granted(view, route.kind, route.namespace, reference, namespace):
        return invalid("RefNotPermitted", f"no ReferenceGrant in {namespace} lets {route.kind}s refer to {named}")
    target = _target(view, kind, namespace, reference.name)
    if target is None:
        return invalid("BackendNotFound", f"{named} does not exist, or the mesh does not carry it")
    number = reference.port
    if number is None and len(target.ports) == 1:
        number = target.ports[0].number
    if number is None or target.port(number) is None:
        return invalid("BackendNotFound", f"{named} has no port {number}")
    return Backend(service=target.key, port=number, weight=weight)


def is_granted(view: View, kind: str, namespace: str, reference: BackendReference, to_namespace: str) -> bool:
    """Whether a ReferenceGrant lets routes of a kind and namespace refer to something of another namespace."""
    for grant in view.having(ReferenceGrant, namespace_facet(to_namespace)):
        admitted = any(
            one.group == GATEWAY_GROUP and one.kind == kind and one.namespace == namespace for one in grant.spec.from_
        )
        if admitted and any(
            to.group == reference.group and to.kind == reference.kind and to.name in (None, "", reference.name)
            for to in grant.spec.to
        ):
            return True
    return False


def destination_backend(
    view: View, notes: Notes, destination: Destination, weight: int, called: int | None, place: str
) -> Backend:
    """A destination of a VirtualService.

    Args:
        view: the objects.
        notes: of the VirtualService.
        destination: host, subset, port.
        weight: its share.
        called: the port that the client dialled, taken where the destination names none and has several; None where
            no client is thought of.
        place: where it stands, for messages.
    """
    host = full_host(destination.host, notes.key.namespace, view.settings)
    target = find_host(view, host, notes.key.namespace)
    number = destination.port.number if destination.port else None
    if target is None:
        reason = f"no service has the host {host!r}"
        notes.dangling("BackendNotFound", f"{place}: {reason}")
        return Backend(
            service=f"{notes.key.namespace}/{host}", port=number or called or 0, weight=weight, invalid=reason
        )
    if number is None:
        first = target.ports[0].number if target.ports else None
        number = first if len(target.ports) == 1 or called is None else called
    if number is None or target.port(number) is None:
        reason = f"{host} has no port {number}"
        notes.dangling("BackendNotFound", f"{place}: {reason}")
        return Backend(service=target.key, port=number or 0, weight=weight, invalid=reason)
    return Backend(service=target.key, port=number, weight=weight, subset=destination.subset or None)


def _target(view: View, kind: tuple[str, str], namespace: str, name: str) -> Target | None:
    if kind == SERVICE:
        return find_service(view, namespace, name)
    return next(iter(find_entries(view, namespace, name)), None)

"""Which policies are attached to what is called: by its own name, by its waypoint's Gateway, by the Gateway's class.

A policy is attached to objects of its own namespace only; one that names a GatewayClass is in the root namespace.
Policies with a selector, or with neither, are ztunnels' business: a waypoint does not look at them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from controlplane.translate.binding import Waypoint, bind, find_waypoint
from controlplane.translate.facets import Facet, target_facet
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.targets import ISTIO_NETWORKING, find_entries, find_service
from controlplane.translate.tracking import View, all_of
from resources.gateway import GATEWAY_GROUP
from resources.objects import AuthorizationPolicy, GatewayClass, ObjectKey, RequestAuthentication, Telemetry
from resources.security import TargetReference

_Attached = TypeVar("_Attached", AuthorizationPolicy, RequestAuthentication, Telemetry)

_GROUPS = {
    "Service": ("", "core"),
    "ServiceEntry": (ISTIO_NETWORKING,),
    "Gateway": (GATEWAY_GROUP,),
    "GatewayClass": (GATEWAY_GROUP,),
}


def attached(view: View, kind: type[_Attached], target: ObjectKey, waypoint: Waypoint) -> Iterator[_Attached]:
    """The policies of a kind for an object that a waypoint serves: of the class, the Gateway, then the object.

    Args:
        view: the objects.
        kind: of the policies.
        target: a Service, ServiceEntry or Pod; the last has no policies of its own.
        waypoint: who serves it.
    """
    wanted = [
        ("GatewayClass", view.settings.root_namespace, waypoint.gateway_class),
        ("Gateway", waypoint.namespace, waypoint.name),
        (target.kind, target.namespace, target.name),
    ]
    facets: list[Facet] = [target_facet(*one) for one in wanted if one[0] in _GROUPS]
    for value in all_of(view, kind, facets):
        for reference in value.spec.targets:
            named = (reference.kind, value.metadata.namespace, reference.name)
            if named in wanted and _is_sound(reference, value.metadata.namespace):
                yield value
                break


def attachment_notes(view: View, notes: Notes, targets: Sequence[TargetReference], effect: str) -> None:
    """Note targets that do not exist or are not served, so that the policy does nothing there.

    Args:
        view: the objects.
        notes: of the policy.
        targets: what it names.
        effect: what is not the case then, such as ``this policy is NOT enforced``.
    """
    namespace = notes.key.namespace
    for reference in targets:
        named = f"target {reference.kind} {reference.name}"
        if reference.kind not in _GROUPS or not _is_sound(reference, namespace):
            notes.not_applied(
                f"{named}: targets are a Service, ServiceEntry or Gateway of the policy's own namespace, or a "
                f"GatewayClass: {effect} there"
            )
        elif reference.kind == "GatewayClass":
            if namespace != view.settings.root_namespace:
                notes.not_applied(
                    f"{named}: only policies in {view.settings.root_namespace} are for a class: {effect} there"
                )
            elif reference.name not in view.settings.waypoint_classes and not _class_exists(view, reference.name):
                notes.not_applied(f"{named}: TargetNotFound: no such class: {effect} there")
        elif reference.kind == "Gateway":
            if find_waypoint(view, namespace, reference.name) is None:
                notes.not_applied(f"{named}: TargetNotFound: it is no waypoint of this mesh: {effect} there")
        else:
            service = reference.kind == "Service"
            single = find_service(view, namespace, reference.name) if service else None
            found = ((single,) if single else ()) if service else find_entries(view, namespace, reference.name)
            if not found:
                notes.not_applied(
                    f"{named}: TargetNotFound: it does not exist, or the mesh does not carry it: {effect} there"
                )
            elif not bind(view, found[0].metadata, "service").waypoints:
                notes.not_applied(f"{named}: AncestorNotBound: it goes through no waypoint: {effect} there")


def _class_exists(view: View, name: str) -> bool:
    return view.find(GatewayClass, "", name) is not None


def _is_sound(reference: TargetReference, namespace: str) -> bool:
    return reference.group in _GROUPS[reference.kind] and reference.namespace in (None, "", namespace)

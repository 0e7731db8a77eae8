"""TCPRoute and TLSRoute to routes of connections."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.translate.layer7.backends import referenced_backend
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.tracking import View
from mesh.model.waypoint import StreamRoute
from resources.objects import TCPRoute, TLSRoute


def translate_streams(view: View, notes: Notes, route: TCPRoute | TLSRoute) -> list[StreamRoute]:
    """The rules of one route.

    The API admits one rule for now; of several without server names of their own the first takes all connections.
    """
    server_names = tuple(name.lower() for name in route.spec.hostnames) if isinstance(route, TLSRoute) else ()
    result = []
    for index, rule in enumerate(route.spec.rules):
        if index:
            notes.unsupported(f"rules[{index}]: the first rule takes all connections, this one none")
            continue
        backends = [
            referenced_backend(view, notes, reference, reference.weight, f"rules[{index}].backendRefs[{position}]")
            for position, reference in enumerate(rule.backend_refs)
        ]
        name = f"{route.metadata.namespace}/{route.metadata.name}/{rule.name or index}"
        kept = tuple(backend for backend in backends if backend.weight)
        result.append(StreamRoute(name=name, server_names=server_names, backends=kept))
    return result


def streams_in_order(routes: Sequence[StreamRoute]) -> tuple[StreamRoute, ...]:
    """The first that matches serves: an exact server name before a wildcard, the longest wildcard before others.

    A route of several names is cut into one for each, so that each stands in its own place.
    """
    single = [
        StreamRoute(name=route.name, server_names=(name,) if name else (), backends=route.backends)
        for route in routes
        for name in route.server_names or ("",)
    ]
    # sorted() keeps the order of equals, which is the routes' age.
    return tuple(sorted(single, key=_place))


def _place(route: StreamRoute) -> tuple[int, int]:
    name = route.server_names[0] if route.server_names else ""
    if not name:
        return 2, 0
    return (1, -len(name)) if name.startswith("*") else (0, 0)

"""A mesh with a waypoint, routes in it, and what serves a request.

``serving_route`` reads the model's matches the plainest way, one after the other, without tables: an oracle for
translations, and for whoever compiles them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

from controlplane.translate.settings import MeshSettings
from controlplane.translate.tracking import Node, Tracker, View
from controlplane.translate.translator import Translator
from mesh.model.http_route import HttpRoute, PathMatch, PathMatchKind, RequestMatch, TextMatch, TextMatchKind
from mesh.model.waypoint import Destination, DestinationPort
from resources.decode import decode_documents
from resources.object_set import ObjectSet
from resources.objects import ObjectKey

MESH = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: ambimesh-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80, targetPort: 8080}, {name: any, port: 90}]}
---
{apiVersion: v1, kind: Service, metadata: {name: v1, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: v2, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
"""
"""A namespace with a waypoint, a Service with two ports and two more to route to."""

WEB = "shop/web.shop.svc.cluster.local"
V1 = "backendRefs: [{name: v1, port: 80}]"
V2 = "backendRefs: [{name: v2, port: 80}]"
_VERSIONS = {"TCPRoute": "v1alpha2", "TLSRoute": "v1alpha3"}


def objects_of(text: str) -> ObjectSet:
    """The objects of some YAML, which must be sound."""
    objects, problems = decode_documents(textwrap.dedent(text), "f")
    assert [str(problem) for problem in problems] == []
    return ObjectSet(objects)


def translated(text: str = "", *, mesh: bool = True, settings: MeshSettings | None = None) -> Translator:
    """A translator of some YAML; ``mesh`` puts ``MESH`` before it."""
    translator = Translator(settings or MeshSettings())
    translator.update(objects_of((MESH + "\n---\n" if mesh else "") + textwrap.dedent(text)))
    return translator


def route(
    rules: str, *, kind: str = "HTTPRoute", name: str = "r", namespace: str = "shop", parent: str = "", meta: str = ""
) -> str:
    """A route as YAML, by default of port 80 of the Service ``web``."""
    parents = parent or "{group: '', kind: Service, name: web, namespace: shop, port: 80}"
    return f"""
---
apiVersion: gateway.networking.k8s.io/{_VERSIONS.get(kind, "v1")}
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}{meta}}}
spec: {{parentRefs: [{parents}], rules: {rules}}}
"""


def policy(
    spec: str, *, kind: str = "AuthorizationPolicy", name: str = "p", namespace: str = "shop", meta: str = ""
) -> str:
    """An AuthorizationPolicy, RequestAuthentication or Telemetry as YAML."""
    group = "telemetry" if kind == "Telemetry" else "security"
    return f"""
---
apiVersion: {group}.istio.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}{meta}}}
spec: {{{spec}}}
"""


def destination(translator: Translator, key: str = WEB) -> Destination:
    """What the one waypoint of a service is told of it."""
    [found] = [one for one in translator.destinations if one.key == key]
    return found


def port(translator: Translator, number: int = 80, key: str = WEB) -> DestinationPort:
    """One port of it."""
    [found] = [one for one in destination(translator, key).ports if one.number == number]
    return found


def conditions(translator: Translator, kind: str = "HTTPRoute", namespace: str = "shop", name: str = "r") -> list[str]:
    """A route's conditions, as ``Type=status/Reason``."""
    status = translator.statuses[ObjectKey(kind, namespace, name)]
    return [
        f"{condition.type}={condition.status}/{condition.reason}"
        for parent in status.parents
        for condition in parent.conditions
    ]


def findings(translator: Translator, kind: str = "HTTPRoute") -> list[str]:
    """What is said of the objects of a kind."""
    return [str(one) for one in translator.findings if one.object.kind == kind]


def served(
    translator: Translator,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    number: int = 80,
    client: str = "anybody",
) -> HttpRoute | None:
    """The route of the Service ``web`` that serves a request of a client of some namespace."""
    found = port(translator, number)
    routes = dict(found.consumer_routes).get(client, found.routes)
    return serving_route(routes, path, method=method, headers=headers or {}, query=query or {})


def goes_to(found: HttpRoute | None) -> str:
    """The name of a route's first backend."""
    assert found is not None
    return found.backends[0].service.split("/")[1].split(".")[0]


def serving_route(
    routes: tuple[HttpRoute, ...], path: str, *, method: str, headers: Mapping[str, str], query: Mapping[str, str]
) -> HttpRoute | None:
    """The first route that matches a request."""
    for one in routes:
        if not one.matches or any(_matches(match, path, method, headers, query) for match in one.matches):
            return one
    return None


def _matches(
    match: RequestMatch, path: str, method: str, headers: Mapping[str, str], query: Mapping[str, str]
) -> bool:
    named = [(one, headers) for one in match.headers] + [(one, query) for one in match.query]
    return (
        (match.path is None or _path_matches(match.path, path))
        and (match.method is None or _text_matches(match.method, method))
        and all(_text_matches(one.match, place.get(one.name)) for one, place in named)
    )


def _path_matches(match: PathMatch, path: str) -> bool:
    match match.kind:
        case PathMatchKind.EXACT:
            return path == match.value
        case PathMatchKind.PREFIX:
            whole = match.value.rstrip("/")
            return path == whole or path.startswith(whole + "/")
        case PathMatchKind.TEXT_PREFIX:
            return path.startswith(match.value)
    return re.fullmatch(match.value, path) is not None


def _text_matches(match: TextMatch, text: str | None) -> bool:
    if text is None:
        return match.inverted
    match match.kind:
        case TextMatchKind.EXACT:
            found = text == match.value
        case TextMatchKind.PREFIX:
            found = text.startswith(match.value)
        case TextMatchKind.SUFFIX:
            found = text.endswith(match.value)
        case TextMatchKind.REGEX:
            found = re.fullmatch(match.value, text) is not None
        case _:
            found = True
    return found is not match.inverted


def view_of(translator: Translator) -> View:
    """A view of a translator's objects, for calling one function of the translation alone."""
    tracker = Tracker(translator.settings)
    tracker.take(translator.objects, translator.objects.changes_since(ObjectSet()))
    return tracker.view(Node("test", ObjectKey("Namespace", "", "test")))

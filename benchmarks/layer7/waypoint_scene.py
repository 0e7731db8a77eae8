"""The scene as the control plane would send it to a waypoint."""

from __future__ import annotations

from benchmarks.layer7 import scene
from mesh.addresses import parse_ip
from mesh.model.http_route import (
    Backend,
    HttpRoute,
    NamedMatch,
    PathMatch,
    PathMatchKind,
    RequestMatch,
    Retry,
    TextMatch,
    TextMatchKind,
)
from mesh.model.request_policy import Attribute, Condition, RequestAction, RequestClause, RequestPolicy, RequestRule
from mesh.model.service import Service
from mesh.model.waypoint import Destination, DestinationPort
from mesh.model.workload import AppProtocol, NetworkAddress, ServicePort, Workload
from mesh.xds.codec import encode_address
from mesh.xds.discovery_codec import Resource

ADDRESS = "127.0.0.1"
HTTP, GRPC = 80, 81


def _key(version: str) -> str:
    return f"{scene.NAMESPACE}/{version}.{scene.NAMESPACE}.svc.cluster.local"


def resources(backend: int) -> list[Resource]:
    """Two services with an endpoint each, on two ports of loopback from ``backend`` on."""
    made: list[Resource] = []
    for number, version in enumerate(scene.VERSIONS):
        ports = (
            ServicePort(HTTP, backend + number, AppProtocol.HTTP11),
            ServicePort(GRPC, backend + number, AppProtocol.GRPC),
        )
        key = _key(version)
        service = Service(
            name=version,
            namespace=scene.NAMESPACE,
            hostname=key.partition("/")[2],
            addresses=(NetworkAddress("", parse_ip(f"10.96.0.{number + 1}")),),
            ports=ports,
        )
        workload = Workload(
            uid=f"Kubernetes//Pod/{scene.NAMESPACE}/{version}",
            name=version,
            namespace=scene.NAMESPACE,
            addresses=(parse_ip(ADDRESS),),
            services={key: ports},
        )
        made.append(Resource(service.key, "1", (), encode_address(service)))
        made.append(Resource(workload.uid, "1", (), encode_address(workload)))
    return made


def destination(routes: int) -> Destination:
    """What the waypoint serves, with so many routes."""
    return Destination(
        key=_key(scene.VERSIONS[0]),
        waypoint="shop/waypoint",
        hosts=(scene.HOST,),
        ports=(DestinationPort(number=HTTP, protocol=AppProtocol.UNKNOWN, routes=_routes(routes)),),
        policies=_policies(),
    )


def _routes(count: int) -> tuple[HttpRoute, ...]:
    first, second = (Backend(service=_key(version), port=HTTP) for version in scene.VERSIONS)
    split = tuple(
        Backend(service=_key(version), port=HTTP, weight=weight)
        for version, weight in zip(scene.VERSIONS, scene.WEIGHTS, strict=True)
    )
    made = [
        _route(f"other-{number}", other.path, (first,), exact=other.exact, header=other.header)
        for number, other in enumerate(scene.others(count))
    ]
    for prefix in scene.PREFIXES:
        made.append(_route(f"canary{prefix}", prefix, (second,), header=scene.CANARY))
        made.append(_route(f"split{prefix}", prefix, split))
    call = Backend(service=_key(scene.VERSIONS[0]), port=GRPC)
    kind = PathMatch(PathMatchKind.TEXT_PREFIX, scene.GRPC_PREFIX)
    made.append(
        HttpRoute(
            name="grpc",
            matches=(RequestMatch(path=kind),),
            backends=(call,),
            retry=Retry(attempts=scene.RETRIES, conditions=scene.RETRY_ON),
            timeout_seconds=scene.TIMEOUT_SECONDS,
        )
    )
    return tuple(made)


def _route(
    name: str, path: str, backends: tuple[Backend, ...], *, exact: bool = False, header: tuple[str, str] | None = None
) -> HttpRoute:
    headers = () if header is None else (NamedMatch(header[0], TextMatch(TextMatchKind.EXACT, header[1])),)
    return HttpRoute(
        name=name,
        matches=(
            RequestMatch(path=PathMatch(PathMatchKind.EXACT if exact else PathMatchKind.PREFIX, path), headers=headers),
        ),
        backends=backends,
        retry=Retry(attempts=scene.RETRIES, conditions=scene.RETRY_ON),
        timeout_seconds=scene.TIMEOUT_SECONDS,
    )


def _policies() -> tuple[RequestPolicy, ...]:
    methods = Condition(
        attribute=Attribute.METHOD, values=tuple(TextMatch(TextMatchKind.EXACT, method) for method in scene.METHODS)
    )
    paths = Condition(
        attribute=Attribute.PATH,
        values=tuple(
            TextMatch(TextMatchKind.PREFIX, prefix) for prefix in (*scene.PREFIXES, scene.GRPC_PREFIX)
        ),
    )
    blocked = Condition(attribute=Attribute.HEADER, values=(TextMatch(TextMatchKind.PRESENT),), name=scene.BLOCKED)
    admit = RequestRule(((RequestClause(conditions=(methods, paths)),),))
    refuse = RequestRule(((RequestClause(conditions=(blocked,)),),))
    return (
        RequestPolicy(key="shop/admit", action=RequestAction.ALLOW, rules=(admit,)),
        RequestPolicy(key="shop/refuse", action=RequestAction.DENY, rules=(refuse,)),
    )

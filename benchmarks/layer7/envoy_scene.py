"""The scene as Envoy's configuration: a plain HTTP proxy with the same routes, split, retries, policy, log and metrics.

Where a choice is Envoy's own it keeps its default. The access log is Istio's line, which the waypoint writes too; a
request gets an id if it has none, and ``x-forwarded-for`` has the client's address. Requests may take as long as the
waypoint lets them. Limits of its connection pools are put out of the load's reach, as the waypoint's are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.envoy_configuration import bootstrap, endpoint, filtered, listening_on, no_limits, typed
from benchmarks.layer7 import scene
from waypoint.telemetry.log_format import DEFAULT_TEMPLATE

ADDRESS = "127.0.0.1"
Json = dict[str, Any]


def configuration(port: int, backend: int, routes: int, access_log: Path, admin_port: int) -> Json:
    """The whole file.

    Args:
        port: to listen on.
        backend: where the first version is; the second is on the next port.
        routes: how many.
        access_log: where lines go.
        admin_port: of Envoy's administration.
    """
    log = typed(
        "extensions.access_loggers.file.v3.FileAccessLog",
        path=str(access_log),
        log_format={"text_format_source": {"inline_string": _template()}},
    )
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        codec_type="AUTO",
        use_remote_address=True,
        normalize_path=True,
        route_config={"virtual_hosts": [{"name": "shop", "domains": ["*"], "routes": _routes(routes)}]},
        http_filters=[*_policies(), filtered("router", "extensions.filters.http.router.v3.Router")],
        access_log=[{"name": "file", "typed_config": log}],
    )
    listener = {
        "name": "http",
        "address": listening_on(ADDRESS, port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [_cluster(version, backend + number) for number, version in enumerate(scene.VERSIONS)]
    clusters.append({**_cluster(_GRPC, backend), "typed_extension_protocol_options": _HTTP2})
    return bootstrap([listener], clusters, admin_port=admin_port)


_GRPC = "grpc"
_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
    )
}


def _template() -> str:
    # This Envoy knows the cluster's name as %UPSTREAM_CLUSTER%, and it stands for what Istio's operator writes.
    return DEFAULT_TEMPLATE.replace("%UPSTREAM_CLUSTER_RAW%", "%UPSTREAM_CLUSTER%")


def _cluster(name: str, port: int) -> Json:
    return {
        "name": name,
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": endpoint(name, ADDRESS, port),
        "circuit_breakers": no_limits(),
    }


def _routes(count: int) -> list[Json]:
    first, second = scene.VERSIONS
    made = [_route(other.path, _to(first), exact=other.exact, header=other.header) for other in scene.others(count)]
    weights = zip(scene.VERSIONS, scene.WEIGHTS, strict=True)
    split = {"weighted_clusters": {"clusters": [{"name": name, "weight": weight} for name, weight in weights]}}
    for prefix in scene.PREFIXES:
        made.append(_route(prefix, _to(second), header=scene.CANARY))
        made.append(_route(prefix, split))
    made.append({"match": {"prefix": scene.GRPC_PREFIX}, "route": {**_to(_GRPC), **_BEHAVIOUR}})
    return made


_BEHAVIOUR: Json = {
    "timeout": f"{scene.TIMEOUT_SECONDS:g}s",
    "retry_policy": {"retry_on": ",".join(scene.RETRY_ON), "num_retries": scene.RETRIES},
}


def _to(cluster: str) -> Json:
    return {"cluster": cluster}


def _route(path: str, to: Json, *, exact: bool = False, header: tuple[str, str] | None = None) -> Json:
    match: Json = {"path": path} if exact else {"path_separated_prefix": path}
    if header is not None:
        match["headers"] = [{"name": header[0], "string_match": {"exact": header[1]}}]
    return {"match": match, "route": {**to, **_BEHAVIOUR}}


def _policies() -> list[Json]:
    anybody = [{"any": True}]
    blocked = {"permissions": [{"header": {"name": scene.BLOCKED, "present_match": True}}], "principals": anybody}
    methods = [{"header": {"name": ":method", "string_match": {"exact": method}}} for method in scene.METHODS]
    prefixes = (*scene.PREFIXES, scene.GRPC_PREFIX)
    paths = [{"url_path": {"path": {"prefix": prefix}}} for prefix in prefixes]
    both = {"and_rules": {"rules": [{"or_rules": {"rules": methods}}, {"or_rules": {"rules": paths}}]}}
    admitted = {"permissions": [both], "principals": anybody}
    return [
        _rbac("refuse", "DENY", blocked),
        _rbac("admit", "ALLOW", admitted),
    ]


def _rbac(name: str, action: str, policy: Json) -> Json:
    return filtered(name, "extensions.filters.http.rbac.v3.RBAC", rules={"action": action, "policies": {name: policy}})

"""Configurations of the two Envoys that are the peer: a tunnel like ours, in another program. Pure.

The client's Envoy listens where ztunnel's in-pod listener would, on the loopback of the client's pod, and carries each
connection in an HTTP/2 CONNECT stream over mutual TLS 1.3 to port 15008 of the server's pod. There the other Envoy
ends TLS, admits the client's SPIFFE identity by RBAC and nobody else, and dials the application.

What can be set alike is alike: TLS 1.3 with P-256 certificates and the peer's identity checked on both sides, HTTP/2
windows (Envoy's streams start with what ours may grow to), streams per tunnel, pings, an access record for every
connection at both ends. In Envoy's favour is what it is spared: it is dialled instead of capturing traffic, its one
destination is written in its configuration, no policy changes under it, and the application sees Envoy's address, not
the client's. It also delivers over 127.0.0.1, where the kernel uses ports in TIME_WAIT again; over the pod's own
address it would run out of them when connects are held.

Two of Envoy's guards against floods of resets would be in the way of clients that reset every connection. One can be
raised (``_RESETS``). The other is of its HTTP/2 library (nghttp2) and cannot be set: a tunnel that has taken 1000
resets takes only 33 more a second, then it is ended, and its streams fail. So the client's side leaves each tunnel for
a new one before that (``STREAMS_PER_LIFE``). The library that Envoy offers in its place (oghttp2) needs none of this,
but was slower in all round trips.

Sources: Envoy's v3 API reference (TcpProxy.tunneling_config, HttpConnectionManager with upgrade CONNECT, RBAC, TLS).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.identity import SpiffeId

HBONE_PORT = 15008
ADMIN_PORT = 9901
LOOPBACK = "127.0.0.1"
STREAM_WINDOW = 4 * 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024
STREAMS_PER_TUNNEL = 100
"""At one time."""
STREAMS_PER_LIFE = 900
"""Of one tunnel, one after the other; the next costs a handshake."""
_TUNNEL = "tunnel"
_PREFIX = "type.googleapis.com/envoy."
_UNLIMITED = 1_000_000
"""For limits of Envoy's that are below what the loads ask for (1024 connections per cluster, by default)."""
_RESETS = "overload.premature_reset_total_stream_count"
"""After so many streams, 500 by default, Envoy ends a tunnel of whose streams half lived for less than a second and
were reset: which is what connections are that their client resets after one answer."""
_TEXT = (
    "%START_TIME% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_PEER_URI_SAN% "
    "%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_PEER_URI_SAN% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% "
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION%\n"
)


@dataclass(frozen=True, slots=True)
class Files:
    """Where one Envoy finds its credentials, and writes its access log."""

    certificate: Path
    key: Path
    roots: Path
    access_log: Path


def client_configuration(files: Files, server: str, expected: SpiffeId, ports: tuple[int, ...]) -> dict[str, Any]:
    """The client's side.

    Args:
        files: its own.
        server: IPv4 address of the server's pod.
        expected: whom the server must prove to be.
        ports: of the application; each is listened for on loopback.
    """
    options = _http_options()
    cluster = {
        "name": _TUNNEL,
        "connect_timeout": "10s",
        "load_assignment": endpoint(_TUNNEL, server, HBONE_PORT),
        "circuit_breakers": no_limits(),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": options},
                common_http_protocol_options={"max_requests_per_connection": STREAMS_PER_LIFE},
            )
        },
        "transport_socket": _tls("UpstreamTlsContext", files, expected),
    }
    return bootstrap([_tunnelled(files, server, port) for port in ports], [cluster])


def server_configuration(files: Files, server: str, admitted: SpiffeId, ports: tuple[int, ...]) -> dict[str, Any]:
    """The server's side.

    Args:
        files: its own.
        server: IPv4 address of its pod.
        admitted: the one client that its policy admits.
        ports: of the application.
    """
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=_TUNNEL,
        codec_type="HTTP2",
        http2_protocol_options={**_http_options(), "max_concurrent_streams": 2 * STREAMS_PER_TUNNEL},
        stream_idle_timeout="0s",
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
        route_config={"virtual_hosts": [_host(server, port) for port in ports]},
        http_filters=[_admission(admitted), filtered("router", "extensions.filters.http.router.v3.Router")],
        access_log=[_access_log(files)],
    )
    listener = {
        "name": _TUNNEL,
        "address": listening_on(server, HBONE_PORT),
        "filter_chains": [
            {
                "transport_socket": _tls("DownstreamTlsContext", files, None),
                "filters": [{"name": "http", "typed_config": manager}],
            }
        ],
    }
    return bootstrap([listener], [_application(port) for port in ports])


def bootstrap(
    listeners: list[dict[str, Any]], clusters: list[dict[str, Any]], admin_port: int = ADMIN_PORT
) -> dict[str, Any]:
    """A whole file."""
    return {
        "admin": {"address": listening_on(LOOPBACK, admin_port)},
        "layered_runtime": {"layers": [{"name": "limits", "static_layer": {_RESETS: _UNLIMITED}}]},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _tunnelled(files: Files, server: str, port: int) -> dict[str, Any]:
    """A listener whose connections go through the tunnel, for one port of the application."""
    proxy = typed(
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=_TUNNEL,
        cluster=_TUNNEL,
        idle_timeout="0s",
        tunneling_config={"hostname": f"{server}:{port}"},
        access_log=[_access_log(files)],
    )
    return {
        "name": f"outbound-{port}",
        "address": listening_on(LOOPBACK, port),
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
    }


def _host(server: str, port: int) -> dict[str, Any]:
    connect = {"upgrade_type": "CONNECT", "connect_config": {}}
    route = {"cluster": _application_name(port), "timeout": "0s", "upgrade_configs": [connect]}
    return {
        "name": _application_name(port),
        "domains": [f"{server}:{port}"],
        "routes": [{"match": {"connect_matcher": {}}, "route": route}],
    }


def _application(port: int) -> dict[str, Any]:
    name = _application_name(port)
    return {
        "name": name,
        "connect_timeout": "10s",
        "load_assignment": endpoint(name, LOOPBACK, port),
        "circuit_breakers": no_limits(),
    }


def _application_name(port: int) -> str:
    return f"application-{port}"


def _admission(admitted: SpiffeId) -> dict[str, Any]:
    policy = {
        "permissions": [{"any": True}],
        "principals": [{"authenticated": {"principal_name": {"exact": str(admitted)}}}],
    }
    rules = {"action": "ALLOW", "policies": {"admit-client": policy}}
    return filtered("rbac", "extensions.filters.http.rbac.v3.RBAC", rules=rules)


def _tls(kind: str, files: Files, expected: SpiffeId | None) -> dict[str, Any]:
    """A TLS context; without an expected identity that of a server, which demands a certificate of its own root."""
    validation: dict[str, Any] = {"trusted_ca": {"filename": str(files.roots)}}
    demand: dict[str, Any] = {"require_client_certificate": True}
    if expected is not None:
        validation["match_typed_subject_alt_names"] = [{"san_type": "URI", "matcher": {"exact": str(expected)}}]
        demand = {}
    pair = {"certificate_chain": {"filename": str(files.certificate)}, "private_key": {"filename": str(files.key)}}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [pair],
        "validation_context": validation,
    }
    context = typed(f"extensions.transport_sockets.tls.v3.{kind}", common_tls_context=common, **demand)
    return {"name": "tls", "typed_config": context}


def _http_options() -> dict[str, Any]:
    return {
        "initial_stream_window_size": STREAM_WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
        "max_concurrent_streams": STREAMS_PER_TUNNEL,
        "connection_keepalive": {"interval": "10s", "timeout": "20s"},
    }


def no_limits() -> dict[str, Any]:
    """Circuit breakers that no load reaches."""
    names = ("max_connections", "max_pending_requests", "max_requests")
    return {"thresholds": [dict.fromkeys(names, _UNLIMITED)]}


def _access_log(files: Files) -> dict[str, Any]:
    written = typed(
        "extensions.access_loggers.file.v3.FileAccessLog",
        path=str(files.access_log),
        log_format={"text_format_source": {"inline_string": _TEXT}},
    )
    return {"name": "file", "typed_config": written}


def filtered(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    """A filter of HTTP."""
    return {"name": name, "typed_config": typed(kind, **settings)}


def typed(kind: str, **settings: Any) -> dict[str, Any]:
    """A message of a type of Envoy's."""
    return {"@type": f"{_PREFIX}{kind}", **settings}


def endpoint(cluster: str, address: str, port: int) -> dict[str, Any]:
    """A cluster's only endpoint."""
    return {
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": listening_on(address, port)}}]}],
    }


def listening_on(address: str, port: int) -> dict[str, Any]:
    """A socket's address."""
    return {"socket_address": {"address": address, "port_value": port}}

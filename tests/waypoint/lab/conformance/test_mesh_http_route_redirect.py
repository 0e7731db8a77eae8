"""Redirections: MeshHTTPRouteRedirectHostAndStatus (core of MESH-HTTP), MeshHTTPRouteRedirectPath, -RedirectPort,
-SchemeRedirect (extended), and the statuses 303, 307 and 308 (run, and counted in no profile).
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

HOST_AND_STATUS = {
    "/host": ("hostname: example.org", 302, "http://example.org/host"),
    "/status": ("statusCode: 301", 301, "http://redirect/status"),
    "/host-and-status": ("hostname: example.org, statusCode: 301", 301, "http://example.org/host-and-status"),
}
PREFIX = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new-prefix}"
FULL = "path: {type: ReplaceFullPath, replaceFullPath: /whole/path}"
PATH = {
    "/prefix": (PREFIX, 302, "http://redirect/new-prefix/lemon"),
    "/prefix-and-host": (f"hostname: example.org, {PREFIX}", 302, "http://example.org/new-prefix/lemon"),
    "/prefix-and-status": (f"statusCode: 301, {PREFIX}", 301, "http://redirect/new-prefix/lemon"),
    "/full": (FULL, 302, "http://redirect/whole/path"),
    "/full-and-host": (f"hostname: example.org, {FULL}", 302, "http://example.org/whole/path"),
    "/full-and-status": (f"statusCode: 301, {FULL}", 301, "http://redirect/whole/path"),
}
PORT = {
    "/port": ("port: 8083", 302, "http://redirect:8083/port"),
    "/port-and-host": ("port: 8083, hostname: example.org", 302, "http://example.org:8083/port-and-host"),
    "/port-and-status": ("port: 8083, statusCode: 301", 301, "http://redirect:8083/port-and-status"),
    "/port-host-status": (
        "port: 8083, hostname: example.org, statusCode: 302", 302, "http://example.org:8083/port-host-status"
    ),
}  # fmt: skip
SCHEME = {
    "/scheme": ("scheme: https", 302, "https://redirect/scheme"),
    "/scheme-and-host": ("scheme: https, hostname: example.org", 302, "https://example.org/scheme-and-host"),
    "/scheme-and-status": ("scheme: https, statusCode: 301", 301, "https://redirect/scheme-and-status"),
    "/scheme-and-port": ("scheme: https, port: 8443", 302, "https://redirect:8443/scheme-and-port"),
}
STATUSES = {f"/{status}": (f"statusCode: {status}", status, f"http://redirect/{status}") for status in (303, 307, 308)}
Table = dict[str, tuple[str, int, str]]


def route(table: Table) -> str:
    rules = "\n".join(
        f"    - matches: [{{path: {{value: {path}}}}}]\n"
        f"      filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]"
        for path, (redirect, _, _) in table.items()
    )
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: redirect, namespace: conformance}}
spec:
  parentRefs: [{{group: "", kind: Service, name: redirect, port: 80}}]
  rules:
{rules}
"""


def check(mesh: Any, table: Table, rest: str = "") -> None:
    with mesh.services("redirect"), mesh.routes(route(table)):
        for path, (_, status, location) in table.items():
            answer = mesh.status("redirect", path + rest, status=status)
            assert answer.header("location") == location
            assert answer.seen == {}, "no server was asked"


def test_mesh_http_route_redirect_host_and_status(mesh: Any) -> None:
    check(mesh, HOST_AND_STATUS)


def test_mesh_http_route_redirect_path(mesh: Any) -> None:
    check(mesh, PATH, "/lemon")


def test_mesh_http_route_redirect_port(mesh: Any) -> None:
    check(mesh, PORT)


def test_mesh_http_route_scheme_redirect(mesh: Any) -> None:
    check(mesh, SCHEME)


def test_mesh_http_route_303_307_308_redirects(mesh: Any) -> None:
    check(mesh, STATUSES)


def test_a_redirection_keeps_the_query(mesh: Any) -> None:
    table: Table = {"/prefix": (PREFIX, 302, "http://redirect/new-prefix/lemon?a=b%20c")}
    check(mesh, table, "/lemon?a=b%20c")

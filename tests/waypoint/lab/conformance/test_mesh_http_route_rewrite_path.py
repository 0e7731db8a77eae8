"""MeshHTTPRouteRewritePath (extended): a prefix or the whole path is another for the server; the query stays."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: rewrite, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: rewrite, port: 80}]
  rules:
    - matches: [{path: {value: /prefix/one}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}}]
      backendRefs: [{name: rewrite-v1, port: 80}]
    - matches: [{path: {value: /strip-prefix}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
      backendRefs: [{name: rewrite-v1, port: 80}]
    - matches: [{path: {value: /full/one}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
      backendRefs: [{name: rewrite-v1, port: 80}]
    - matches: [{path: {value: /both/prefix}}]
      filters:
        - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /prefix}}}
        - type: RequestHeaderModifier
          requestHeaderModifier:
            {set: [{name: X-Set, value: set}], add: [{name: X-Add, value: add}], remove: [X-Remove]}
      backendRefs: [{name: rewrite-v1, port: 80}]
    - matches: [{path: {value: /host}}]
      filters: [{type: URLRewrite, urlRewrite: {hostname: one.example.org}}]
      backendRefs: [{name: rewrite-v1, port: 80}]
"""
CASES = [
    ("/prefix/one/two", "/one/two"),
    ("/prefix/one", "/one"),
    ("/prefix/one/", "/one/"),
    ("/prefix/one/two?a=1&b=%2F", "/one/two?a=1&b=%2F"),
    ("/strip-prefix/three", "/three"),
    ("/strip-prefix", "/"),
    ("/full/one/two", "/one"),
    ("/full/one?q=1", "/one?q=1"),
]


def test_mesh_http_route_rewrite_path(mesh: Any) -> None:
    with mesh.services("rewrite"), mesh.routes(ROUTE):
        for sent, wanted in CASES:
            assert mesh.served("rewrite", sent, version="v1").seen["path"] == wanted, sent
        old = {"X-Set": "old", "X-Add": "old", "X-Remove": "old"}
        answer = mesh.served("rewrite", "/both/prefix/one", version="v1", headers=old)
        assert answer.seen["path"] == "/prefix/one"
        assert [answer.received(name) for name in old] == ["set", "old,add", None]
        assert mesh.served("rewrite", "/host", version="v1").received("host") == "one.example.org"

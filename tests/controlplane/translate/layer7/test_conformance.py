"""The features of the Gateway API's mesh conformance profiles, written from the specification's words."""

from __future__ import annotations

import pytest

from controlplane.testing.routes import (
    V1,
    V2,
    conditions,
    findings,
    goes_to,
    port,
    route,
    served,
    translated,
)
from mesh.model.http_route import (
    Backend,
    HeaderChange,
    PathMatch,
    PathMatchKind,
    PathRewrite,
    Redirect,
    RequestMatch,
    Rewrite,
)


def backend(name: str, weight: int = 1) -> Backend:
    return Backend(service=f"shop/{name}.shop.svc.cluster.local", port=80, weight=weight)


def test_mesh_http_route_simple_same_namespace() -> None:
    translator = translated(route(f"[{{{V1}}}]"))
    assert goes_to(served(translator)) == "v1"
    assert conditions(translator) == ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]
    assert findings(translator) == []
    assert port(translator, 90).routes == ()


def test_mesh_http_route_matching() -> None:
    translator = translated(
        route(
            f"[{{matches: [{{path: {{value: /}}}}, {{headers: [{{name: Version, value: one}}]}}], {V1}}}, "
            f"{{matches: [{{path: {{value: /v2}}}}, {{headers: [{{name: version, value: two}}]}}], {V2}}}]"
        )
    )
    assert goes_to(served(translator, "/")) == "v1"
    assert goes_to(served(translator, "/example")) == "v1"
    assert goes_to(served(translator, "/", headers={"version": "one"})) == "v1"
    assert goes_to(served(translator, "/v2")) == "v2"
    assert goes_to(served(translator, "/v2example")) == "v1"
    assert goes_to(served(translator, "/v2/example")) == "v2"
    assert goes_to(served(translator, "/foo/v2/example")) == "v1"
    assert goes_to(served(translator, "/", headers={"version": "two"})) == "v2"


def test_mesh_http_route_query_param_matching() -> None:
    translator = translated(
        route(
            f"[{{matches: [{{queryParams: [{{name: animal, value: whale}}]}}], {V1}}}, "
            f"{{matches: [{{queryParams: [{{name: animal, value: 'd.*', type: RegularExpression}}]}}], {V2}}}]"
        )
    )
    assert goes_to(served(translator, query={"animal": "whale"})) == "v1"
    assert goes_to(served(translator, query={"animal": "dolphin"})) == "v2"
    assert served(translator, query={"Animal": "whale"}) is None


def test_mesh_http_route_weight_and_traffic_split() -> None:
    translator = translated(
        route("[{backendRefs: [{name: v1, port: 80, weight: 70}, {name: v2, port: 80, weight: 30}, "
              "{name: web, port: 80, weight: 0}]}]")
    )
    found = served(translator)
    assert found is not None
    assert found.backends == (backend("v1", 70), backend("v2", 30))


def test_mesh_http_route_header_modifiers_of_rules_and_backends() -> None:
    change = "{set: [{name: X-Set, value: a}], add: [{name: X-Add, value: b}], remove: [X-Remove]}"
    translator = translated(
        route(
            f"[{{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}, "
            f"{{type: ResponseHeaderModifier, responseHeaderModifier: {change}}}], "
            "backendRefs: [{name: v1, port: 80, "
            f"filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}]}}]}}]"
        )
    )
    wanted = HeaderChange(set=(("x-set", "a"),), add=(("x-add", "b"),), remove=("x-remove",))
    found = served(translator)
    assert found is not None
    assert (found.request_headers, found.response_headers) == (wanted, wanted)
    assert found.backends[0].request_headers == wanted
    assert found.backends[0].response_headers is None


@pytest.mark.parametrize(
    ("written", "redirect"),
    [
        ("hostname: example.org, statusCode: 301", Redirect(status=301, authority="example.org")),
        ("scheme: https", Redirect(status=302, scheme="https")),
        ("port: 8083", Redirect(status=302, port=8083)),
        ("path: {type: ReplaceFullPath, replaceFullPath: /full}", Redirect(path=PathRewrite(full="/full"))),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}", Redirect(path=PathRewrite(prefix="/new"))),
        ("statusCode: 303", Redirect(status=303)),
        ("statusCode: 307", Redirect(status=307)),
        ("statusCode: 308", Redirect(status=308)),
    ],
)
def test_mesh_http_route_redirects(written: str, redirect: Redirect) -> None:
    translator = translated(route(f"[{{filters: [{{type: RequestRedirect, requestRedirect: {{{written}}}}}]}}]"))
    found = served(translator)
    assert found is not None
    assert found.redirect == redirect
    assert found.backends == ()


def test_mesh_http_route_rewrite_path() -> None:
    rewrite = "{type: URLRewrite, urlRewrite: {hostname: a.example, path: {type: T, F: /one}}}"
    prefix = rewrite.replace("T,", "ReplacePrefixMatch,").replace("F:", "replacePrefixMatch:")
    full = rewrite.replace("T,", "ReplaceFullPath,").replace("F:", "replaceFullPath:")
    translator = translated(
        route(
            f"[{{matches: [{{path: {{value: /prefix}}}}], filters: [{prefix}], {V1}}}, "
            f"{{matches: [{{path: {{value: /full}}}}], filters: [{full}], {V1}}}, {{filters: [{prefix}], {V2}}}]"
        )
    )
    found = served(translator, "/prefix/two")
    assert found is not None
    assert found.rewrite == Rewrite(authority="a.example", path=PathRewrite(prefix="/one"))
    found = served(translator, "/full/two")
    assert found is not None
    assert found.rewrite == Rewrite(authority="a.example", path=PathRewrite(full="/one"))
    found = served(translator, "/else")
    assert found is not None
    assert found.matches == (RequestMatch(path=PathMatch(PathMatchKind.PREFIX, "/")),), "there is a prefix to replace"


def test_mesh_http_route_named_rule() -> None:
    translator = translated(route(f"[{{name: main, {V1}}}]"))
    found = served(translator)
    assert found is not None
    assert found.name == "shop/r/main"


def test_mesh_consumer_route() -> None:
    grant = """
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: shop}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: b}], to: [{group: "", kind: Service}]}
"""
    rule = "[{backendRefs: [{name: v2, namespace: shop, port: 80}]}]"
    translator = translated(route(f"[{{{V1}}}]") + route(rule, name="mine", namespace="b") + grant)
    assert goes_to(served(translator)) == "v1"
    assert goes_to(served(translator, client="b")) == "v2"
    assert conditions(translator, namespace="b", name="mine")[0] == "Accepted=True/Accepted"
    alone = translated(route(rule, name="mine", namespace="b") + grant)
    assert served(alone) is None
    assert goes_to(served(alone, client="b")) == "v2"


def test_mesh_ports() -> None:
    by_name = "{group: '', kind: Service, name: web, sectionName: any}"
    translator = translated(
        route(f"[{{{V1}}}]") + route(f"[{{{V2}}}]", name="s", parent=by_name)
    )
    assert goes_to(served(translator, number=80)) == "v1"
    assert goes_to(served(translator, number=90)) == "v2"
    everywhere = translated(route(f"[{{{V1}}}]", parent="{group: '', kind: Service, name: web}"))
    assert goes_to(served(everywhere, number=80)) == goes_to(served(everywhere, number=90)) == "v1"


def test_mesh_grpc_route_weight_and_header_modifier() -> None:
    rules = (
        "[{matches: [{method: {service: a.B, method: C}}], backendRefs: [{name: v1, port: 80, weight: 3}, "
        "{name: v2, port: 80, weight: 7}], filters: [{type: RequestHeaderModifier, "
        "requestHeaderModifier: {set: [{name: x, value: y}]}}]}, "
        f"{{matches: [{{method: {{service: a.B}}}}], {V1}}}, {{matches: [{{method: {{method: D}}}}], {V2}}}, "
        f"{{matches: [{{method: {{type: RegularExpression, service: 'x[.]Y|z'}}}}], {V2}}}]"
    )
    translator = translated(route(rules, kind="GRPCRoute"))
    found = served(translator, "/a.B/C", method="POST")
    assert found is not None
    assert [one.weight for one in found.backends] == [3, 7]
    assert found.request_headers == HeaderChange(set=(("x", "y"),))
    assert goes_to(served(translator, "/a.B/Other", method="POST")) == "v1"
    assert goes_to(served(translator, "/other/D", method="POST")) == "v2"
    assert goes_to(served(translator, "/z/Any", method="POST")) == "v2"
    assert served(translator, "/a.Bc/E", method="POST") is None

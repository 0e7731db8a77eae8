"""Gateway API objects: every field of the API is taken, what would be refused there is refused here."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from resources.decode import decode_documents
from resources.encode import to_yaml
from resources.gateway import BackendTlsPolicySpec, GatewaySpec, LabelSelector, ParentReference, ReferenceGrantSpec
from resources.route_admission import (
    backend_tls_violations,
    gateway_violations,
    reference_grant_violations,
    route_violations,
)
from resources.routes import HttpRouteSpec

PARENT = "{group: '', kind: Service, name: web, namespace: a, sectionName: http, port: 80}"
HEADERS = "{set: [{name: A, value: b}], add: [{name: C, value: d}], remove: [E]}"
EVERYTHING = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: a}}
spec:
  parentRefs: [{PARENT}]
  hostnames: [a.example, '*.b.example']
  rules:
  - name: one
    matches:
    - path: {{type: PathPrefix, value: /a}}
      headers: [{{type: RegularExpression, name: X, value: y}}]
      queryParams: [{{type: Exact, name: q, value: v}}]
      method: GET
    filters:
    - {{type: RequestHeaderModifier, requestHeaderModifier: {HEADERS}}}
    - {{type: ResponseHeaderModifier, responseHeaderModifier: {HEADERS}}}
    - type: RequestMirror
      requestMirror: {{backendRef: {{name: m, port: 1}}, fraction: {{numerator: 1, denominator: 3}}}}
    - {{type: URLRewrite, urlRewrite: {{hostname: h, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /b}}}}}}
    - {{type: CORS, cors: {{allowOrigins: ['*'], allowCredentials: true, allowMethods: [GET], allowHeaders: [A],
        exposeHeaders: [B], maxAge: 5}}}}
    - {{type: ExtensionRef, extensionRef: {{group: x, kind: Y, name: z}}}}
    backendRefs: [{{group: '', kind: Service, name: b, namespace: c, port: 80, weight: 7, filters: []}}]
    timeouts: {{request: 1h, backendRequest: 10ms}}
    retry: {{codes: [503], attempts: 2, backoff: 1s}}
    sessionPersistence: {{sessionName: s, absoluteTimeout: 1h, idleTimeout: 1m, type: Cookie,
      cookieConfig: {{lifetimeType: Permanent}}}}
  - filters:
    - type: RequestRedirect
      requestRedirect: {{scheme: https, hostname: h, port: 443, statusCode: 308,
        path: {{type: ReplaceFullPath, replaceFullPath: /x}}}}
status:
  parents:
  - {{parentRef: {PARENT}, controllerName: x/y, conditions: [{{type: Accepted, status: "True", reason: Accepted}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: g}}
spec:
  parentRefs: [{{name: gw}}]
  rules: [{{name: one, matches: [{{method: {{type: Exact, service: a.B, method: C}},
    headers: [{{name: x, value: y}}]}}], filters: [], backendRefs: [{{name: b, port: 80}}], sessionPersistence: {{}}}}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: t}}
spec: {{parentRefs: [{{name: gw}}], rules: [{{name: one, backendRefs: [{{name: b, port: 80, weight: 1}}]}}]}}
---
apiVersion: gateway.networking.k8s.io/v1alpha3
kind: TLSRoute
metadata: {{name: s}}
spec: {{parentRefs: [{{name: gw}}], hostnames: [a.x], rules: [{{backendRefs: [{{name: b, port: 80}}]}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gw}}
spec:
  gatewayClassName: c
  addresses: [{{type: IPAddress, value: 10.0.0.1}}]
  infrastructure: {{labels: {{a: b}}}}
  listeners:
  - name: mesh
    hostname: h
    port: 15008
    protocol: HBONE
    tls: {{mode: Terminate}}
    allowedRoutes:
      kinds: [{{kind: HTTPRoute}}]
      namespaces: {{from: Selector, selector: {{matchExpressions: [{{key: a, operator: Exists}}]}}}}
status: {{addresses: [{{type: IPAddress, value: 10.0.0.1}}], conditions: [], listeners: []}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: c}}
spec: {{controllerName: x/y, description: d, parametersRef: {{group: '', kind: X, name: n}}}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: g}}
spec: {{from: [{{group: g, kind: K, namespace: n}}], to: [{{group: '', kind: Service}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: b}}
spec:
  targetRefs: [{{group: '', kind: Service, name: s, sectionName: http}}]
  validation: {{hostname: h, wellKnownCACertificates: System, subjectAltNames: [{{type: Hostname, hostname: x}}]}}
"""


def test_every_field_is_taken_and_written_back() -> None:
    objects, problems = decode_documents(EVERYTHING, "f")
    assert [str(problem) for problem in problems] == []
    assert len(objects) == 8
    for value in objects:
        again, problems = decode_documents(to_yaml(value), "f")
        assert (again, problems) == ([value], [])


def faults(rules: str, kind: str = "HTTPRoute", more: str = "") -> list[str]:
    text = (
        f"apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r}}\n"
        f"spec: {{parentRefs: [{{name: gw}}], rules: {rules}{more}}}\n"
    )
    objects, problems = decode_documents(text, "f")
    assert bool(objects) is not bool(problems)
    return [f"{problem.field.removeprefix('$.spec.')}: {problem.message}" for problem in problems]


BACKEND = "backendRefs: [{name: b, port: 80}]"


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ("[{matches: [{path: {value: a}}]}]", "rules[0].matches[0].path.value"),
        ("[{matches: [{path: {value: /a//b}}]}]", "rules[0].matches[0].path.value"),
        ("[{matches: [{path: {value: '/a?b'}}]}]", "rules[0].matches[0].path.value"),
        ("[{matches: [{path: {value: /a/../b}}]}]", "rules[0].matches[0].path.value"),
        ("[{matches: [{path: {type: Prefix, value: /a}}]}]", "rules[0].matches[0].path.type"),
        ("[{matches: [{path: {type: RegularExpression, value: ''}}]}]", "rules[0].matches[0].path.value"),
        ("[{matches: [{method: get}]}]", "rules[0].matches[0].method"),
        ("[{matches: [{headers: [{name: 'a b', value: c}]}]}]", "rules[0].matches[0].headers[0].name"),
        ("[{matches: [{header: []}]}]", "rules[0].matches[0].header"),
        ("[{backendRefs: [{name: b}]}]", "rules[0].backendRefs[0].port"),
        ("[{backendRefs: [{name: b, port: 80, weight: -1}]}]", "rules[0].backendRefs[0].weight"),
        ("[{timeouts: {request: 10}}]", "rules[0].timeouts.request"),
        ("[{timeouts: {request: 1.5s}}]", "rules[0].timeouts.request"),
        ("[{retry: {codes: [200]}}]", "rules[0].retry.codes[...]"),
        ("[{filters: [{type: URLRewrite}]}]", "rules[0].filters[0].urlRewrite"),
        ("[{filters: [{type: CORS, urlRewrite: {}, cors: {}}]}]", "rules[0].filters[0].urlRewrite"),
        ("[{filters: [{type: Other}]}]", "rules[0].filters[0].type"),
        (
            "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: "
            r'{set: [{name: a, value: "b\r\nc: d"}]}}]}]',
            "rules[0].filters[0].requestHeaderModifier.set[0]",
        ),
        (
            "[{filters: [{type: RequestRedirect, requestRedirect: "
            r'{path: {type: ReplaceFullPath, replaceFullPath: "/\n"}}}]}]',
            "rules[0].filters[0].requestRedirect.path",
        ),
        (
            "[{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}]}]",
            "rules[0].filters[0].urlRewrite.path",
        ),
        ("[{filters: [{type: URLRewrite, urlRewrite: {hostname: 'a/b'}}]}]", "rules[0].filters[0].urlRewrite.hostname"),
        (
            "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 101}}]}]",
            "rules[0].filters[0].requestMirror.percent",
        ),
        (
            "[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, "
            "fraction: {numerator: 2, denominator: 1}}}]}]",
            "rules[0].filters[0].requestMirror.fraction",
        ),
        (f"[{{filters: [{{type: RequestRedirect, requestRedirect: {{}}}}], {BACKEND}}}]", "rules[0].filters"),
        ("[{filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]}]", "rules[0].filters[0]"),
        (
            "[{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: "
            "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}]",
            "rules[0].filters",
        ),
        ("[{name: a}, {name: a}]", "rules"),
        ("[]", "rules"),
    ],
)
def test_malformed_http_rules(rules: str, field: str) -> None:
    found = faults(rules)
    assert found
    assert found[0].split(": ")[0].startswith(field.partition("[...]")[0])


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ("[{matches: [{method: {}}]}]", "rules[0].matches[0].method"),
        ("[{matches: [{method: {service: 'a/b'}}]}]", "rules[0].matches[0].method.service"),
        ("[{filters: [{type: URLRewrite, urlRewrite: {}}]}]", "rules[0].filters[0].type"),
    ],
)
def test_malformed_grpc_rules(rules: str, field: str) -> None:
    assert faults(rules, "GRPCRoute")[0].startswith(f"{field}: ")


def test_hosts_and_parents() -> None:
    assert faults("[{}]", more=", hostnames: ['a b']")[0].startswith("hostnames[0]: ")
    twice = HttpRouteSpec(parent_refs=(ParentReference(name="gw"), ParentReference(name="gw")))
    assert [found.message for found in route_violations(twice)] == ["a parent is named twice"]


def spec(kind: type[Any], value: dict[str, Any]) -> Any:
    return msgspec.convert(value, kind)


def test_gateways_grants_and_tls() -> None:
    listener = {"name": "a", "port": 1, "protocol": "HBONE"}
    selector = {"allowedRoutes": {"namespaces": {"from": "Selector"}}}
    twice = spec(GatewaySpec, {"gatewayClassName": "c", "listeners": [listener, {**listener, **selector}]})
    assert [found.message for found in gateway_violations(twice)] == [
        "two listeners have the same name",
        "'from: Selector' needs a selector",
    ]
    assert len(list(reference_grant_violations(ReferenceGrantSpec()))) == 2
    target = {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}]}
    for validation in ({}, {"wellKnownCACertificates": "System", "caCertificateRefs": [
            {"group": "", "kind": "ConfigMap", "name": "c"}]}):
        value = spec(BackendTlsPolicySpec, {**target, "validation": {"hostname": "h", **validation}})
        assert [found.path for found in backend_tls_violations(value)] == [("spec", "validation")]
    references = [{"group": "", "kind": "ConfigMap", "name": str(index)} for index in range(9)]
    for count, refused in ((8, []), (9, [("spec", "validation", "caCertificateRefs")])):
        validation = {"hostname": "h", "caCertificateRefs": references[:count]}
        value = spec(BackendTlsPolicySpec, {**target, "validation": validation})
        assert [found.path for found in backend_tls_violations(value)] == refused


@pytest.mark.parametrize(
    ("operator", "values", "labels", "selected"),
    [
        ("In", ["x"], {"a": "x"}, True),
        ("In", ["x"], {}, False),
        ("NotIn", ["x"], {}, True),
        ("NotIn", ["x"], {"a": "x"}, False),
        ("Exists", [], {"a": ""}, True),
        ("DoesNotExist", [], {"a": ""}, False),
        ("DoesNotExist", [], {}, True),
    ],
)
def test_label_selectors(operator: str, values: list[str], labels: dict[str, str], selected: bool) -> None:
    selector = spec(LabelSelector, {"matchExpressions": [{"key": "a", "operator": operator, "values": values}]})
    assert selector.selects(labels) is selected
    assert not spec(LabelSelector, {"matchLabels": {"b": "c"}}).selects(labels)

"""Istio's traffic, token and telemetry objects: every field is taken, what would open something is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from resources.decode import decode_documents
from resources.destination_rule import DestinationRuleSpec
from resources.encode import to_yaml
from resources.security import RequestAuthenticationSpec
from resources.service_entry import ServiceEntrySpec, WorkloadEntrySpec
from resources.telemetry import TelemetrySpec
from resources.traffic_admission import (
    destination_rule_violations,
    request_authentication_violations,
    service_entry_violations,
    virtual_service_violations,
    workload_entry_violations,
)
from resources.violation import Violation, check_expression, check_host, check_path
from resources.virtual_service import VirtualServiceSpec

EVERYTHING = """
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [a.example, '*']
  gateways: [mesh]
  exportTo: ['*']
  http:
  - name: one
    match:
    - {name: m, uri: {prefix: /}, scheme: {exact: http}, method: {exact: GET}, authority: {regex: x}, headers: {a: {}},
       port: 80, sourceLabels: {a: b}, gateways: [mesh], queryParams: {q: {exact: v}}, ignoreUriCase: true,
       withoutHeaders: {b: {exact: c}}, sourceNamespace: n, statPrefix: s}
    route:
    - {destination: {host: h, subset: s, port: {number: 80}}, weight: 100, headers: {request: {set: {a: b}}}}
    rewrite: {uri: /, authority: h, uriRegexRewrite: {match: a, rewrite: b}}
    timeout: 1.5s
    retries: {attempts: 1, perTryTimeout: 1s, retryOn: 5xx, retryRemoteLocalities: true, backoff: 1s,
      retryIgnorePreviousHosts: true}
    fault: {delay: {percent: 1, fixedDelay: 1s, percentage: {value: 0.1}}, abort: {httpStatus: 500, percent: 1}}
    mirror: {host: m}
    mirrorPercent: 1
    mirrorPercentage: {value: 1}
    mirrors: [{destination: {host: m}, percentage: {value: 1}}]
    corsPolicy: {allowOrigin: [a], allowOrigins: [{exact: b}], allowMethods: [GET], allowHeaders: [a],
      exposeHeaders: [b], maxAge: 1h, allowCredentials: true, unmatchedPreflights: FORWARD}
    headers: {request: {add: {a: b}, remove: [c]}, response: {}}
  - redirect: {uri: /, authority: a, port: 80, derivePort: FROM_PROTOCOL_DEFAULT, scheme: https, redirectCode: 302}
  - directResponse: {status: 200, body: {string: x}}
  - delegate: {name: d, namespace: n}
  tls: [{match: [{sniHosts: [a], destinationSubnets: [10.0.0.0/8], port: 443, sourceLabels: {}, gateways: [mesh],
    sourceNamespace: n}], route: [{destination: {host: h}, weight: 1}]}]
  tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: h}}]}]
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: d}
spec:
  host: h
  exportTo: ['.']
  workloadSelector: {matchLabels: {a: b}}
  trafficPolicy: &policy
    loadBalancer: {consistentHash: {httpCookie: {name: c, path: /, ttl: 0s, attributes: [{name: a}]},
      minimumRingSize: 1},
      localityLbSetting: {distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}], failoverPriority: [a],
      enabled: true}, warmup: {duration: 1s, minimumPercent: 1, aggression: 1.5}, warmupDurationSecs: 1s}
    connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, tcpKeepalive: {}, maxConnectionDuration: 1s,
      idleTimeout: 1s}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1, maxRequestsPerConnection: 1,
      maxRetries: 1, idleTimeout: 1s, h2UpgradePolicy: DEFAULT, useClientProtocol: true, maxConcurrentStreams: 1}}
    outlierDetection: {consecutiveErrors: 1, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 1,
      consecutiveGatewayErrors: 1, consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 1s, maxEjectionPercent: 1,
      minHealthPercent: 1}
    tls: {mode: MUTUAL, clientCertificate: a, privateKey: b, caCertificates: c, caCrl: d, credentialName: e,
      subjectAltNames: [f], sni: g, insecureSkipVerify: false}
    portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}, connectionPool: {}, outlierDetection: {},
      tls: {mode: DISABLE}}]
    tunnel: {protocol: CONNECT}
    proxyProtocol: {version: V2}
    retryBudget: {percent: 20, minRetryConcurrency: 3}
  subsets: [{name: s, labels: {a: b}, trafficPolicy: *policy}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: s}
spec:
  hosts: [a.example]
  addresses: [10.0.0.0/8]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 81}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [{address: 10.0.0.1, ports: {http: 82}, labels: {a: b}, network: n, locality: l, weight: 1,
    serviceAccount: s}]
  exportTo: ['*']
  subjectAltNames: [x]
status: {addresses: [{host: a.example, value: 240.0.0.1}], conditions: [{type: x, status: "True"}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w}
spec: {address: 10.0.0.1}
---
apiVersion: security.istio.io/v1beta1
kind: RequestAuthentication
metadata: {name: r}
spec:
  targetRefs: [{kind: Service, name: s}]
  jwtRules: [{issuer: i, audiences: [a], jwksUri: 'https://a/b', fromHeaders: [{name: A, prefix: 'B '}],
    fromParams: [p], fromCookies: [c], outputPayloadToHeader: D, forwardOriginalToken: true,
    outputClaimToHeaders: [{header: E, claim: f}], timeout: 5s, spaceDelimitedClaims: [s]},
    {issuer: j, jwks: '{"keys": []}'}]
---
apiVersion: telemetry.istio.io/v1alpha1
kind: Telemetry
metadata: {name: t}
spec:
  targetRef: {kind: Service, name: s}
  tracing: [{match: {mode: SERVER}, providers: [{name: p}], randomSamplingPercentage: 1, disableSpanReporting: false,
    customTags: {a: {literal: {value: b}}, c: {environment: {name: d}}, e: {header: {name: f}}, g: {formatter: {}}},
    useRequestIdForTraceSampling: true, enableIstioTags: true, disableContextPropagation: false}]
  metrics: [{providers: [{name: p}], overrides: [{match: {metric: ALL_METRICS, mode: SERVER}, disabled: true,
    tagOverrides: {a: {operation: REMOVE}}}], reportingInterval: 5s}]
  accessLogging: [{match: {mode: SERVER}, providers: [{name: p}], disabled: false, filter: {expression: 'true'}}]
"""


def test_every_field_is_taken_and_written_back() -> None:
    objects, problems = decode_documents(EVERYTHING, "f")
    assert [str(problem) for problem in problems] == []
    assert len(objects) == 6
    for value in objects:
        assert decode_documents(to_yaml(value), "f") == ([value], [])


def virtual(http: dict[str, Any]) -> list[Violation]:
    return list(virtual_service_violations(msgspec.convert({"hosts": ["a"], "http": [http]}, VirtualServiceSpec)))


ROUTE = {"route": [{"destination": {"host": "h"}}]}


@pytest.mark.parametrize(
    ("http", "path"),
    [
        ({}, ()),
        ({**ROUTE, "redirect": {}}, ()),
        ({**ROUTE, "match": [{"uri": {}}]}, ("match", 0, "uri")),
        ({**ROUTE, "match": [{"uri": {"exact": "a", "prefix": "b"}}]}, ("match", 0, "uri")),
        ({**ROUTE, "match": [{"headers": {"a b": {}}}]}, ("match", 0, "headers", "a b")),
        ({**ROUTE, "match": [{"headers": {"a": {"regex": ""}}}]}, ("match", 0, "headers", "a", "regex")),
        ({**ROUTE, "headers": {"request": {"set": {"a": "b\r\nc: d"}}}}, ("headers", "request", "set", "a")),
        ({"route": [{"destination": {"host": "h"}}] * 2}, ("route",)),
        ({"redirect": {"uri": "/\n"}}, ("redirect",)),
        ({"redirect": {"redirectCode": 200}}, ("redirect", "redirectCode")),
        ({"redirect": {"derivePort": "X"}}, ("redirect", "derivePort")),
        ({**ROUTE, "rewrite": {"uriRegexRewrite": {"match": ""}}}, ("rewrite", "uriRegexRewrite")),
        ({**ROUTE, "corsPolicy": {"allowOrigins": [{}]}}, ("corsPolicy", "allowOrigins", 0)),
    ],
)
def test_malformed_routes(http: dict[str, Any], path: tuple[str | int, ...]) -> None:
    assert virtual(http)[0].path == ("spec", "http", 0, *path)


def test_malformed_routes_of_connections() -> None:
    spec = {"hosts": ["a"], "tls": [{"match": [{}]}], "tcp": [{"match": [{"destinationSubnets": ["x"]}]}]}
    found = list(virtual_service_violations(msgspec.convert(spec, VirtualServiceSpec)))
    assert [one.path[1:4] for one in found] == [
        ("tls", 0, "route"),
        ("tls", 0, "match"),
        ("tcp", 0, "route"),
        ("tcp", 0, "match"),
    ]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"host": "a b"}, ("host",)),
        ({"host": "a", "subsets": [{"name": "s"}, {"name": "s"}]}, ("subsets",)),
        ({"host": "a", "trafficPolicy": {"portLevelSettings": [{}]}},
         ("trafficPolicy", "portLevelSettings", 0, "port")),
        ({"host": "a",
          "trafficPolicy": {"loadBalancer": {"simple": "RANDOM", "consistentHash": {"useSourceIp": True}}}},
         ("trafficPolicy", "loadBalancer")),
        ({"host": "a", "trafficPolicy": {"loadBalancer": {"consistentHash": {}}}},
         ("trafficPolicy", "loadBalancer", "consistentHash")),
        ({"host": "a", "subsets": [{"name": "s", "trafficPolicy": {"loadBalancer": {
            "localityLbSetting": {"distribute": [{"from": "a", "to": {"b": 99}}]}}}}]},
         ("subsets", 0, "trafficPolicy", "loadBalancer", "localityLbSetting", "distribute", 0)),
    ],
)
def test_malformed_destination_rules(spec: dict[str, Any], path: tuple[str | int, ...]) -> None:
    found = list(destination_rule_violations(msgspec.convert(spec, DestinationRuleSpec)))
    assert found[0].path == ("spec", *path)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"issuer": ""}, "issuer"),
        ({"issuer": "i", "jwksUri": "ftp://a/b"}, "jwksUri"),
        ({"issuer": "i", "jwksUri": "https://"}, "jwksUri"),
        ({"issuer": "i", "jwksUri": "https://a:x/"}, "jwksUri"),
        ({"issuer": "i", "jwks": "{}"}, "jwks"),
        ({"issuer": "i", "jwks": "nothing"}, "jwks"),
        ({"issuer": "i", "jwks": "[" * 100_000}, "jwks"),
        ({"issuer": "i", "jwks": '{"keys": []}', "jwksUri": "https://a/b"}, "jwks"),
        ({"issuer": "i", "outputPayloadToHeader": "a b"}, "outputPayloadToHeader"),
        ({"issuer": "i", "outputClaimToHeaders": [{"header": "a", "claim": ""}]}, "outputClaimToHeaders"),
        ({"issuer": "i", "fromHeaders": [{"name": "a:b"}]}, "fromHeaders"),
    ],
)
def test_malformed_token_rules(rule: dict[str, Any], field: str) -> None:
    spec = msgspec.convert({"jwtRules": [rule]}, RequestAuthenticationSpec)
    assert [one.path[3] for one in request_authentication_violations(spec)] == [field]


def test_selectors_and_targets_exclude_each_other() -> None:
    both = {"selector": {"matchLabels": {"a": "b"}}, "targetRefs": [{"kind": "Service", "name": "s"}]}
    assert list(request_authentication_violations(msgspec.convert(both, RequestAuthenticationSpec)))
    text = f"apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: t}}\nspec: {both}\n"
    assert decode_documents(text.replace("'", '"'), "f")[0] == []
    assert msgspec.convert(both, TelemetrySpec).targets[0].name == "s"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"hosts": []}, "hosts"),
        ({"hosts": ["a/b"]}, "hosts"),
        ({"hosts": ["a"], "addresses": ["x"]}, "addresses"),
        ({"hosts": ["a"], "ports": [{"number": 1, "name": "a"}, {"number": 1, "name": "b"}]}, "ports"),
        ({"hosts": ["a"], "endpoints": [{"address": "10.0.0.1"}]}, "endpoints"),
        ({"hosts": ["a"], "resolution": "STATIC", "endpoints": [{"address": "a.example"}]}, "endpoints"),
        ({"hosts": ["a"], "resolution": "STATIC", "endpoints": [{}]}, "endpoints"),
        ({"hosts": ["a"], "resolution": "DNS", "endpoints": [{"address": "a b"}]}, "endpoints"),
        ({"hosts": ["a"], "resolution": "STATIC", "workloadSelector": {}, "endpoints": [{"address": "10.0.0.1"}]},
         "endpoints"),
    ],
)
def test_malformed_service_entries(spec: dict[str, Any], field: str) -> None:
    assert [one.path[1] for one in service_entry_violations(msgspec.convert(spec, ServiceEntrySpec))][:1] == [field]


def test_entries_by_name() -> None:
    by_name = WorkloadEntrySpec(address="a.example")
    assert list(workload_entry_violations(by_name, ("spec",), names=True)) == []
    assert [one.path for one in workload_entry_violations(by_name, ("spec",), names=False)] == [("spec", "address")]


def test_texts() -> None:
    assert list(check_host(("x",), "*.a.example")) == []
    assert list(check_host(("x",), "a.*.example"))
    assert list(check_host(("x",), "a\n"))
    assert list(check_path(("x",), "/a")) == []
    assert list(check_path(("x",), "a"))
    assert list(check_expression(("x",), "a" * 1025))
    assert list(check_expression(("x",), r"/v[12]/.*")) == []


@pytest.mark.parametrize("expression", ["(", "a**", "(?=a)", r"(a)\1", "\ud800", "a{1001}"])
def test_what_re2_does_not_take(expression: str) -> None:
    [found] = check_expression(("x",), expression)
    assert "regular expression" in found.message

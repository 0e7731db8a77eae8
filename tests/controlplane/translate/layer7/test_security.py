"""Policies that are attached to what waypoints serve."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.testing.routes import destination, findings, policy, translated
from controlplane.translate.settings import MeshSettings
from mesh.addresses import parse_cidr
from mesh.model.http_route import TextMatch, TextMatchKind
from mesh.model.request_policy import (
    AddressAttribute,
    AddressCondition,
    Attribute,
    Condition,
    ExternalAuthorizer,
    JwtRule,
    PortCondition,
    RequestAction,
    RequestClause,
    RequestPolicy,
    RequestRule,
    TokenSource,
)
from mesh.model.waypoint import LogFormat, Metric, SpanCollector, SpanTag, TagSource, Telemetry

ASKER = ExternalAuthorizer(name="asker", service="a/b", port=1, grpc=True)
SETTINGS = MeshSettings(authorizers=(ASKER,))
TO_WEB = "targetRefs: [{kind: Service, name: web}]"


def only(spec: str) -> RequestPolicy:
    [found] = destination(translated(policy(f"{TO_WEB}, {spec}"), settings=SETTINGS)).policies
    return found


def parts(rule: str) -> tuple[tuple[RequestClause, ...], ...]:
    [found] = only(f"rules: [{rule}]").rules
    return found.parts


def condition(attribute: Attribute, *values: TextMatch, **more: Any) -> Condition:
    return Condition(attribute=attribute, values=values, **more)


def exact(text: str, **more: Any) -> TextMatch:
    return TextMatch(TextMatchKind.EXACT, text, **more)


def test_sources() -> None:
    written = (
        "{from: [{source: {principals: ['spiffe://cluster.local/ns/a/sa/b'], notNamespaces: [x*], "
        "requestPrincipals: ['*'], ipBlocks: [10.0.0.0/8], notRemoteIpBlocks: [192.0.2.1], "
        "serviceAccounts: [c, d/e], trustDomains: [cluster.local]}}, {source: {namespaces: ['*y']}}]}"
    )
    first, second = parts(written)[0]
    assert set(first.conditions) == {
        condition(Attribute.PRINCIPAL, exact("cluster.local/ns/a/sa/b")),
        condition(Attribute.NAMESPACE, TextMatch(TextMatchKind.PREFIX, "x"), inverted=True),
        condition(Attribute.SERVICE_ACCOUNT, exact("shop/c"), exact("d/e")),
        condition(Attribute.REQUEST_PRINCIPAL, TextMatch(TextMatchKind.PRESENT)),
        condition(Attribute.TRUST_DOMAIN, exact("cluster.local")),
    }
    assert first.addresses == (
        AddressCondition(attribute=AddressAttribute.SOURCE, networks=(parse_cidr("10.0.0.0/8"),)),
        AddressCondition(attribute=AddressAttribute.REMOTE, networks=(parse_cidr("192.0.2.1"),), inverted=True),
    )
    assert second.conditions == (condition(Attribute.NAMESPACE, TextMatch(TextMatchKind.SUFFIX, "y")),)


def test_operations() -> None:
    written = (
        "{to: [{operation: {hosts: [A.example], methods: [GET], notMethods: [PUT], paths: ['/a*', '/x/{*}/y/{**}'], "
        "ports: ['80'], notPorts: ['90']}}]}"
    )
    [[clause]] = parts(written)
    assert clause.conditions == (
        condition(Attribute.HOST, exact("A.example", ignore_case=True)),
        condition(Attribute.METHOD, exact("GET")),
        condition(Attribute.METHOD, exact("PUT"), inverted=True),
        condition(
            Attribute.PATH,
            TextMatch(TextMatchKind.PREFIX, "/a"),
            TextMatch(TextMatchKind.REGEX, "/x/[^/]+/y/.*"),
        ),
    )
    assert clause.ports == (PortCondition(ports=(80,)), PortCondition(ports=(90,), inverted=True))


@pytest.mark.parametrize(
    ("key", "attribute", "name"),
    [
        ("request.headers[X-Token]", Attribute.HEADER, "x-token"),
        ("request.headers[Host]", Attribute.HOST, ""),
        ("request.auth.claims[iss]", Attribute.CLAIM, "iss"),
        ("request.auth.claims[a][b]", Attribute.CLAIM, "a.b"),
        ("request.auth.principal", Attribute.REQUEST_PRINCIPAL, ""),
        ("request.auth.audiences", Attribute.AUDIENCE, ""),
        ("request.auth.presenter", Attribute.PRESENTER, ""),
        ("source.principal", Attribute.PRINCIPAL, ""),
        ("source.namespace", Attribute.NAMESPACE, ""),
        ("connection.sni", Attribute.SNI, ""),
    ],
)
def test_conditions(key: str, attribute: Attribute, name: str) -> None:
    [[clause]] = parts(f"{{when: [{{key: '{key}', values: [v], notValues: [n]}}]}}")
    assert clause.conditions == (
        condition(attribute, exact("v"), name=name),
        condition(attribute, exact("n"), name=name, inverted=True),
    )


def test_conditions_on_addresses_and_ports() -> None:
    [[ip], [port]] = parts(
        "{when: [{key: destination.ip, values: [10.0.0.1]}, {key: destination.port, notValues: ['80']}]}"
    )
    assert ip.addresses == (
        AddressCondition(attribute=AddressAttribute.DESTINATION, networks=(parse_cidr("10.0.0.1"),)),
    )
    assert port.ports == (PortCondition(ports=(80,), inverted=True),)


@pytest.mark.parametrize(
    ("action", "left"),
    [
        ("ALLOW", ()),
        ("AUDIT", ()),
        ("DENY", (RequestRule(()),)),
        ("CUSTOM, provider: {name: asker}", (RequestRule(()),)),
    ],
)
def test_what_cannot_be_decided_grants_nothing(action: str, left: tuple[RequestRule, ...]) -> None:
    spec = f"{TO_WEB}, action: {action}, rules: [{{when: [{{key: odd.key, values: [x]}}]}}]"
    translator = translated(policy(spec), settings=SETTINGS)
    assert destination(translator).policies[0].rules == left
    assert any("'odd.key' is not known" in text for text in findings(translator, "AuthorizationPolicy"))


def test_no_rules_and_an_empty_rule() -> None:
    assert only("action: ALLOW").rules == ()
    assert only("rules: [{}]").rules == (RequestRule(()),)


def test_actions_and_dry_run() -> None:
    assert only("action: DENY").action is RequestAction.DENY
    assert only("action: AUDIT").action is RequestAction.AUDIT
    tried = policy(TO_WEB, meta=", annotations: {istio.io/dry-run: 'true'}")
    assert destination(translated(tried)).policies[0].dry_run


def test_external_authorizers() -> None:
    found = destination(
        translated(policy(f"{TO_WEB}, action: CUSTOM, provider: {{name: asker}}, rules: [{{}}]"), settings=SETTINGS)
    )
    assert found.authorizers == (ASKER,)
    assert (found.policies[0].action, found.policies[0].authorizer) == (RequestAction.CUSTOM, "asker")


def test_an_authorizer_that_is_not_configured_denies() -> None:
    translator = translated(policy(f"{TO_WEB}, action: CUSTOM, provider: {{name: who}}, rules: [{{}}]"))
    found = destination(translator)
    assert (found.policies[0].action, found.policies[0].rules) == (RequestAction.DENY, (RequestRule(()),))
    assert found.authorizers == ()
    assert any("'who' is not configured" in text for text in findings(translator, "AuthorizationPolicy"))


GATEWAY = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]"
CLASS = "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambimesh-waypoint}]"


@pytest.mark.parametrize(
    ("text", "counts", "told"),
    [
        (policy(TO_WEB), True, ""),
        (policy("targetRef: {kind: Service, name: web}"), True, ""),
        (policy(GATEWAY), True, ""),
        (policy(CLASS, namespace="istio-system"), True, ""),
        (policy(CLASS), False, "only policies in istio-system are for a class"),
        (policy(TO_WEB, namespace="b"), False, "TargetNotFound"),
        (policy("targetRefs: [{kind: Service, name: web, namespace: b}]"), False, "of the policy's own namespace"),
        (policy("targetRefs: [{kind: Gateway, name: waypoint}]"), False, "of the policy's own namespace"),
        (policy("targetRefs: [{group: x, kind: Bucket, name: web}]"), False, "targets are"),
        (policy(GATEWAY.replace("name: waypoint", "name: x")), False, "TargetNotFound"),
        (policy("selector: {matchLabels: {app: web}}"), False, ""),
        (policy(""), False, ""),
    ],
)
@pytest.mark.parametrize("kind", ["AuthorizationPolicy", "RequestAuthentication"])
def test_what_is_attached_to_what(text: str, counts: bool, told: str, kind: str) -> None:
    translator = translated(text.replace("AuthorizationPolicy", kind))
    found = destination(translator)
    assert bool(found.policies or found.authentication) is counts
    said = " ".join(findings(translator, kind))
    assert told in said
    assert bool(said) is (bool(told) or (kind == "RequestAuthentication" and not counts))


def test_a_policy_of_a_service_without_waypoint_is_told() -> None:
    free = "\n---\n{apiVersion: v1, kind: Service, metadata: {name: s, namespace: b}, spec: {ports: [{port: 80}]}}\n"
    translator = translated(policy("targetRefs: [{kind: Service, name: s}]", namespace="b") + free)
    [told] = findings(translator, "AuthorizationPolicy")
    assert "AncestorNotBound" in told
    assert "NOT enforced" in told


def test_tokens() -> None:
    spec = (
        f"{TO_WEB}, jwtRules: [{{issuer: i, audiences: [a], jwksUri: 'https://i/keys', forwardOriginalToken: true, "
        "outputPayloadToHeader: X-Payload, outputClaimToHeaders: [{header: X-Sub, claim: sub}], timeout: 2s, "
        "fromHeaders: [{name: X-Jwt, prefix: 'T '}], fromParams: [q], fromCookies: [c]}, {issuer: j}]"
    )
    [found] = destination(translated(policy(spec, kind="RequestAuthentication"))).authentication
    assert found.key == "shop/p"
    assert found.rules == (
        JwtRule(
            issuer="i",
            audiences=("a",),
            jwks_uri="https://i/keys",
            sources=(
                TokenSource(header="x-jwt", prefix="T "),
                TokenSource(header=None, query="q"),
                TokenSource(header=None, cookie="c"),
            ),
            claims_to_headers=(("sub", "x-sub"),),
            output_payload_header="x-payload",
            forward_token=True,
            timeout_seconds=2.0,
        ),
        JwtRule(issuer="j"),
    )


def test_telemetry_is_laid_over() -> None:
    mesh = policy("tracing: [{randomSamplingPercentage: 1, customTags: {a: {literal: {value: m}}}}]",
                  kind="Telemetry", namespace="istio-system")
    own = policy("accessLogging: [{filter: {expression: 'response.code >= 400'}}]", kind="Telemetry",
                 meta=", annotations: {ambimesh.dev/access-log-format: json}")
    target = policy(f"{TO_WEB}, tracing: [{{randomSamplingPercentage: 50}}], "
                    "metrics: [{overrides: [{disabled: true}]}]", kind="Telemetry", name="t")
    assert destination(translated(mesh + own + target)).telemetry == Telemetry(
        log_format=LogFormat.JSON,
        log_failures_only=True,
        sampling_percent=50.0,
        metrics_off=tuple(sorted(Metric)),
        tags=(SpanTag(name="a", value="m"),),
    )
    codes = own.replace("response.code >= 400", "response.code >= 500 || response.code == 429")
    assert destination(translated(mesh + codes)).telemetry.log_codes == ((429, 429), (500, 599))
    off = policy("accessLogging: [{disabled: true}], tracing: [{disableSpanReporting: true}]", kind="Telemetry")
    told = destination(translated(mesh + off)).telemetry
    assert told.log_format is LogFormat.OFF
    assert not told.report_spans
    template = own.replace("json}", "template, ambimesh.dev/access-log-template: '%REQ%'}")
    assert destination(translated(template)).telemetry.log_template == "%REQ%"


def test_who_takes_spans() -> None:
    one, other = SpanCollector(service="o/one", port=4318), SpanCollector(service="o/other", port=1, path="/x")
    settings = MeshSettings(
        collectors=(("one", one), ("other", other)), default_collector="one", sampling_percent=1.0
    )
    assert destination(translated(settings=settings)).telemetry == Telemetry(collector=one, sampling_percent=1.0)
    text = policy(
        "tracing: [{providers: [{name: other}], customTags: {h: {header: {name: X-Team, defaultValue: n}}, "
        "e: {environment: {name: HOME}}}}]",
        kind="Telemetry",
    )
    translator = translated(text, settings=settings)
    assert destination(translator).telemetry == Telemetry(
        collector=other,
        sampling_percent=1.0,
        tags=(
            SpanTag(name="e", source=TagSource.ENVIRONMENT, value="HOME"),
            SpanTag(name="h", source=TagSource.HEADER, value="x-team", default="n"),
        ),
    )
    assert findings(translator, "Telemetry") == []


def test_metrics_are_switched_off_one_by_one() -> None:
    text = policy(
        "metrics: [{overrides: [{disabled: true}, {match: {metric: REQUEST_COUNT}, disabled: false}, "
        "{match: {metric: REQUEST_SIZE, mode: CLIENT}, disabled: false}, "
        "{tagOverrides: {source_app: {operation: REMOVE}}}]}]",
        kind="Telemetry",
    )
    told = destination(translated(text)).telemetry
    assert told.metrics_off == tuple(sorted(set(Metric) - {Metric.REQUEST_COUNT}))
    assert told.labels_off == ("source_app",)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("accessLogging: [{filter: {expression: 'x'}}]", "everything is logged"),
        ("tracing: [{customTags: {a: {formatter: {value: b}}}}]", "customTags"),
        ("tracing: [{randomSamplingPercentage: 1}]", "names no provider"),
        ("tracing: [{providers: [{name: nobody}]}]", "none called 'nobody'"),
        ("tracing: [{enableIstioTags: true}]", "enableIstioTags"),
        ("metrics: [{overrides: [{match: {metric: REQUESTS}, disabled: true}]}]", "none of ALL_METRICS"),
        ("metrics: [{overrides: [{match: {metric: TCP_SENT_BYTES}, disabled: true}]}]", "ALL_METRICS only"),
        ("metrics: [{overrides: [{match: {customMetric: mine}, disabled: true}]}]", "no metric 'mine'"),
        ("metrics: [{overrides: [{tagOverrides: {a: {value: 'x'}}}]}]", "given no value"),
        (
            "metrics: [{overrides: [{match: {metric: REQUEST_SIZE}, tagOverrides: {a: {operation: REMOVE}}}]}]",
            "ALL_METRICS only",
        ),
        ("metrics: [{reportingInterval: 5s}]", "reportingInterval"),
        ("selector: {matchLabels: {a: b}}", "sidecars"),
    ],
)
def test_what_of_telemetry_has_no_effect(spec: str, told: str) -> None:
    assert told in " ".join(findings(translated(policy(spec, kind="Telemetry")), "Telemetry"))

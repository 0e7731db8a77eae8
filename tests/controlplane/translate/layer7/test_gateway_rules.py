"""Filters, backends and all else that a rule of an HTTPRoute or GRPCRoute may hold."""

from __future__ import annotations

import re

import pytest

from controlplane.testing.routes import (
    V1,
    V2,
    conditions,
    destination,
    findings,
    port,
    route,
    served,
    translated,
)
from controlplane.translate.layer7.durations import seconds, seconds_or_none
from controlplane.translate.layer7.headers import header_change
from controlplane.translate.layer7.notes import Notes
from mesh.model.http_route import (
    Backend,
    DirectResponse,
    Fraction,
    RateLimit,
    RequestMatch,
    Rewrite,
    SessionPersistence,
    TextMatch,
    TextMatchKind,
)
from resources.objects import ObjectKey


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("{name: absent, port: 80}", "BackendNotFound"),
        ("{name: v1, port: 81}", "BackendNotFound"),
        ("{name: v1, kind: Bucket, group: x.example}", "InvalidKind"),
        ("{name: other, namespace: b, port: 80}", "RefNotPermitted"),
    ],
)
def test_an_invalid_backend_keeps_its_share(reference: str, reason: str) -> None:
    translator = translated(route(f"[{{backendRefs: [{{name: v1, port: 80}}, {reference}]}}]"))
    found = served(translator)
    assert found is not None
    assert found.backends[0].invalid is None
    assert found.backends[1].invalid
    assert found.backends[1].weight == 1
    assert conditions(translator) == ["Accepted=True/Accepted", f"ResolvedRefs=False/{reason}"]
    assert any(reason in text for text in findings(translator))


def test_reference_grants() -> None:
    other = "\n---\n{apiVersion: v1, kind: Service, metadata: {name: o, namespace: b}, spec: {ports: [{port: 80}]}}\n"
    text = route("[{backendRefs: [{name: o, namespace: b, port: 80}]}]") + other
    grant = """
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: PLACE}
spec:
  from: [{group: gateway.networking.k8s.io, kind: KIND, namespace: shop}]
  to: [{group: "", kind: Service, name: NAME}]
"""
    for place, kind, name, reason in (
        ("b", "HTTPRoute", "o", "ResolvedRefs"),
        ("shop", "HTTPRoute", "o", "RefNotPermitted"),
        ("b", "GRPCRoute", "o", "RefNotPermitted"),
        ("b", "HTTPRoute", "p", "RefNotPermitted"),
    ):
        made = grant.replace("PLACE", place).replace("KIND", kind).replace("NAME", name)
        assert conditions(translated(text + made))[1].endswith(f"/{reason}")


def test_filters_that_are_not_supported_are_answered_500() -> None:
    extension = "{type: ExtensionRef, extensionRef: {group: x, kind: Y, name: z}}"
    translator = translated(route(f"[{{filters: [{extension}], {V1}}}]"))
    found = served(translator)
    assert found is not None
    assert found.direct_response == DirectResponse(status=500)
    assert conditions(translator)[-1] == "PartiallyInvalid=True/UnsupportedValue"
    translator = translated(route(f"[{{backendRefs: [{{name: v1, port: 80, filters: [{extension}]}}]}}]"))
    found = served(translator)
    assert found is not None
    assert found.backends[0].invalid


def test_mirrors_cors_timeouts_retries_sessions() -> None:
    mirrors = (
        "{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 42}}, "
        "{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, fraction: "
        "{numerator: 1, denominator: 1000}}}, "
        "{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 0}}, "
        "{type: RequestMirror, requestMirror: {backendRef: {name: absent, port: 80}}}"
    )
    cors = (
        "{type: CORS, cors: {allowOrigins: ['https://a.example', 'https://*.b.example', '*'], allowMethods: [GET], "
        "allowCredentials: true, maxAge: 60}}"
    )
    translator = translated(
        route(
            f"[{{filters: [{mirrors}, {cors}], {V1}, timeouts: {{request: 1m30s, backendRequest: 500ms}}, "
            "retry: {codes: [500, 503], backoff: 100ms}, "
            "sessionPersistence: {sessionName: s, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}}]"
        )
    )
    found = served(translator)
    assert found is not None
    assert [one.share for one in found.mirrors] == [Fraction(42), Fraction(1, 1000)]
    assert found.cors is not None
    exact, wild, anything = found.cors.allow_origins
    assert exact == TextMatch(TextMatchKind.EXACT, "https://a.example", ignore_case=True)
    assert re.fullmatch(wild.value, "https://x.b.example")
    assert not re.fullmatch(wild.value, "https://evil.example/.b.example")
    assert anything.kind is TextMatchKind.PRESENT
    assert (found.cors.max_age_seconds, found.cors.allow_credentials) == (60, True)
    assert (found.timeout_seconds, found.backend_timeout_seconds) == (90.0, 0.5)
    assert found.retry is not None
    assert (found.retry.attempts, found.retry.statuses, found.retry.backoff_seconds) == (1, (500, 503), 0.1)
    assert found.session == SessionPersistence(name="s", lifetime_seconds=3600.0)
    assert conditions(translator)[1] == "ResolvedRefs=False/BackendNotFound", "the mirror's backend"


def test_a_host_header_is_the_authority() -> None:
    translator = translated(
        route(
            f"[{{matches: [{{headers: [{{name: Host, value: a.example}}]}}], {V1}, filters: "
            "[{type: RequestHeaderModifier, requestHeaderModifier: "
            "{set: [{name: host, value: b.example}, {name: Content-Length, value: '0'}]}}]}]"
        )
    )
    [found] = port(translator).routes
    assert found.matches == (RequestMatch(authority=TextMatch(TextMatchKind.EXACT, "a.example")),)
    assert found.rewrite == Rewrite(authority="b.example")
    assert found.request_headers is None
    assert any("content-length" in text for text in findings(translator))


@pytest.mark.parametrize("name", ["Transfer-Encoding", "connection", ":path", "TE"])
def test_what_frames_a_message_cannot_be_changed(name: str) -> None:
    notes = Notes(ObjectKey("HTTPRoute", "a", "r"))
    assert header_change(notes, "x", [(name, "v")], [(name, "v")], [name]) == (None, None)
    assert len(notes.findings) == 1


def test_of_several_entries_for_a_header_the_first_counts() -> None:
    translator = translated(
        route(f"[{{matches: [{{headers: [{{name: A, value: '1'}}, {{name: a, value: '2'}}]}}], {V1}}}]")
    )
    assert served(translator, headers={"a": "1"}) is not None
    assert served(translator, headers={"a": "2"}) is None


def test_rate_limits() -> None:
    limits = (
        "[{name: all, tokens: 5, interval: 1s, byIdentity: true}, "
        "{name: some, tokens: 1, interval: 1m, byHeader: X-User, shared: true, rules: [named]}]"
    )
    annotated = f', annotations: {{ambimesh.dev/rate-limits: "{limits}"}}'
    translator = translated(
        route(f"[{{name: named, matches: [{{path: {{value: /n}}}}], {V1}}}, {{{V2}}}]", meta=annotated)
    )
    every = RateLimit(name="shop/HTTPRoute/r/all", tokens=5, interval_seconds=1.0, by_identity=True)
    some = RateLimit(
        name="shop/HTTPRoute/r/some", tokens=1, interval_seconds=60.0, by_header="x-user", shared=True
    )
    named, other = served(translator, "/n"), served(translator, "/")
    assert named is not None
    assert other is not None
    assert (named.rate_limits, other.rate_limits) == ((every, some), (every,))


def test_rate_limits_of_a_service_make_a_route_where_there_is_none() -> None:
    limits = "[{name: all, tokens: 5, interval: 1s}]"
    limited = f"""
apiVersion: v1
kind: Service
metadata: {{name: limited, namespace: shop, annotations: {{ambimesh.dev/rate-limits: "{limits}"}}}}
spec: {{ports: [{{name: http, port: 80}}]}}
"""
    translator = translated(limited)
    [found] = destination(translator, "shop/limited.shop.svc.cluster.local").ports
    [made] = found.routes
    assert made.rate_limits == (RateLimit(name="shop/Service/limited/all", tokens=5, interval_seconds=1.0),)
    assert made.backends == (Backend(service="shop/limited.shop.svc.cluster.local", port=80),)


def test_durations() -> None:
    assert seconds("1h2m3s4ms") == pytest.approx(3723.004)
    assert seconds("1.5s") == 1.5
    assert seconds_or_none("0s") is None
    assert seconds_or_none(None) is None

"""VirtualService: what is served, to whom, and what has no effect."""

from __future__ import annotations

import pytest

from controlplane.testing.routes import V1, findings, goes_to, port, route, served, translated
from controlplane.translate.layer7.virtual_matches import joined, string_match
from controlplane.translate.translator import Translator
from mesh.model.http_route import (
    Cors,
    DirectResponse,
    Fault,
    Fraction,
    HeaderChange,
    HttpRoute,
    NamedMatch,
    PathMatch,
    PathMatchKind,
    PathRewrite,
    Redirect,
    RequestMatch,
    Retry,
    Rewrite,
    TextMatch,
    TextMatchKind,
)
from resources.virtual_service import HttpMatchRequest, StringMatch

TO_V1 = "route: [{destination: {host: v1}}]"
TO_V2 = "route: [{destination: {host: v2}}]"


def virtual(http: str, *, name: str = "vs", namespace: str = "shop", hosts: str = "[web]", more: str = "") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{hosts: {hosts}, http: {http}{more}}}
"""


def only(translator: Translator) -> HttpRoute:
    [found] = port(translator).routes
    return found


def test_routes_are_served_in_their_authors_order() -> None:
    translator = translated(
        virtual(f"[{{match: [{{uri: {{prefix: /}}}}], {TO_V1}}}, {{match: [{{uri: {{exact: /x}}}}], {TO_V2}}}]")
    )
    assert goes_to(served(translator, "/x")) == "v1"
    assert goes_to(served(translator, "/x", number=90)) == "v1"
    assert findings(translator, "VirtualService") == []


def test_what_is_matched() -> None:
    translator = translated(
        virtual(
            "[{match: [{uri: {regex: '/a.*'}, ignoreUriCase: true, method: {exact: GET}, scheme: {exact: http}, "
            "authority: {prefix: a.}, headers: {X-A: {regex: y}, X-B: {}, ':method': {exact: PUT}}, "
            "withoutHeaders: {X-C: {exact: z}}, queryParams: {q: {exact: '1'}}, sourceNamespace: b, "
            f"sourceLabels: {{v: '1', a: '2'}}}}], {TO_V1}}}]"
        )
    )
    text = TextMatch
    assert only(translator).matches == (
        RequestMatch(
            path=PathMatch(PathMatchKind.REGEX, "/a.*", ignore_case=True),
            method=text(TextMatchKind.EXACT, "GET"),
            authority=text(TextMatchKind.PREFIX, "a."),
            scheme=text(TextMatchKind.EXACT, "http"),
            headers=(
                NamedMatch("x-a", text(TextMatchKind.REGEX, "y")),
                NamedMatch("x-b", text(TextMatchKind.PRESENT)),
                NamedMatch("x-c", text(TextMatchKind.EXACT, "z", inverted=True)),
            ),
            query=(NamedMatch("q", text(TextMatchKind.EXACT, "1")),),
            source_namespaces=("b",),
            source_labels=(("a", "2"), ("v", "1")),
        ),
    )


def test_a_match_that_cannot_be_decided_takes_nothing() -> None:
    translator = translated(
        virtual(f"[{{match: [{{headers: {{':path': {{exact: /x}}}}}}], {TO_V1}}}, {{{TO_V2}}}]")
    )
    assert goes_to(served(translator)) == "v2"
    assert any("takes no request" in text for text in findings(translator, "VirtualService"))


def test_ports_and_gateways_of_matches() -> None:
    translator = translated(
        virtual(
            f"[{{match: [{{port: 90}}], {TO_V2}}}, {{match: [{{gateways: [my-ingress]}}], {TO_V2}}}, {{{TO_V1}}}]"
        )
    )
    assert goes_to(served(translator, number=80)) == "v1"
    assert goes_to(served(translator, number=90)) == "v2"


def test_weights_subsets_and_ports() -> None:
    translator = translated(
        virtual(
            "[{route: [{destination: {host: v1.shop.svc.cluster.local, subset: s, port: {number: 80}}, weight: 75}, "
            "{destination: {host: v2}, weight: 25, headers: {request: {set: {X: y}}, response: {remove: [Z]}}}, "
            "{destination: {host: web}, weight: 0}]}]"
        )
    )
    first, second = only(translator).backends
    assert (first.subset, first.weight, first.port) == ("s", 75, 80)
    assert (second.weight, second.request_headers) == (25, HeaderChange(set=(("x", "y"),)))
    assert second.response_headers == HeaderChange(remove=("z",))


def test_a_destination_with_several_ports_and_none_named_is_called_on_the_port_dialled() -> None:
    translator = translated(virtual("[{route: [{destination: {host: web}}]}]"))
    assert [one.port for number in (80, 90) for one in port(translator, number).routes[0].backends] == [80, 90]


def test_a_destination_that_is_none_is_invalid() -> None:
    translator = translated(virtual("[{route: [{destination: {host: absent}}]}]"))
    [backend] = only(translator).backends
    assert backend.invalid == "no service has the host 'absent.shop.svc.cluster.local'"
    assert any("BackendNotFound" in text for text in findings(translator, "VirtualService"))


@pytest.mark.parametrize(
    ("match", "rewrite", "wanted"),
    [
        ("{uri: {prefix: /a}}", "{uri: /b}", Rewrite(path=PathRewrite(prefix="/b"))),
        ("{uri: {exact: /a}}", "{uri: /b, authority: h}", Rewrite(authority="h", path=PathRewrite(full="/b"))),
        ("{uri: {regex: /a}}", "{uri: /b}", Rewrite(path=PathRewrite(full="/b"))),
        (
            "{uri: {prefix: /a}}",
            "{uriRegexRewrite: {match: a, rewrite: 'b\\1'}}",
            Rewrite(path=PathRewrite(regex="a", substitution="b\\1")),
        ),
    ],
)
def test_rewrites(match: str, rewrite: str, wanted: Rewrite) -> None:
    assert only(translated(virtual(f"[{{match: [{match}], rewrite: {rewrite}, {TO_V1}}}]"))).rewrite == wanted


def test_a_rewrite_without_a_match_replaces_the_beginning_of_the_path() -> None:
    found = only(translated(virtual(f"[{{rewrite: {{uri: /b/}}, {TO_V1}}}]")))
    assert found.rewrite == Rewrite(path=PathRewrite(prefix="/b/"))
    assert found.matches == (RequestMatch(path=PathMatch(PathMatchKind.TEXT_PREFIX, "/")),)


def test_answers_made_here() -> None:
    redirect = "redirect: {uri: /n, authority: h, port: 81, scheme: https, redirectCode: 308}"
    assert only(translated(virtual(f"[{{{redirect}}}]"))).redirect == Redirect(
        status=308, scheme="https", authority="h", port=81, path=PathRewrite(full="/n")
    )
    assert only(translated(virtual("[{redirect: {authority: h}}]"))).redirect == Redirect(status=301, authority="h")
    direct = "[{directResponse: {status: 418, body: {string: tea}}}]"
    assert only(translated(virtual(direct))).direct_response == DirectResponse(status=418, body="tea")
    encoded = "[{directResponse: {status: 200, body: {bytes: dGVh}}}]"
    assert only(translated(virtual(encoded))).direct_response == DirectResponse(status=200, body="tea")
    binary = translated(virtual("[{directResponse: {status: 200, body: {bytes: '/w=='}}}]"))
    assert only(binary).direct_response == DirectResponse(status=200)
    assert findings(binary, "VirtualService")


def test_mirrors() -> None:
    text = (
        f"[{{{TO_V1}, mirrors: [{{destination: {{host: v2}}, percentage: {{value: 0.5}}}}, "
        "{destination: {host: v2}, percentage: {value: 0}}], mirror: {host: v2}, mirrorPercentage: {value: 20}}]"
    )
    assert [one.share for one in only(translated(virtual(text))).mirrors] == [Fraction(5000, 1_000_000), Fraction(20)]


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("delay: {fixedDelay: 1.5s, percentage: {value: 10}}", Fault(delay_seconds=1.5, delay_share=Fraction(10))),
        ("delay: {fixedDelay: 1s, percent: 7}", Fault(delay_seconds=1.0, delay_share=Fraction(7))),
        ("abort: {httpStatus: 503, percentage: {value: 100}}", Fault(abort_status=503)),
        ("abort: {grpcStatus: unavailable, percentage: {value: 50}}",
         Fault(abort_grpc_status=14, abort_share=Fraction(50))),
        ("abort: {httpStatus: 503}", None),
        ("delay: {fixedDelay: 1s}", None),
        ("delay: {exponentialDelay: 1s, percentage: {value: 1}}", None),
        ("abort: {http2Error: X, percentage: {value: 1}}", None),
    ],
)
def test_faults(written: str, fault: Fault | None) -> None:
    translator = translated(virtual(f"[{{{TO_V1}, fault: {{{written}}}}}]"))
    assert only(translator).fault == fault
    assert bool(findings(translator, "VirtualService")) is (fault is None)


def test_retries_and_timeouts() -> None:
    text = "retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,reset, 429,odd', retryIgnorePreviousHosts: false}"
    translator = translated(virtual(f"[{{{TO_V1}, timeout: 10s, {text}}}]"))
    found = only(translator)
    assert found.timeout_seconds == 10.0
    assert found.retry == Retry(
        attempts=3,
        statuses=(429,),
        conditions=("5xx", "reset"),
        per_try_timeout_seconds=2.0,
        other_endpoints=False,
    )
    assert any("'odd'" in text for text in findings(translator, "VirtualService"))
    default = only(translated(virtual(f"[{{{TO_V1}, retries: {{attempts: 2}}}}]"))).retry
    assert default is not None
    assert default.statuses == (503,)
    assert "connect-failure" in default.conditions
    assert only(translated(virtual(f"[{{{TO_V1}, retries: {{attempts: 0}}, timeout: 0s}}]"))).retry is None


def test_cors_and_headers() -> None:
    text = (
        "corsPolicy: {allowOrigins: [{regex: 'https://.*'}], allowOrigin: ['*'], allowMethods: [GET], maxAge: 24h, "
        "allowCredentials: true, unmatchedPreflights: IGNORE}, "
        "headers: {request: {add: {A: b}, set: {Host: h, ':authority': i}}, response: {set: {C: d}}}"
    )
    found = only(translated(virtual(f"[{{{TO_V1}, {text}}}]")))
    assert found.cors == Cors(
        allow_origins=(TextMatch(TextMatchKind.REGEX, "https://.*"), TextMatch(TextMatchKind.PRESENT)),
        allow_methods=("GET",),
        max_age_seconds=86400,
        allow_credentials=True,
    )
    assert found.request_headers == HeaderChange(add=(("a", "b"),))
    assert found.rewrite == Rewrite(authority="i")
    assert found.response_headers == HeaderChange(set=(("c", "d"),))


def test_several_for_one_host_follow_one_another() -> None:
    first = virtual(f"[{{match: [{{uri: {{prefix: /a}}}}], {TO_V1}}}]", name="a")
    second = virtual(f"[{{match: [{{uri: {{prefix: /a}}}}], {TO_V2}}}, {{{TO_V2}}}]", name="b")
    translator = translated(first + second)
    assert goes_to(served(translator, "/a")) == "v1"
    assert goes_to(served(translator, "/b")) == "v2"


def test_the_exact_host_counts_before_a_wildcard_and_the_longer_wildcard_before_others() -> None:
    every = virtual(f"[{{{TO_V2}}}]", name="every", hosts="['*']")
    shops = virtual(f"[{{{TO_V1}}}]", name="shops", hosts="['*.shop.svc.cluster.local']")
    assert goes_to(served(translated(every + shops))) == "v1"
    assert goes_to(served(translated(every + shops + virtual(f"[{{{TO_V2}}}]")))) == "v2"


def test_other_namespaces_concern_their_own_clients_only() -> None:
    translator = translated(
        virtual(
            "[{route: [{destination: {host: v2.shop.svc.cluster.local}}]}]",
            namespace="b",
            hosts="[web.shop.svc.cluster.local]",
        )
        + virtual(f"[{{{TO_V1}}}]")
    )
    assert goes_to(served(translator)) == "v1"
    assert goes_to(served(translator, client="b")) == "v2"
    assert any("only clients of b" in text for text in findings(translator, "VirtualService"))


@pytest.mark.parametrize(
    ("exported", "clients"),
    [("['*']", {"", "b", "shop"}), ("['.']", {"shop"}), ("[b]", {"b"}), ("['~']", set[str]())],
)
def test_exports(exported: str, clients: set[str]) -> None:
    translator = translated(virtual(f"[{{{TO_V1}}}]", more=f", exportTo: {exported}"))
    assert {one for one in ("", "b", "shop") if served(translator, client=one) is not None} == clients


def test_delegates() -> None:
    root = virtual(
        "[{match: [{uri: {prefix: /a}, headers: {x: {exact: y}}}], timeout: 5s, delegate: {name: inner}}]"
    )
    inner = f"""
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {{name: inner, namespace: shop}}
spec:
  http:
  - {{name: one, match: [{{uri: {{prefix: /a/b}}}}, {{uri: {{prefix: /z}}}}], {TO_V1}}}
  - {{match: [{{uri: {{exact: /c}}}}], {TO_V2}}}
  - {{timeout: 1s, {TO_V2}}}
"""
    translator = translated(root + inner)
    first, second = port(translator).routes
    header = NamedMatch("x", TextMatch(TextMatchKind.EXACT, "y"))
    assert first.name == "shop/inner/one"
    assert first.matches == (RequestMatch(path=PathMatch(PathMatchKind.TEXT_PREFIX, "/a/b"), headers=(header,)),)
    assert (first.timeout_seconds, second.timeout_seconds) == (5.0, 1.0)
    assert second.matches == (RequestMatch(path=PathMatch(PathMatchKind.TEXT_PREFIX, "/a"), headers=(header,)),)
    assert any("contradicts" in text for text in findings(translator, "VirtualService"))


def test_a_delegate_that_is_none_is_told() -> None:
    translator = translated(virtual("[{delegate: {name: absent}}]"))
    assert port(translator).routes == ()
    assert any("DelegateNotFound" in text for text in findings(translator, "VirtualService"))


def test_joining_matches() -> None:
    a = HttpMatchRequest(uri=StringMatch(prefix="/a"))
    b = HttpMatchRequest(method=StringMatch(exact="GET"))
    assert joined([a], []) == [a]
    assert joined([], [b]) == [b]
    assert joined([a], [b]) == [HttpMatchRequest(uri=StringMatch(prefix="/a"), method=StringMatch(exact="GET"))]
    assert joined([a], [HttpMatchRequest(uri=StringMatch(exact="/b"))]) is None
    assert string_match(StringMatch()) == TextMatch(TextMatchKind.PRESENT)


def test_gateway_api_routes_count_before_virtual_services() -> None:
    translator = translated(virtual(f"[{{{TO_V2}}}]") + route(f"[{{{V1}}}]"))
    assert goes_to(served(translator)) == "v1"
    assert goes_to(served(translator, number=90)) == "v2"
    assert any("keep one of both" in text for text in findings(translator, "VirtualService"))


def test_connections() -> None:
    more = (
        ", tls: [{match: [{sniHosts: [A.example]}], route: [{destination: {host: v1}}]}], "
        "tcp: [{match: [{port: 80}], route: [{destination: {host: v2}}]}, "
        "{match: [{sourceLabels: {a: b}}], route: [{destination: {host: v1}}]}, "
        "{route: [{destination: {host: v1}, weight: 9}, {destination: {host: v2}, weight: 1}]}]"
    )
    translator = translated(virtual("[]", more=more))
    tls, last = port(translator, 90).stream_routes
    assert tls.server_names == ("a.example",)
    assert [one.weight for one in last.backends] == [9, 1]
    assert len(port(translator, 80).stream_routes) == 3
    assert any("takes no connection" in text for text in findings(translator, "VirtualService"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (virtual(f"[{{{TO_V1}}}]", hosts="[absent]"), "is no service of the mesh"),
        (virtual(f"[{{{TO_V1}}}]", more=", gateways: [ingress]"), "for gateways only"),
    ],
)
def test_what_has_no_effect_is_told(text: str, told: str) -> None:
    translator = translated(text)
    assert any(told in finding for finding in findings(translator, "VirtualService"))
    assert served(translator) is None


def test_rate_limits_of_a_route_and_of_its_delegate() -> None:
    def limited(name: str, rule: str) -> str:
        limits = f"[{{name: {name}, tokens: 5, interval: 1s, rules: [{rule}]}}]"
        return f'annotations: {{ambimesh.dev/rate-limits: "{limits}"}}'

    root = virtual(f"[{{name: out, delegate: {{name: inner}}}}, {{name: other, {TO_V1}}}]").replace(
        "name: vs,", f"name: vs, {limited('root', 'out')},"
    )
    inner = virtual(f"[{{name: in, {TO_V2}}}]", name="inner", hosts="[]").replace(
        "name: inner,", f"name: inner, {limited('own', 'in')},", 1
    )
    first, second = port(translated(root + inner)).routes
    assert [one.name.rpartition("/")[2] for one in first.rate_limits] == ["root", "own"]
    assert second.rate_limits == ()

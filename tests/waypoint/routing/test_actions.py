"""What a route does to a request: header changes, rewrites, redirects, CORS."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.errors import ConfigurationError
from mesh.model.http_route import (
    Cors,
    HeaderChange,
    PathMatch,
    PathMatchKind,
    PathRewrite,
    Redirect,
    TextMatch,
    TextMatchKind,
)
from waypoint.http.message import Headers, RequestHead
from waypoint.routing.cors import CompiledCors
from waypoint.routing.header_change import CompiledChange, compile_change
from waypoint.routing.redirect import compile_redirect, split_authority
from waypoint.routing.rewrite import compile_path

MakeHead = Callable[..., RequestHead]

# -- headers -----------------------------------------------------------------------------------------------------------


def test_headers_are_removed_then_set_then_added() -> None:
    change = CompiledChange(
        HeaderChange(set=(("X-Set", "1"), ("new", "2")), add=(("x-add", "b"), ("gone", "back")), remove=("Gone",))
    )
    headers: Headers = [(b"x-set", b"0"), (b"x-set", b"00"), (b"x-add", b"a"), (b"gone", b"x"), (b"kept", b"y")]
    change.apply(headers)
    assert headers == [
        *((b"x-add", b"a"), (b"kept", b"y")),
        *((b"x-set", b"1"), (b"new", b"2"), (b"x-add", b"b"), (b"gone", b"back")),
    ]


@pytest.mark.parametrize("name", ["host", "Host", ":authority"])
def test_the_host_is_the_authority(name: str, head: MakeHead) -> None:
    request = head()
    CompiledChange(HeaderChange(set=((name, "other:8080"),))).apply_to_request(request)
    assert (request.authority, request.headers) == (b"other:8080", [])


@pytest.mark.parametrize(
    "change",
    [
        HeaderChange(set=(("content-length", "1"),)),
        HeaderChange(add=(("Transfer-Encoding", "chunked"),)),
        HeaderChange(remove=("connection",)),
        HeaderChange(remove=("host",)),
        HeaderChange(set=(("x", "a\r\nx-evil: 1"),)),
        HeaderChange(set=(("x", "a\0"),)),
        HeaderChange(set=(("x y", "a"),)),
        HeaderChange(add=(("", "a"),)),
        HeaderChange(add=((":path", "/"),)),
        HeaderChange(add=(("x", "\ud800"),)),
    ],
)
def test_what_would_break_the_message_is_refused(change: HeaderChange) -> None:
    with pytest.raises(ConfigurationError):
        CompiledChange(change)


def test_no_change_is_none() -> None:
    assert compile_change(None) is None
    assert compile_change(HeaderChange()) is None
    assert compile_change(HeaderChange(remove=("a",))) is not None


# -- rewrites ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "prefix", "replacement", "wanted"),
    [
        # The Gateway API's table (HTTPPathModifier, replacePrefixMatch).
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo?a=b", "/foo", "/", "/?a=b"),
        ("/foo?a=/foo", "/foo", "/xyz", "/xyz?a=/foo"),
        ("/foo", "/", "/xyz", "/xyz/foo"),
        ("/", "/", "/xyz", "/xyz/"),
    ],
)
def test_a_prefix_of_segments_is_replaced(path: str, prefix: str, replacement: str, wanted: str) -> None:
    change = compile_path(PathRewrite(prefix=replacement), PathMatch(PathMatchKind.PREFIX, prefix))
    assert change(path.encode()) == wanted.encode()


@pytest.mark.parametrize(
    ("path", "prefix", "replacement", "wanted"),
    [
        ("/v1/a", "/v1", "/v2", "/v2/a"),
        ("/v10", "/v1", "/v2", "/v20"),
        ("/v1/a", "/v1/", "/", "/a"),
        ("/v1/a", "/v1", "/", "/a"),
        ("/v1?q", "/v1", "", "/?q"),
    ],
)
def test_a_prefix_of_characters_is_replaced(path: str, prefix: str, replacement: str, wanted: str) -> None:
    change = compile_path(PathRewrite(prefix=replacement), PathMatch(PathMatchKind.TEXT_PREFIX, prefix))
    assert change(path.encode()) == wanted.encode()


def test_other_rewrites_of_the_path() -> None:
    exact = PathMatch(PathMatchKind.EXACT, "/a")
    assert compile_path(PathRewrite(prefix="/b"), exact)(b"/a?q=1") == b"/b?q=1"
    assert compile_path(PathRewrite(full="/b"), None)(b"/a/c?q=1") == b"/b?q=1"
    assert compile_path(PathRewrite(full="/b?x=1"), None)(b"/a/c?q=1") == b"/b?x=1"
    assert compile_path(PathRewrite(full="b"), None)(b"/a") == b"/b"
    assert compile_path(PathRewrite(prefix="/b"), None)(b"/a") == b"/b/a"
    by_expression = compile_path(PathRewrite(regex="/service/([^/]+)(/.*)", substitution=r"\2/instance/\1"), None)
    assert by_expression(b"/service/foo/v1/api?a=/service/x/y") == b"/v1/api/instance/foo?a=/service/x/y"
    assert compile_path(PathRewrite(regex="/a", substitution=""), None)(b"/a") == b"/"


@pytest.mark.parametrize(
    "rewrite",
    [
        PathRewrite(),
        PathRewrite(full="/a", prefix="/b"),
        PathRewrite(full="/a b"),
        PathRewrite(prefix="/a\r\n"),
        PathRewrite(regex="(", substitution=""),
        PathRewrite(regex="a", substitution="\n"),
    ],
)
def test_bad_rewrites_are_refused(rewrite: PathRewrite) -> None:
    with pytest.raises(ConfigurationError):
        compile_path(rewrite, None)


# -- redirects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("redirect", "authority", "location"),
    [
        (Redirect(authority="example.org"), "echo", "http://example.org/a?b"),
        (Redirect(authority="example.org"), "echo:8080", "http://example.org:8080/a?b"),
        (Redirect(authority="example.org:99"), "echo:8080", "http://example.org:99/a?b"),
        (Redirect(scheme="https"), "echo:8080", "https://echo/a?b"),
        (Redirect(scheme="https", port=8443), "echo", "https://echo:8443/a?b"),
        (Redirect(scheme="https", port=443), "echo", "https://echo/a?b"),
        (Redirect(port=80), "echo:8080", "http://echo/a?b"),
        (Redirect(port=8081), "echo", "http://echo:8081/a?b"),
        (Redirect(path=PathRewrite(full="/x")), "[::1]:80", "http://[::1]/x?b"),
        (Redirect(path=PathRewrite(full="/x")), "[::1]", "http://[::1]/x?b"),
        (Redirect(path=PathRewrite(prefix="/x")), "echo", "http://echo/x?b"),
    ],
)
def test_redirected(redirect: Redirect, authority: str, location: str, head: MakeHead) -> None:
    answer = compile_redirect(redirect, PathMatch(PathMatchKind.PREFIX, "/a"))(head("/a?b", authority=authority))
    assert answer.status == 302
    assert answer.headers == [(b"location", location.encode())]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_status_is_the_routes(status: int, head: MakeHead) -> None:
    assert compile_redirect(Redirect(status=status), None)(head()).status == status


@pytest.mark.parametrize(
    "redirect",
    [Redirect(status=200), Redirect(authority="a b"), Redirect(scheme="ht\ntp"), Redirect(authority="a/b")],
)
def test_bad_redirects_are_refused(redirect: Redirect) -> None:
    with pytest.raises(ConfigurationError):
        compile_redirect(redirect, None)


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        (b"a", b"a", b""),
        (b"a:1", b"a", b"1"),
        (b"a:", b"a", b""),
        (b"[::1]:1", b"[::1]", b"1"),
        (b"[::1]", b"[::1]", b""),
        (b"::1", b"::1", b""),
        (b"a:b", b"a:b", b""),
        (b"", b"", b""),
    ],
)
def test_authorities_are_split(authority: bytes, host: bytes, port: bytes) -> None:
    assert split_authority(authority) == (host, port)


# -- CORS --------------------------------------------------------------------------------------------------------------


def _cors(*origins: str, **fields: object) -> CompiledCors:
    matches = tuple(TextMatch(TextMatchKind.EXACT, origin) for origin in origins)
    return CompiledCors(Cors(allow_origins=matches, **fields))  # type: ignore[arg-type]


def _preflight(head: MakeHead, origin: str = "https://a") -> RequestHead:
    return head(
        method="OPTIONS", origin=origin, access_control_request_method="PUT", access_control_request_headers="x-a, x-b"
    )


def test_a_preflight_is_answered(head: MakeHead) -> None:
    cors = _cors("https://a", allow_methods=("GET", "PUT"), allow_headers=("x-a",), max_age_seconds=5)
    answer = cors.preflight(_preflight(head))
    assert answer is not None
    assert answer.status == 200
    assert dict(answer.headers) == {
        b"access-control-allow-origin": b"https://a",
        b"vary": b"origin",
        b"access-control-allow-methods": b"GET, PUT",
        b"access-control-allow-headers": b"x-a",
        b"access-control-max-age": b"5",
        b"content-length": b"0",
    }


def test_wildcards_are_named_back_where_credentials_are_allowed(head: MakeHead) -> None:
    for credentials, origin, methods, headers in [
        (False, b"*", b"*", b"*"),
        (True, b"https://a", b"PUT", b"x-a, x-b"),
    ]:
        cors = _cors("*", allow_methods=("*",), allow_headers=("*",), allow_credentials=credentials)
        answer = cors.preflight(_preflight(head))
        assert answer is not None
        fields = dict(answer.headers)
        assert fields[b"access-control-allow-origin"] == origin
        assert fields[b"access-control-allow-methods"] == methods
        assert fields[b"access-control-allow-headers"] == headers
        assert (b"access-control-allow-credentials" in fields) is credentials


def test_another_origin_is_told_nothing(head: MakeHead) -> None:
    answer = _cors("https://a").preflight(_preflight(head, "https://b"))
    assert answer is not None
    assert answer.headers == [(b"content-length", b"0")]
    assert _cors("https://a", forward_unmatched_preflights=True).preflight(_preflight(head, "https://b")) is None


def test_what_is_no_preflight_goes_on(head: MakeHead) -> None:
    cors = _cors("*")
    assert cors.preflight(head(method="OPTIONS", origin="https://a")) is None
    assert cors.preflight(head(method="OPTIONS", access_control_request_method="PUT")) is None
    assert cors.preflight(head(method="GET", origin="https://a", access_control_request_method="PUT")) is None


def test_an_answer_carries_the_routes_word_and_not_the_upstreams() -> None:
    cors = _cors("https://a", expose_headers=("x-b",), allow_credentials=True)
    headers: Headers = [(b"access-control-allow-origin", b"*"), (b"x", b"y")]
    cors.answer(b"https://a", headers)
    assert headers == [
        *((b"x", b"y"), (b"access-control-allow-origin", b"https://a"), (b"vary", b"origin")),
        *((b"access-control-allow-credentials", b"true"), (b"access-control-expose-headers", b"x-b")),
    ]
    for origin in (None, b"", b"https://b"):
        untouched: Headers = [(b"x", b"y")]
        cors.answer(origin, untouched)
        assert untouched == [(b"x", b"y")]

"""The indexed table finds what a linear scan over all routes finds."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.errors import ConfigurationError
from mesh.identity import SpiffeId
from mesh.model.http_route import NamedMatch, PathMatch, PathMatchKind, RequestMatch, TextMatch, TextMatchKind
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.path import without_query
from waypoint.routing.request_conditions import compile_rest
from waypoint.routing.table import RouteTable, indexed_path

# -- a naive oracle: one alternative after the other, nothing compiled -------------------------------------------------


def _text(match: TextMatch, text: str | None) -> bool:
    def holds() -> bool:
        if text is None:
            return False
        flags = re.IGNORECASE if match.ignore_case else 0
        have, want = (text.lower(), match.value.lower()) if match.ignore_case else (text, match.value)
        match match.kind:
            case TextMatchKind.PRESENT:
                return True
            case TextMatchKind.EXACT:
                return have == want
            case TextMatchKind.PREFIX:
                return have.startswith(want)
            case TextMatchKind.SUFFIX:
                return have.endswith(want)
            case TextMatchKind.REGEX:
                return re.fullmatch(match.value, text, flags) is not None

    return holds() is not match.inverted


def _path(match: PathMatch, path: str) -> bool:
    have, want = (path.lower(), match.value.lower()) if match.ignore_case else (path, match.value)
    match match.kind:
        case PathMatchKind.EXACT:
            return have == want
        case PathMatchKind.TEXT_PREFIX:
            return have.startswith(want)
        case PathMatchKind.PREFIX:
            bare = want.removesuffix("/")
            return have == bare or have.startswith(bare + "/")
        case PathMatchKind.REGEX:
            return re.fullmatch(match.value, path, re.IGNORECASE if match.ignore_case else 0) is not None


def _header(head: RequestHead, name: str) -> str | None:
    values = [value.decode() for key, value in head.headers if key.decode() == name]
    return ",".join(values) if values else None


def _query(head: RequestHead, name: str) -> str | None:
    for pair in head.path.decode().partition("?")[2].split("&"):
        key, _, value = pair.partition("=")
        if key == name:
            return value
    return None


def _matches(match: RequestMatch, head: RequestHead, client: Client) -> bool:
    return (
        (match.path is None or _path(match.path, head.path.decode().partition("?")[0]))
        and (match.method is None or _text(match.method, head.method.decode()))
        and (match.authority is None or _text(match.authority, head.authority.decode().lower()))
        and (match.scheme is None or _text(match.scheme, head.scheme.decode()))
        and all(_text(header.match, _header(head, header.name)) for header in match.headers)
        and all(_text(query.match, _query(head, query.name)) for query in match.query)
        and (not match.source_namespaces or client.namespace in match.source_namespaces)
        and all(client.labels.get(name) == value for name, value in match.source_labels)
    )


# -- small alphabets, so that matches meet requests --------------------------------------------------------------------

_SEGMENT = st.sampled_from(["a", "b", "ab", "B"])
_PATH = st.lists(_SEGMENT, max_size=3).map(lambda parts: "/" + "/".join(parts)) | st.just("/a/")
_WORD = st.sampled_from(["x", "y", "xy", "X", ""])
_EXPRESSION = st.sampled_from(["x.*", "[xy]+", "/a(/.*)?", "/(a|b)", ".*b"])
_TEXT = st.builds(
    TextMatch,
    st.sampled_from([kind for kind in TextMatchKind if kind is not TextMatchKind.REGEX]),
    _WORD,
    st.booleans(),
    st.booleans(),
) | st.builds(TextMatch, st.just(TextMatchKind.REGEX), _EXPRESSION, st.booleans(), st.booleans())
_EXACT = st.builds(TextMatch, st.just(TextMatchKind.EXACT), _WORD)
_PATH_KINDS = [kind for kind in PathMatchKind if kind is not PathMatchKind.REGEX]
_PATH_MATCH = st.builds(PathMatch, st.sampled_from(_PATH_KINDS), _PATH, st.booleans()) | st.builds(
    PathMatch, st.just(PathMatchKind.REGEX), _EXPRESSION, st.booleans()
)
_NAMED = st.builds(NamedMatch, st.sampled_from(["h", "i"]), _EXACT | _TEXT)
_MATCH = st.builds(
    RequestMatch,
    path=st.none() | _PATH_MATCH,
    method=st.none() | st.builds(TextMatch, st.just(TextMatchKind.EXACT), st.sampled_from(["GET", "POST"])),
    authority=st.none() | st.builds(TextMatch, st.just(TextMatchKind.PREFIX), st.sampled_from(["echo", "no"])),
    headers=st.lists(_NAMED, max_size=2).map(tuple),
    query=st.lists(_NAMED, max_size=1).map(tuple),
    source_namespaces=st.sampled_from([(), (), ("n",), ("n", "m")]),
    source_labels=st.sampled_from([(), (), (("app", "a"),)]),
)
_HEAD = st.builds(
    lambda path, query, method, headers: RequestHead(
        method=method,
        path=path.encode() + query,
        authority=b"Echo:80",
        headers=[(name, value.encode()) for name, value in headers],
    ),
    _PATH,
    st.sampled_from([b"", b"?h=x", b"?i=y&h=xy", b"?h"]),
    st.sampled_from([b"GET", b"POST"]),
    st.lists(st.tuples(st.sampled_from([b"h", b"i"]), _WORD), max_size=3),
)
_CLIENT = st.builds(
    lambda namespace, labels: Client(
        identity=SpiffeId("cluster.local", namespace, "c"),
        address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 1)),
        destination=SocketAddress(parse_ip("10.0.0.2"), 80),
        labels=labels,
    ),
    st.sampled_from(["n", "m", "o"]),
    st.sampled_from([{}, {"app": "a"}, {"app": "b"}]),
)


@settings(max_examples=600)
@given(st.lists(_MATCH, max_size=24), st.lists(_HEAD, min_size=1, max_size=8), _CLIENT)
def test_the_first_that_matches_is_found(matches: list[RequestMatch], heads: list[RequestHead], client: Client) -> None:
    table = RouteTable([(match, number) for number, match in enumerate(matches)])
    for head in heads:
        wanted = next((number for number, match in enumerate(matches) if _matches(match, head, client)), None)
        assert table.find(head, without_query(head.path), client) == wanted


@settings(max_examples=100)
@given(
    st.lists(st.tuples(_PATH, _WORD), min_size=60, max_size=160),
    st.lists(_HEAD, min_size=1, max_size=8),
    _CLIENT,
)
def test_many_routes_told_apart_by_a_header(
    routes: list[tuple[str, str]], heads: list[RequestHead], client: Client
) -> None:
    """Enough of them that runs are divided by the header, and not merged with the runs of shorter prefixes."""
    matches = [
        RequestMatch(
            path=PathMatch(PathMatchKind.PREFIX, path),
            headers=(NamedMatch("h", TextMatch(TextMatchKind.EXACT, value)),) if value else (),
        )
        for path, value in routes
    ]
    table = RouteTable([(match, number) for number, match in enumerate(matches)])
    for head in heads:
        wanted = next((number for number, match in enumerate(matches) if _matches(match, head, client)), None)
        assert table.find(head, without_query(head.path), client) == wanted


def test_several_fields_of_one_name_are_one_value(
    head: Callable[..., RequestHead], client: Callable[..., Client]
) -> None:
    """A second field must not be hidden behind the first."""
    match = RequestMatch(headers=(NamedMatch("h", TextMatch(TextMatchKind.EXACT, "a")),))
    table = RouteTable([(match, "found")])
    request = head("/")
    request.headers = [(b"h", b"a"), (b"h", b"b")]
    assert table.find(request, b"/", client()) is None


@pytest.mark.parametrize("name", ["host", "Host", ":authority"])
def test_the_host_header_is_the_authority(
    name: str, head: Callable[..., RequestHead], client: Callable[..., Client]
) -> None:
    test = compile_rest(RequestMatch(headers=(NamedMatch(name, TextMatch(TextMatchKind.EXACT, "echo")),)))
    assert test is not None
    assert test(head(authority="ECHO"), client())
    assert not test(head(authority="other"), client())


def test_pseudo_headers_and_scheme_can_be_matched(
    head: Callable[..., RequestHead], client: Callable[..., Client]
) -> None:
    for name, value in [(":method", "GET"), (":scheme", "http"), (":path", "/a?b")]:
        test = compile_rest(RequestMatch(headers=(NamedMatch(name, TextMatch(TextMatchKind.EXACT, value)),)))
        assert test is not None
        assert test(head("/a?b"), client()) is True
        assert test(RequestHead(method=b"PUT", path=b"/", authority=b"", scheme=b"https"), client()) is False
    scheme = compile_rest(RequestMatch(scheme=TextMatch(TextMatchKind.EXACT, "https")))
    assert scheme is not None
    assert not scheme(head(), client())


def test_a_bad_expression_is_an_error() -> None:
    bad = RequestMatch(path=PathMatch(PathMatchKind.REGEX, "(?=a)"))
    with pytest.raises(ConfigurationError, match="RE2"):
        RouteTable([(bad, 0)])


def test_the_root_prefix_matches_everything_that_is_a_path() -> None:
    assert indexed_path(PathMatch(PathMatchKind.PREFIX, "/")) == b""
    assert indexed_path(PathMatch(PathMatchKind.PREFIX, "/A/", True)) == b"/a"
    assert indexed_path(PathMatch(PathMatchKind.EXACT, "/a/")) == b"/a/"

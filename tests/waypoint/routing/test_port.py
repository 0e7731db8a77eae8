"""A port's routes: precedence, consumer routes, what cannot be compiled, connections."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.model.http_route import (
    Backend,
    DirectResponse,
    Fraction,
    HeaderChange,
    HttpRoute,
    Mirror,
    PathMatch,
    PathMatchKind,
    PathRewrite,
    Redirect,
    RequestMatch,
    Rewrite,
    TextMatch,
    TextMatchKind,
)
from mesh.model.waypoint import DestinationPort, StreamRoute
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.port import PortRoutes
from waypoint.routing.query import parameter, parameters, query_of
from waypoint.routing.route import CompiledRoute
from waypoint.routing.text import compile_any, compile_text, encoded

KEY = b"k" * 16
MakeHead = Callable[..., RequestHead]
MakeClient = Callable[..., Client]


def _prefix(path: str) -> tuple[RequestMatch, ...]:
    return (RequestMatch(path=PathMatch(PathMatchKind.PREFIX, path)),)


def _routes(*routes: HttpRoute, **fields: object) -> PortRoutes:
    return PortRoutes("demo/echo", DestinationPort(number=80, routes=routes, **fields), KEY)  # type: ignore[arg-type]


def test_without_routes_requests_go_straight_to_the_destination(head: MakeHead, client: MakeClient) -> None:
    match = _routes().select(head("/x"), client())
    assert match is not None
    assert match.route.straight
    backend = match.route.pick_backend(lambda: 0.5)
    assert backend is not None
    assert (backend.backend.service, backend.backend.port) == ("demo/echo", 80)


def test_routes_without_a_match_leave_nothing(head: MakeHead, client: MakeClient) -> None:
    routes = _routes(HttpRoute(name="a", matches=_prefix("/a")), HttpRoute(name="b", matches=_prefix("/a/b")))
    found = routes.select(head("/a/b?c"), client())
    assert found is not None
    assert found.route.name == "a"
    assert not found.route.straight
    assert found.route.pick_backend(lambda: 0.5) is None
    assert routes.select(head("/b"), client()) is None


def test_consumer_routes_replace_the_producers(head: MakeHead, client: MakeClient) -> None:
    routes = _routes(
        HttpRoute(name="producer"), consumer_routes=(("mine", (HttpRoute(name="consumer", matches=_prefix("/c")),)),)
    )
    assert routes.select(head("/c"), client("mine")).route.name == "consumer"  # type: ignore[union-attr]
    assert routes.select(head("/other"), client("mine")) is None
    assert routes.select(head("/c"), client("theirs")).route.name == "producer"  # type: ignore[union-attr]


def test_each_alternative_rewrites_what_it_has_matched(head: MakeHead, client: MakeClient) -> None:
    route = HttpRoute(
        name="r",
        matches=_prefix("/long/prefix") + _prefix("/short"),
        rewrite=Rewrite(authority="other", path=PathRewrite(prefix="/x")),
    )
    for path, wanted in [("/long/prefix/a", b"/x/a"), ("/short/a", b"/x/a")]:
        request = head(path)
        match = _routes(route).select(request, client())
        assert match is not None
        match.rewrite(request)
        assert (request.path, request.authority) == (wanted, b"other")


@pytest.mark.parametrize(
    "route",
    [
        HttpRoute(name="r", matches=_prefix("/a"), request_headers=HeaderChange(set=(("x", "a\nb"),))),
        HttpRoute(name="r", matches=_prefix("/a"), redirect=Redirect(status=200)),
        HttpRoute(name="r", matches=_prefix("/a"), rewrite=Rewrite(path=PathRewrite())),
        HttpRoute(name="r", matches=_prefix("/a"), backends=(Backend(service="s", port=1, weight=-1),)),
        HttpRoute(name="r", matches=_prefix("/a"), direct_response=DirectResponse(status=101)),
    ],
)
def test_a_route_that_cannot_be_used_keeps_its_place(route: HttpRoute, head: MakeHead, client: MakeClient) -> None:
    """Its requests must not fall through to a route that was not meant for them."""
    routes = _routes(route, HttpRoute(name="next"))
    found = routes.select(head("/a"), client())
    assert found is not None
    assert found.route.name == "r"
    assert found.route.refused
    assert found.route.pick_backend(lambda: 0.5) is None
    assert routes.select(head("/b"), client()).route.name == "next"  # type: ignore[union-attr]
    assert len(routes.problems) == 1
    assert "route r" in routes.problems[0]


def test_a_match_that_cannot_be_read_matches_nothing(head: MakeHead, client: MakeClient) -> None:
    bad = RequestMatch(path=PathMatch(PathMatchKind.REGEX, "("))
    routes = _routes(HttpRoute(name="r", matches=(bad, *_prefix("/a"))))
    assert routes.select(head("/a"), client()) is not None
    assert routes.select(head("/("), client()) is None
    assert len(routes.problems) == 1


def test_direct_responses_and_mirrors() -> None:
    route = CompiledRoute(
        HttpRoute(
            name="r",
            direct_response=DirectResponse(status=503, body="bye", headers=(("X-A", "b"),)),
            mirrors=(
                Mirror(backend=Backend(service="all", port=1)),
                Mirror(backend=Backend(service="half", port=1), share=Fraction(1, 2)),
            ),
        ),
        KEY,
    )
    answer = route.direct_answer()
    assert answer is not None
    assert (answer.status, answer.headers) == (503, [(b"x-a", b"b"), (b"content-length", b"3")])
    assert route.direct_body == b"bye"
    assert [mirror.backend.service for mirror in route.pick_mirrors(lambda: 0.49)] == ["all", "half"]
    assert [mirror.backend.service for mirror in route.pick_mirrors(lambda: 0.5)] == ["all"]
    assert CompiledRoute(HttpRoute(name="r"), KEY).direct_answer() is None


def test_connections_are_routed_by_server_name() -> None:
    to = [Backend(service=name, port=1) for name in "abc"]
    routes = _routes(
        stream_routes=(
            StreamRoute(name="exact", server_names=("A.example",), backends=(to[0],)),
            StreamRoute(name="wild", server_names=("*.example",), backends=(to[1],)),
            StreamRoute(name="any", backends=(to[2],)),
        )
    )

    def chosen(server_name: str | None) -> str:
        found = routes.select_stream(server_name, lambda: 0.5)
        assert found is not None
        return found[0].name

    assert chosen("a.example") == "exact"
    assert chosen("x.y.example") == "wild"
    assert chosen("example") == "any"
    assert chosen(None) == "any"
    assert _routes().select_stream("a", lambda: 0.5) is None


def test_query_parameters_are_decoded() -> None:
    target = b"/p?a=1&b=%20x+y&a=2&&c&%64=e&=f"
    assert query_of(target).startswith(b"a=1")
    assert query_of(b"/p") == b""
    assert [parameter(target, name) for name in (b"a", b"b", b"c", b"d", b"e")] == [b"1", b" x y", b"", b"e", None]
    assert parameter(b"/a", b"a") is None
    assert parameters(target) == [(b"a", b"1"), (b"b", b" x y"), (b"a", b"2"), (b"c", b""), (b"d", b"e")]
    assert parameters(b"/p") == []
    assert parameter(b"/?" + b"&" * 100_000 + b"a=1", b"a") is None


def test_any_of_several_texts() -> None:
    exact = [TextMatch(TextMatchKind.EXACT, value) for value in "ab"]
    suffix = TextMatch(TextMatchKind.SUFFIX, "z")
    assert [compile_any(exact)(text) for text in (b"a", b"b", b"c", None)] == [True, True, False, False]
    assert [compile_any([*exact, suffix])(text) for text in (b"a", b"xz", b"c", None)] == [True, True, False, False]
    assert compile_any([TextMatch(TextMatchKind.EXACT, "a", inverted=True)])(None)
    assert compile_text(TextMatch(TextMatchKind.PRESENT))(b"")
    assert encoded("ä") == b"\xc3\xa4"

"""What the operator translates is what a waypoint serves: from YAML, through the model, to the compiled choice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.testing.routes import V1, V2, WEB, port, route, served, translated
from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.identity import SpiffeId
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.port import PortRoutes

CLIENT = Client(
    identity=SpiffeId("cluster.local", "elsewhere", "client"),
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 1)),
    destination=SocketAddress(parse_ip("10.0.0.2"), 80),
)
MATCH = st.tuples(
    st.sampled_from(
        [
            "",
            "path: {type: Exact, value: /a}",
            "path: {value: /a}",
            "path: {value: /a/b}",
            "path: {value: /}",
            "path: {type: RegularExpression, value: '/a.*'}",
        ]
    ),
    st.sampled_from(["", "method: GET"]),
    st.sampled_from(
        ["", "headers: [{name: X, value: '1'}]", "headers: [{name: X, value: '[12]', type: RegularExpression}]"]
    ),
    st.sampled_from(["", "queryParams: [{name: q, value: '1'}]"]),
)
RULES = st.lists(st.tuples(st.lists(MATCH, min_size=1, max_size=2), st.sampled_from([V1, V2])), min_size=1, max_size=4)


def manifest(name: str, rules: list[tuple[list[tuple[str, ...]], str]]) -> str:
    written = []
    for index, (several, backend) in enumerate(rules):
        each = ", ".join("{" + ", ".join(part for part in one if part) + "}" for one in several)
        written.append(f"{{name: n{index}, matches: [{each}], {backend}}}")
    return route(f"[{', '.join(written)}]", name=name)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(RULES, min_size=1, max_size=3),
    st.sampled_from(["/", "/a", "/a/", "/ab", "/a/b", "/a/b/c"]),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([None, "1", "2"]),
    st.booleans(),
)
def test_the_route_that_serves_is_the_one_that_precedence_says(
    routes: list[list[tuple[list[tuple[str, ...]], str]]], path: str, method: str, header: str | None, query: bool
) -> None:
    translator = translated("".join(manifest(f"r{index}", rules) for index, rules in enumerate(routes)))
    compiled = PortRoutes(WEB, port(translator), bytes(32))
    assert compiled.problems == ()
    wanted = served(
        translator,
        path,
        method=method,
        headers={"x": header} if header else {},
        query={"q": "1"} if query else {},
    )
    head = RequestHead(
        method=method.encode(),
        path=path.encode() + (b"?q=1" if query else b""),
        authority=b"web",
        headers=[(b"x", header.encode())] if header else [],
    )
    found = compiled.select(head, CLIENT)
    assert (found.route.name if found else None) == (wanted.name if wanted else None)

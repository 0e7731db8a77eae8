"""Which route comes first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.testing.routes import (
    V1,
    V2,
    goes_to,
    route,
    served,
    serving_route,
    translated,
)
from controlplane.translate.layer7.precedence import Ranked, grpc_rank, http_rank, in_order, merged
from mesh.model.http_route import (
    HttpRoute,
    NamedMatch,
    PathMatch,
    PathMatchKind,
    RequestMatch,
    TextMatch,
    TextMatchKind,
)

RULES = st.fixed_dictionaries(
    {
        "path": st.sampled_from([None, ("Exact", "/a"), ("Exact", "/a/b"), ("PathPrefix", "/"), ("PathPrefix", "/a"),
                                 ("PathPrefix", "/a/b")]),
        "method": st.sampled_from([None, "GET", "POST"]),
        "headers": st.lists(st.sampled_from("xyz"), unique=True, max_size=3),
        "query": st.lists(st.sampled_from("pq"), unique=True, max_size=2),
    }
)


ROUTES = st.lists(
    st.tuples(st.sampled_from(["", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"]), st.lists(RULES, max_size=4)),
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(
    ROUTES,
    st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab"]),
    st.sampled_from(["GET", "POST", "PUT"]),
    st.lists(st.sampled_from("xyz"), unique=True),
    st.lists(st.sampled_from("pq"), unique=True),
)
def test_precedence_is_the_specifications(
    routes: list[tuple[str, list[dict[str, object]]]], path: str, method: str, headers: list[str], query: list[str]
) -> None:
    """Of all rules that match a request the best by the words of the specification serves it."""
    def found(*routes: HttpRoute) -> HttpRoute | None:
        marks = dict.fromkeys(headers, "1"), dict.fromkeys(query, "1")
        return serving_route(routes, path, method=method, headers=marks[0], query=marks[1])

    ranked = []
    candidates = []
    for number, (created, rules) in enumerate(routes):
        for index, rule in enumerate(rules):
            match = _match(rule)
            name = f"r{number}/{index}"
            key = (*http_rank(match, len(match.headers)), created, "ns", f"r{number}", index)
            ranked.append(Ranked(key, HttpRoute(name=name, matches=(match,))))
            if found(ranked[-1].route):
                candidates.append((_better(rule), created, f"r{number}", index, name))
    winner = found(*in_order(ranked))
    assert (winner.name if winner else None) == (min(candidates)[-1] if candidates else None)


def _match(rule: dict[str, object]) -> RequestMatch:
    path = rule["path"]
    kinds = {"Exact": PathMatchKind.EXACT, "PathPrefix": PathMatchKind.PREFIX}
    method, headers, query = rule["method"], rule["headers"], rule["query"]
    assert isinstance(headers, list)
    assert isinstance(query, list)
    one = TextMatch(TextMatchKind.EXACT, "1")
    return RequestMatch(
        path=PathMatch(kinds[path[0]], path[1]) if isinstance(path, tuple) else None,
        method=TextMatch(TextMatchKind.EXACT, str(method)) if method else None,
        headers=tuple(NamedMatch(name, one) for name in headers),
        query=tuple(NamedMatch(name, one) for name in query),
    )


def _better(rule: dict[str, object]) -> tuple[int, ...]:
    """The specification's list, one entry after another; the smaller one wins."""
    kind, value = rule["path"] if isinstance(rule["path"], tuple) else ("PathPrefix", "/")
    headers, query = rule["headers"], rule["query"]
    assert isinstance(headers, list)
    assert isinstance(query, list)
    return (
        0 if kind == "Exact" else 1,
        -len(value) if kind == "PathPrefix" else 0,
        0 if rule["method"] else 1,
        -len(headers),
        -len(query),
    )


def test_regular_expressions_stand_between_exact_paths_and_prefixes() -> None:
    translator = translated(
        route(
            f"[{{{V1}}}, {{matches: [{{path: {{type: RegularExpression, value: '/a.*'}}}}], {V2}}}, "
            f"{{matches: [{{path: {{type: Exact, value: /ab}}}}], {V1}}}]"
        )
    )
    assert goes_to(served(translator, "/abc")) == "v2"
    assert goes_to(served(translator, "/ab")) == "v1"
    assert goes_to(served(translator, "/b")) == "v1"


def test_of_equal_matches_the_oldest_route_serves_then_the_first_by_name() -> None:
    def made(day: int) -> str:
        return f", creationTimestamp: '2025-01-0{day}T00:00:00Z'"

    text = route(f"[{{{V1}}}]", name="a", meta=made(2)) + route(f"[{{{V2}}}]", name="b", meta=made(1))
    assert goes_to(served(translated(text))) == "v2"
    text = route(f"[{{{V2}}}]", name="b", meta=made(1)) + route(f"[{{{V1}}}]", name="a", meta=made(1))
    assert goes_to(served(translated(text))) == "v1"


def test_grpc_precedence_counts_characters() -> None:
    assert grpc_rank("a.Long", None, 0) < grpc_rank("a.B", "Method", 5)
    assert grpc_rank("a.B", "Method", 0) < grpc_rank("a.B", "M", 5)
    assert grpc_rank("a.B", "M", 2) < grpc_rank("a.B", "M", 1)


def test_neighbours_are_joined() -> None:
    one, two = (RequestMatch(path=PathMatch(PathMatchKind.EXACT, path)) for path in ("/1", "/2"))
    same = [HttpRoute(name="a", matches=(one,)), HttpRoute(name="a", matches=(two,))]
    assert merged(same) == (HttpRoute(name="a", matches=(one, two)),)
    assert merged([*same, HttpRoute(name="a")]) == (HttpRoute(name="a"),)
    assert len(merged([same[0], HttpRoute(name="b"), same[1]])) == 3

"""Which of several routes comes first, as the Gateway API's specification demands it.

Sources: the API's own documentation of ``HTTPRouteRule.matches`` and ``GRPCRouteRule.matches`` (v1), and GEP-1426 for
route types.

HTTPRoute, across all rules of all routes: an exact path before a prefix; the longest prefix; a match of the method;
most headers; most query parameters; then the oldest route, then by ``namespace/name``, then the first rule and match.
Where regular expressions stand is for the implementation to say: here between exact paths and prefixes, the longest
expression first, so that a prefix of ``/`` does not hide them.

GRPCRoute: most characters of the service, then of the method; most headers; then as above. An absent match has no
characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mesh.model.http_route import HttpRoute, PathMatchKind, RequestMatch

_PATH_RANK = {PathMatchKind.EXACT: 0, PathMatchKind.REGEX: 1, PathMatchKind.PREFIX: 2, PathMatchKind.TEXT_PREFIX: 2}

SortKey = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A route with a single match, and what puts it in its place."""

    key: SortKey
    route: HttpRoute


def http_rank(match: RequestMatch, headers: int) -> SortKey:
    """The part of an HTTPRoute's place that its match decides; ``headers`` counts those that were written."""
    path = match.path
    # No path is the prefix "/".
    rank, length = (_PATH_RANK[path.kind], len(path.value)) if path else (_PATH_RANK[PathMatchKind.PREFIX], 1)
    return (rank, -length, 0 if match.method else 1, -headers, -len(match.query))


def grpc_rank(service: str | None, method: str | None, headers: int) -> SortKey:
    """The part of a GRPCRoute's place that its match decides."""
    return (-len(service or ""), -len(method or ""), -headers)


def in_order(ranked: Iterable[Ranked]) -> tuple[HttpRoute, ...]:
    """All routes, the first that matches serving."""
    return merged(one.route for one in sorted(ranked, key=lambda one: one.key))


def merged(routes: Iterable[HttpRoute]) -> tuple[HttpRoute, ...]:
    """Join neighbours that differ in what they match only."""
    result: list[HttpRoute] = []
    for route in routes:
        if result and replace(result[-1], matches=()) == replace(route, matches=()):
            before = result[-1]
            # Without a match a route takes everything, and so does what is joined to it.
            matches = before.matches + route.matches if before.matches and route.matches else ()
            result[-1] = replace(before, matches=tuple(dict.fromkeys(matches)))
        else:
            result.append(route)
    return tuple(result)

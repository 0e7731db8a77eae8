"""What selecting a route costs with 1 and with 1,000 routes, for several kinds of routes.

``.venv/bin/python docs/measurements/route_selection.py`` prints microseconds per request: the median of interleaved
rounds and, in brackets, the least and the greatest. The request has ten headers and meets the last of the routes.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.identity import SpiffeId
from mesh.model.http_route import (
    Backend,
    HttpRoute,
    NamedMatch,
    PathMatch,
    PathMatchKind,
    RequestMatch,
    TextMatch,
    TextMatchKind,
)
from mesh.model.waypoint import DestinationPort
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.path import normalised
from waypoint.routing.port import PortRoutes

COUNTS = (1, 1000)
ROUNDS = 15
REQUESTS = 20_000
CLIENT = Client(
    identity=SpiffeId("cluster.local", "demo", "client"),
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 40000)),
    destination=SocketAddress(parse_ip("10.96.0.10"), 80),
)


def exact_path(number: int) -> RequestMatch:
    """As most gRPC routes are."""
    return RequestMatch(path=PathMatch(PathMatchKind.EXACT, f"/shop/item{number}/detail"))


def segment_prefix(number: int) -> RequestMatch:
    """The Gateway API's usual match."""
    return RequestMatch(path=PathMatch(PathMatchKind.PREFIX, f"/shop/item{number}"))


def text_prefix(number: int) -> RequestMatch:
    """Istio's usual match."""
    return RequestMatch(path=PathMatch(PathMatchKind.TEXT_PREFIX, f"/shop/item{number}/"))


def header(number: int) -> RequestMatch:
    """Versions told apart by a header, all below one path."""
    return RequestMatch(
        path=PathMatch(PathMatchKind.PREFIX, "/"),
        headers=(NamedMatch("x-version", TextMatch(TextMatchKind.EXACT, f"v{number}")),),
    )


def expression(number: int) -> RequestMatch:
    """A regular expression each."""
    return RequestMatch(path=PathMatch(PathMatchKind.REGEX, f"/shop/item{number}/[a-z]+"))


def request(number: int) -> RequestHead:
    """A request that the route of this number serves."""
    headers = [(f"x-header-{index}".encode(), b"some value") for index in range(9)]
    headers.append((b"x-version", b"v%d" % number))
    return RequestHead(method=b"GET", path=b"/shop/item%d/detail?q=1" % number, authority=b"shop", headers=headers)


def table(kind: Callable[[int], RequestMatch], count: int) -> PortRoutes:
    """A port with so many routes of one kind."""
    backend = Backend(service="demo/shop", port=80)
    routes = [HttpRoute(name=f"r{n}", matches=(kind(n),), backends=(backend,)) for n in range(count)]
    return PortRoutes("demo/shop", DestinationPort(number=80, routes=tuple(routes)), b"k" * 16)


def per_request(work: Callable[[], object]) -> float:
    """Microseconds."""
    start = time.perf_counter()
    for _ in range(REQUESTS):
        work()
    return (time.perf_counter() - start) / REQUESTS * 1e6


def selecting(routes: PortRoutes, head: RequestHead) -> Callable[[], object]:
    """What is measured: normalise the path, select the route."""

    def work() -> object:
        assert normalised(head.path) is head.path
        return routes.select(head, CLIENT)

    found = work()
    assert found is not None
    return work


def main() -> None:
    """Measure and print."""
    kinds = (exact_path, segment_prefix, text_prefix, header, expression)
    works = {
        (kind, count): selecting(table(kind, count), request(count - 1)) for kind in kinds for count in COUNTS
    }
    gc.freeze()
    times: dict[tuple[Callable[[int], RequestMatch], int], list[float]] = {key: [] for key in works}
    for _ in range(ROUNDS):
        for key, work in works.items():
            times[key].append(per_request(work))
    for kind in kinds:
        texts = []
        for count in COUNTS:
            taken = times[kind, count]
            texts.append(f"{count:5} routes {statistics.median(taken):6.2f} ({min(taken):.2f} to {max(taken):.2f})")
        more = statistics.median(times[kind, COUNTS[1]]) - statistics.median(times[kind, COUNTS[0]])
        sys.stdout.write(f"{kind.__name__:15} {'   '.join(texts)}   more: {more:5.2f} us\n")


if __name__ == "__main__":
    main()

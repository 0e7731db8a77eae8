"""What both proxies are told, in the model's words: the same routes, split, retries and policy for each.

A shop whose items are served by two versions. Requests to ``/api`` and ``/large`` go to the second one if they have the
header ``x-canary: yes``, otherwise nine in ten to the first; what fails is tried again. gRPC goes to the first. Only
some methods and paths are admitted, and nobody with the header ``x-blocked``. What a case with many routes adds are
routes for other paths, every third by an exact path, by a prefix, or by a prefix and a header, all before those that
serve the load: a proxy that asks one route after the other asks all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMESPACE = "shop"
HOST = "shop"
VERSIONS = ("items-1", "items-2")
WEIGHTS = (90, 10)
PREFIXES = ("/api", "/large")
GRPC_PREFIX = "/shop.Items"
CANARY = ("x-canary", "yes")
BLOCKED = "x-blocked"
METHODS = ("GET", "POST")
RETRIES = 2
RETRY_ON = ("5xx", "connect-failure", "reset")
TIMEOUT_SECONDS = 15.0
SERVING_ROUTES = 2 * len(PREFIXES) + 1
"""Routes that serve the load; the rest of a case's routes are others."""


@dataclass(frozen=True, slots=True)
class Other:
    """A route that serves nothing of the load."""

    path: str
    exact: bool
    header: tuple[str, str] | None


def others(routes: int) -> list[Other]:
    """Those that make it ``routes`` in all."""
    made = []
    for number in range(routes - SERVING_ROUTES):
        path = f"/team-{number % 37}/service-{number}"
        header = ("x-version", f"v{number}") if number % 3 == 2 else None
        made.append(Other(path, exact=number % 3 == 0, header=header))
    return made

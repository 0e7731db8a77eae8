"""What is measured at layer 7, in whom, and what is required of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.layer7.scene import SERVING_ROUTES

MANY_ROUTES = 1000


@dataclass(frozen=True, slots=True)
class Subject:
    """A proxy as it was configured."""

    name: str
    proxy: str
    """``waypoint`` or ``envoy``; ``mesh``: client ztunnel, waypoint, server ztunnel."""
    routes: int = SERVING_ROUTES


WAYPOINT = Subject("waypoint", "waypoint")
ENVOY = Subject("envoy", "envoy")
WAYPOINT_MANY = Subject(f"waypoint, {MANY_ROUTES:,} routes", "waypoint", MANY_ROUTES)
ENVOY_MANY = Subject(f"envoy, {MANY_ROUTES:,} routes", "envoy", MANY_ROUTES)
MESH = Subject("mesh", "mesh")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is required of the first subject; None: nothing."""

    rate_ratio: float | None = None
    """Its rate as a multiple of the second subject's, at least."""
    p99_ratio: float | None = None
    """Its p99 as a multiple of the second subject's, at most."""
    rate: float | None = None
    """Its rate per second, at least."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    name: str
    """As ``--only`` takes it."""
    title: str
    subjects: tuple[Subject, ...]
    """The first is judged, the second is what it is compared to; further ones are there for comparison."""
    bounds: Bounds
    path: str = "/api/items"
    """What is asked for; empty: gRPC calls."""
    connections: int = 32
    streams: int = 0
    """gRPC: calls at a time on each connection."""

    @property
    def in_mesh(self) -> bool:
        """It needs a lab."""
        return any(subject.proxy == "mesh" for subject in self.subjects)


CASES = (
    Case("http-small", "HTTP/1.1, 32 connections, 100 B", (WAYPOINT, ENVOY), Bounds(rate_ratio=1.2, p99_ratio=1.0)),
    Case(
        "http-large",
        "HTTP/1.1, 32 connections, 100 KiB",
        (WAYPOINT, ENVOY),
        Bounds(rate_ratio=1.0),
        path="/large/items",
    ),
    Case(
        "grpc",
        "gRPC unary, 4 connections x 8 calls",
        (WAYPOINT, ENVOY),
        Bounds(rate_ratio=0.5),
        path="",
        connections=4,
        streams=8,
    ),
    Case(
        "http-routes",
        f"{MANY_ROUTES:,} routes, 32 connections, 100 B",
        (WAYPOINT_MANY, WAYPOINT, ENVOY_MANY),
        Bounds(rate_ratio=0.9),
    ),
    Case("http-mesh", "through the whole mesh, 32 connections, 100 B", (MESH,), Bounds(rate=8000)),
)
NAMES = tuple(case.name for case in CASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run."""

    cases: tuple[Case, ...] = CASES
    repetitions: int = 5
    seconds: float = 3

    @property
    def loads(self) -> int:
        """How many loads that makes."""
        return self.repetitions * sum(len(case.subjects) for case in self.cases)

    @property
    def proxies(self) -> tuple[Subject, ...]:
        """The plain proxies that are needed."""
        found = dict.fromkeys(subject for case in self.cases for subject in case.subjects)
        return tuple(subject for subject in found if subject.proxy != "mesh")


def chosen(names: Sequence[str]) -> tuple[Case, ...]:
    """The cases of these names."""
    return tuple(case for case in CASES if case.name in names)


QUICK = Plan(cases=chosen(("http-small", "grpc")), repetitions=1, seconds=1)
"""Not more than this, so that the quick run of both layers stays under two minutes."""

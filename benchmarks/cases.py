"""What is measured: the cases, and the ratios to no mesh that are required of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from mesh.errors import ConfigurationError


class Placement(StrEnum):
    """Where the server is, as seen from the client, which is on node1."""

    CROSS = "cross node"
    SAME = "same node"


@dataclass(frozen=True, slots=True)
class Bulk:
    """One direction, as fast as it goes; rate in Gbit/s, work in gigabytes (10^9 bytes)."""

    connections: int


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Requests and answers of ``size`` bytes on kept connections; rate per second."""

    connections: int
    size: int


@dataclass(frozen=True, slots=True)
class Connects:
    """Connect, one round trip of 100 bytes, close; ``at_once`` at a time; rate per second."""

    at_once: int
    closing: Literal["reset", "server"]
    """The client resets, which leaves no TIME_WAIT anywhere; or the server closes first, with FINs both ways."""


Load: TypeAlias = Bulk | RoundTrips | Connects


class Metric(StrEnum):
    """By what a case is compared to no mesh."""

    RATE = "rate"
    MEDIAN_LATENCY = "p50"


@dataclass(frozen=True, slots=True)
class Bound:
    """What the ratio to no mesh must be."""

    ratio: float
    metric: Metric = Metric.RATE

    def reached(self, ratio: float) -> bool:
        """Rates have to be at least, latencies at most so much."""
        return ratio >= self.ratio if self.metric is Metric.RATE else ratio <= self.ratio

    def __str__(self) -> str:
        return f">= {self.ratio:.2f}" if self.metric is Metric.RATE else f"<= {self.ratio:.2f}"


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    name: str
    """As ``--only`` takes it: ``cross-32x100``."""
    title: str
    placement: Placement
    load: Load
    metric: Metric = Metric.RATE
    bound: Bound | None = None
    held: bool = False
    """One long run in place of repetitions, reported in slices."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What carries the traffic of one namespace."""

    name: str
    namespace: str
    enrolled: bool


NO_MESH = Subject("no mesh", "plain", enrolled=False)
AMBIMESH = Subject("ambimesh", "mesh", enrolled=True)
SUBJECTS = (NO_MESH, AMBIMESH)
"""The first is what the others are compared to. A further mesh takes one entry here, and its pods in ``bed``."""

_SHAPES: tuple[tuple[str, str, Load, Metric, bool], ...] = (
    ("bulk", "bulk TCP, 1 connection", Bulk(1), Metric.RATE, False),
    ("bulk-4", "bulk TCP, 4 connections", Bulk(4), Metric.RATE, False),
    ("1x100", "1 x 100 B, p50", RoundTrips(1, 100), Metric.MEDIAN_LATENCY, False),
    ("32x100", "32 x 100 B", RoundTrips(32, 100), Metric.RATE, False),
    ("256x100", "256 x 100 B", RoundTrips(256, 100), Metric.RATE, False),
    ("32x16k", "32 x 16 KiB", RoundTrips(32, 16384), Metric.RATE, False),
    ("connect", "connect + request x 8", Connects(8, "reset"), Metric.RATE, False),
    ("connect-fin", "connect + request x 8, server closes", Connects(8, "server"), Metric.RATE, False),
    ("connect-held", "connect + request x 8, held", Connects(8, "reset"), Metric.RATE, True),
)

_BOUNDS = {
    "cross-bulk": Bound(0.42),
    "cross-32x100": Bound(0.30),
    "cross-256x100": Bound(0.38),
    "cross-connect": Bound(0.30),
    "cross-connect-held": Bound(0.30),
    "cross-1x100": Bound(2.8, Metric.MEDIAN_LATENCY),
}

RESIDENT_AT_REST_BYTES = 60 * 1024 * 1024
"""What a ztunnel with its pods enrolled and certificates fetched must stay under while nothing happens."""

CASES = tuple(
    Case(name, title, placement, load, metric, _BOUNDS.get(name), held)
    for placement in Placement
    for shape, title, load, metric, held in _SHAPES
    for name in [f"{placement.split()[0]}-{shape}"]
)

IDLE = "idle"
"""The case that measures memory, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of the suite."""

    cases: tuple[Case, ...]
    repetitions: int
    seconds: float
    """Length of one load."""
    held_seconds: float
    """Length of a held load."""
    slice_seconds: float
    idle_connections: int
    """0 leaves idle connections out."""

    @property
    def loads(self) -> int:
        """How many loads that makes."""
        return sum((1 if case.held else self.repetitions) * len(SUBJECTS) for case in self.cases)


FULL = Plan(cases=CASES, repetitions=5, seconds=3, held_seconds=60, slice_seconds=10, idle_connections=10_000)
QUICK = Plan(
    cases=tuple(case for case in CASES if not case.held),
    repetitions=2,
    seconds=1,
    held_seconds=0,
    slice_seconds=1,
    idle_connections=1000,
)


def choose(names: Sequence[str]) -> tuple[tuple[Case, ...], bool]:
    """The cases of these names, and whether idle connections are among them.

    Raises:
        ConfigurationError: there is no such case; the message lists those there are.
    """
    known = {case.name for case in CASES} | {IDLE}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ConfigurationError(f"there is no case {', '.join(unknown)}; cases: {', '.join(sorted(known))}")
    return tuple(case for case in CASES if case.name in names), IDLE in names

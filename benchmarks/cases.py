"""What is measured: the cases, who is measured in them, and the ratios to no mesh that are required."""

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
    """What the ratio to no mesh must be, and what it is to become."""

    ratio: float
    aim: float
    metric: Metric = Metric.RATE

    def reached(self, ratio: float) -> bool:
        """Rates have to be at least, latencies at most so much."""
        return self._holds(ratio, self.ratio)

    def aim_reached(self, ratio: float) -> bool:
        """The same of the aim."""
        return self._holds(ratio, self.aim)

    def _holds(self, ratio: float, mark: float) -> bool:
        return ratio >= mark if self.metric is Metric.RATE else ratio <= mark

    def text(self, mark: float) -> str:
        """A mark of this bound as the table has it: ``>= 0.42``."""
        return f"{'>=' if self.metric is Metric.RATE else '<='} {mark:.2f}"


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
    enrolled: bool = False
    """Whether its namespace is part of the mesh."""
    proxy: str = ""
    """Name of its proxies' cgroup below each node's; empty when it has none."""
    placements: tuple[Placement, ...] = tuple(Placement)
    """Where it is measured."""

    @property
    def key(self) -> str:
        """As ``--subjects`` takes it."""
        return self.name.replace(" ", "-")


NO_MESH = Subject("no mesh", "plain")
AMBIMESH = Subject("ambimesh", "mesh", enrolled=True, proxy="ztunnel")
ENVOY = Subject("envoy", "envoy", proxy="envoy", placements=(Placement.CROSS,))
SUBJECTS = (NO_MESH, AMBIMESH, ENVOY)
"""The first is what the others are compared to. A further mesh takes one entry here, and its pods in ``bed``."""

_SHAPES: tuple[tuple[str, str, Load, Metric], ...] = (
    ("bulk", "bulk TCP, 1 connection", Bulk(1), Metric.RATE),
    ("bulk-4", "bulk TCP, 4 connections", Bulk(4), Metric.RATE),
    ("1x100", "1 x 100 B, p50", RoundTrips(1, 100), Metric.MEDIAN_LATENCY),
    ("32x100", "32 x 100 B", RoundTrips(32, 100), Metric.RATE),
    ("256x100", "256 x 100 B", RoundTrips(256, 100), Metric.RATE),
    ("32x16k", "32 x 16 KiB", RoundTrips(32, 16384), Metric.RATE),
    ("connect", "connect + request x 8", Connects(8, "reset"), Metric.RATE),
    ("connect-fin", "connect + request x 8, server closes", Connects(8, "server"), Metric.RATE),
)

_BOUNDS = {
    "cross-bulk": Bound(0.48, 0.65),
    "cross-1x100": Bound(2.3, 1.8, Metric.MEDIAN_LATENCY),
    "cross-32x100": Bound(0.36, 0.50),
    "cross-256x100": Bound(0.45, 0.60),
    "cross-32x16k": Bound(0.28, 0.40),
    "cross-connect": Bound(0.36, 0.45),
    "cross-connect-held": Bound(0.36, 0.45),
    "same-bulk": Bound(2.2, 3.5),
    "same-1x100": Bound(1.0, 0.85, Metric.MEDIAN_LATENCY),
    "same-32x100": Bound(2.3, 3.0),
    "same-256x100": Bound(2.6, 3.2),
    "same-32x16k": Bound(3.2, 4.2),
    "same-connect": Bound(0.85, 1.1),
}

RESIDENT_AT_REST_BYTES = 60 * 1024 * 1024
"""What a ztunnel with its pods enrolled and certificates fetched must stay under while nothing happens."""
HELD_TAIL = 4.0
"""A held load's p99 may be at most so many times its p50."""
HELD_DECAY = 0.9
"""The last slice of a held load must reach at least this part of the first one's rate: that is, it does not decay."""

HELD = Case(
    "cross-connect-held",
    "connect + request x 8, held",
    Placement.CROSS,
    Connects(8, "reset"),
    bound=_BOUNDS["cross-connect-held"],
    held=True,
)
CASES = (
    *(
        Case(name, title, placement, load, metric, _BOUNDS.get(name))
        for placement in Placement
        for shape, title, load, metric in _SHAPES
        for name in [f"{placement.split()[0]}-{shape}"]
    ),
    HELD,
)

IDLE = "idle"
"""The case that measures memory, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of the suite."""

    cases: tuple[Case, ...]
    subjects: tuple[Subject, ...] = SUBJECTS
    repetitions: int
    seconds: float
    """Length of one load."""
    held_seconds: float
    """Length of a held load."""
    slice_seconds: float
    idle_connections: int
    """0 leaves idle connections out."""

    def subjects_of(self, case: Case) -> tuple[Subject, ...]:
        """Who is measured in a case."""
        return tuple(subject for subject in self.subjects if case.placement in subject.placements)

    @property
    def loads(self) -> int:
        """How many loads that makes."""
        return sum((1 if case.held else self.repetitions) * len(self.subjects_of(case)) for case in self.cases)


FULL = Plan(cases=CASES, repetitions=5, seconds=3, held_seconds=60, slice_seconds=10, idle_connections=10_000)
_LEFT_OUT_OF_QUICK = ("bulk-4", "connect-fin", "held")
QUICK = Plan(
    cases=tuple(case for case in CASES if not case.name.endswith(_LEFT_OUT_OF_QUICK)),
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


def choose_subjects(keys: Sequence[str]) -> tuple[Subject, ...]:
    """The subjects of these keys, in their usual order.

    Raises:
        ConfigurationError: there is no such subject; the message lists those there are.
    """
    known = {subject.key for subject in SUBJECTS}
    unknown = sorted(set(keys) - known)
    if unknown or not keys:
        listed = ", ".join(subject.key for subject in SUBJECTS)
        raise ConfigurationError(f"there is no subject {', '.join(unknown) or 'named'}; subjects: {listed}")
    return tuple(subject for subject in SUBJECTS if subject.key in keys)

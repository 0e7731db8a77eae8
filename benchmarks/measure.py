"""Runs a plan on a bed: subjects one right after the other, all cases once per repetition.

Repetitions are the outer loop, so that a disturbance of some seconds costs single samples of several cases and not a
case. Which subject goes first alternates.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import trio

from benchmarks.bed import Bed
from benchmarks.cases import AMBIMESH, SUBJECTS, Case, Plan, Subject
from benchmarks.figures import Sample
from mesh.errors import MeshError

_SPARE_DESCRIPTORS = 1000
"""Left to a process beside its idle connections, for all else it holds."""
_SETTLE_SECONDS = 3.0
"""After the start, until memory is at rest: telemetry's and the control plane's first exchanges are over."""


class NodeMemory(msgspec.Struct, frozen=True, kw_only=True):
    """One node's ztunnel, resident bytes."""

    node: str
    at_rest: int
    under_load: int
    """The highest while the cases ran."""
    idle_before: int = 0
    idle_with: int = 0
    """With the idle connections open, of a ztunnel that has carried nothing else; 0 when that was not measured."""


class MemoryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the ztunnels needed."""

    nodes: tuple[NodeMemory, ...]
    idle_connections: int = 0
    idle_wanted: int = 0
    problem: str = ""

    @property
    def at_rest(self) -> int:
        """Of the ztunnel that needs more, at rest."""
        return max(one.at_rest for one in self.nodes)


@dataclass(slots=True)
class Measured:
    """All samples of a run."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """By case."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    memory: MemoryFigures = field(default_factory=lambda: MemoryFigures(nodes=()))

    @property
    def others(self) -> list[float]:
        """Cores busy with something else, of all samples."""
        return [sample.others_cores for case in self.samples.values() for sample in case]


async def measure(bed: Bed, plan: Plan, tell: Callable[[str, int], None]) -> Measured:
    """Run a plan.

    Args:
        bed: where.
        plan: what.
        tell: told what runs next, and how many loads are done.

    Raises:
        MeshError: the ztunnels could not be restarted. A load that fails is noted and the rest goes on.
    """
    measured = Measured()
    tell("coming to rest", 0)
    await trio.sleep(_SETTLE_SECONDS)
    rest = bed.memory()
    highest = {node: found.resident for node, found in rest.items()}
    done = 0
    for case, repetition in order(plan):
        subjects = SUBJECTS if repetition % 2 == 0 else SUBJECTS[::-1]
        for subject in subjects:
            tell(f"{case.placement}, {case.title}: {subject.name}", done)
            try:
                sample = await _sample(bed, plan, case, subject, repetition)
                measured.samples.setdefault(case.name, []).append(sample)
            except MeshError as error:
                measured.problems.setdefault(case.name, []).append(f"{subject.name}: {error}")
            done += 1
            for node, found in bed.memory().items():
                highest[node] = max(highest[node], found.resident)
    nodes = tuple(
        NodeMemory(node=node, at_rest=rest[node].resident, under_load=highest[node]) for node in sorted(rest)
    )
    measured.memory = MemoryFigures(nodes=nodes)
    if plan.idle_connections:
        tell("idle connections", done)
        measured.memory = await _idle(bed, plan.idle_connections, nodes)
    return measured


def order(plan: Plan) -> list[tuple[Case, int]]:
    """Which case runs when, each with its repetition; held ones once, at the end."""
    repeated = [case for case in plan.cases if not case.held]
    held = [case for case in plan.cases if case.held]
    return [(case, repetition) for repetition in range(plan.repetitions) for case in repeated] + [
        (case, 0) for case in held
    ]


async def _sample(bed: Bed, plan: Plan, case: Case, subject: Subject, repetition: int) -> Sample:
    seconds = plan.held_seconds if case.held else plan.seconds
    before = bed.meter.read()
    reading = await bed.load(subject, case.placement, case.load, seconds, plan.slice_seconds if case.held else 0)
    growth = bed.meter.read().since(before)
    return Sample(
        subject=subject.name,
        repetition=repetition,
        reading=reading,
        proxy_cpu_seconds=growth.proxies,
        others_cores=growth.others,
    )


def fitting(wanted: int, limit: int) -> int:
    """How many connections a process can hold that has a descriptor for each and may have ``limit`` in all."""
    return max(0, min(wanted, limit - _SPARE_DESCRIPTORS))


async def _idle(bed: Bed, wanted: int, nodes: tuple[NodeMemory, ...]) -> MemoryFigures:
    """Memory with idle connections, of fresh ztunnels: memory that earlier loads left free would hide some of it."""
    await bed.restart_ztunnels()
    await trio.sleep(_SETTLE_SECONDS)
    connections = fitting(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    before = bed.memory()
    try:
        async with bed.idle(AMBIMESH, connections):
            after = bed.memory()
    except MeshError as error:
        return MemoryFigures(nodes=nodes, idle_wanted=wanted, problem=str(error))
    found = tuple(
        msgspec.structs.replace(
            one, idle_before=before[one.node].resident, idle_with=after[one.node].resident
        )
        for one in nodes
    )
    return MemoryFigures(nodes=found, idle_connections=connections, idle_wanted=wanted)

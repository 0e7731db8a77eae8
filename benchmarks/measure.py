"""Runs a plan on a bed: subjects one right after the other, all cases once per repetition.

Repetitions are the outer loop, so that a disturbance of some seconds costs single samples of several cases and not a
case. Which subject goes first rotates from one repetition to the next.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from benchmarks.bed import Bed
from benchmarks.cases import AMBIMESH, Case, Plan, Subject
from benchmarks.figures import Sample
from benchmarks.usage import Memory
from mesh.errors import MeshError

_SPARE_DESCRIPTORS = 1000
"""Left to a process beside its idle connections, for all else it holds."""
_SETTLE_SECONDS = 3.0
"""After the start, until memory is at rest: telemetry's and the control plane's first exchanges are over."""


class NodeMemory(msgspec.Struct, frozen=True, kw_only=True):
    """One subject's proxy on one node, resident bytes; of several processes their sum."""

    subject: str
    node: str
    at_rest: int
    at_rest_proportional: int = 0
    """With pages that processes share divided among them."""
    under_load: int
    """The highest while the cases ran."""
    idle_before: int = 0
    idle_with: int = 0
    """With the idle connections open, of a proxy that has carried nothing else; 0 when that was not measured."""


class MemoryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxies needed."""

    nodes: tuple[NodeMemory, ...]
    idle_connections: int = 0
    idle_wanted: int = 0
    problems: tuple[str, ...] = ()
    one_process: dict[str, int] = {}
    """At rest by node, of ztunnels that are one process (``workers: 1``); empty when that was not measured."""

    @property
    def at_rest(self) -> int | None:
        """Of the one-process ztunnel that needs more; None when that was not measured."""
        return max(self.one_process.values(), default=None)


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
        MeshError: the lab broke. A load that fails is noted, and the rest goes on.
    """
    measured = Measured()
    tell("coming to rest", 0)
    await trio.sleep(_SETTLE_SECONDS)
    rest = _memory(bed)
    highest = {proxy: found.resident for proxy, found in rest.items()}
    done = 0
    for case, repetition in order(plan):
        for subject in rotated(plan.subjects_of(case), repetition):
            tell(f"{case.placement}, {case.title}: {subject.name}", done)
            try:
                sample = await _sample(bed, plan, case, subject, repetition)
                measured.samples.setdefault(case.name, []).append(sample)
            except MeshError as error:
                measured.problems.setdefault(case.name, []).append(f"{subject.name}: {error}")
            done += 1
            highest = {proxy: max(highest[proxy], found.resident) for proxy, found in _memory(bed).items()}
    nodes = tuple(
        NodeMemory(
            subject=subject,
            node=node,
            at_rest=found.resident,
            at_rest_proportional=found.proportional,
            under_load=highest[subject, node],
        )
        for (subject, node), found in rest.items()
    )
    measured.memory = MemoryFigures(nodes=nodes)
    if plan.idle_connections:
        tell("idle connections", done)
        measured.memory = await _idle(bed, plan.idle_connections, nodes)
    if AMBIMESH in bed.subjects:
        tell("one process", done)
        measured.memory = await _one_process(bed, measured.memory)
    return measured


async def _one_process(bed: Bed, figures: MemoryFigures) -> MemoryFigures:
    """Memory at rest of ztunnels without workers, to which the bound on it belongs."""
    try:
        await bed.restart_with_workers(1)
        await trio.sleep(_SETTLE_SECONDS)
    except MeshError as error:
        return msgspec.structs.replace(figures, problems=(*figures.problems, f"one process: {error}"))
    found = {node: memory.resident for node, memory in bed.memory(AMBIMESH).items()}
    return msgspec.structs.replace(figures, one_process=found)


def _memory(bed: Bed) -> dict[tuple[str, str], Memory]:
    """The memory of all proxies, by subject and node."""
    return {
        (subject.name, node): found for subject in bed.subjects for node, found in bed.memory(subject).items()
    }


def rotated(subjects: Sequence[Subject], repetition: int) -> list[Subject]:
    """The subjects in the order of a repetition: each is first, and in every other place, as often as the others."""
    start = repetition % len(subjects) if subjects else 0
    return [*subjects[start:], *subjects[:start]]


def order(plan: Plan) -> list[tuple[Case, int]]:
    """Which case runs when, each with its repetition; held ones once, at the end."""
    repeated = [case for case in plan.cases if not case.held]
    held = [case for case in plan.cases if case.held]
    return [(case, repetition) for repetition in range(plan.repetitions) for case in repeated] + [
        (case, 0) for case in held
    ]


async def _sample(bed: Bed, plan: Plan, case: Case, subject: Subject, repetition: int) -> Sample:
    seconds = plan.held_seconds if case.held else plan.seconds
    before = bed.used(subject)
    reading = await bed.load(subject, case.placement, case.load, seconds, plan.slice_seconds if case.held else 0)
    growth = bed.used(subject).since(before)
    return Sample(
        subject=subject.name,
        repetition=repetition,
        reading=reading,
        proxy_cpu_seconds=growth.proxies,
        lab_cpu_seconds=growth.lab,
        others_cores=growth.others,
    )


def fitting(wanted: int, limit: int) -> int:
    """How many connections a process can hold that has a descriptor for each and may have ``limit`` in all."""
    return max(0, min(wanted, limit - _SPARE_DESCRIPTORS))


async def _idle(bed: Bed, wanted: int, nodes: tuple[NodeMemory, ...]) -> MemoryFigures:
    """Memory with idle connections, of fresh proxies: memory that earlier loads left free would hide some of it."""
    connections = fitting(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    problems: list[str] = []
    found = {(one.subject, one.node): one for one in nodes}
    for subject in bed.subjects:
        if not subject.proxy:
            continue
        try:
            await bed.restart_proxies(subject)
            await trio.sleep(_SETTLE_SECONDS)
            before = bed.memory(subject)
            async with bed.idle(subject, connections):
                after = bed.memory(subject)
        except MeshError as error:
            problems.append(f"{subject.name}: {error}")
            continue
        for node, memory in after.items():
            found[subject.name, node] = msgspec.structs.replace(
                found[subject.name, node], idle_before=before[node].resident, idle_with=memory.resident
            )
    return MemoryFigures(
        nodes=tuple(found.values()), idle_connections=connections, idle_wanted=wanted, problems=tuple(problems)
    )

"""Runs a plan: all subjects of a case one right after the other, all cases once per repetition.

As for layer 4 (``benchmarks.measure``): which subject goes first rotates, ratios are taken within a repetition.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec

from ambimesh.lab.layout import LabLayout
from ambimesh.lab.programs import run_for_status
from benchmarks.bed import LoadFailed
from benchmarks.figures import Spread
from benchmarks.layer7.cases import Case, Plan, Subject
from benchmarks.layer7.mesh import MeshBed, open_mesh
from benchmarks.layer7.proxies import ADDRESS, Proxy, cores, running
from benchmarks.loads import Reading, read_round_trips
from mesh.errors import MeshError

_GRACE_SECONDS = 20.0
_WARM_SECONDS = 0.3


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one subject."""

    subject: str
    repetition: int
    reading: Reading
    cpu_seconds: float
    """Processor time: of a plain proxy; of the whole lab, both ends of the load included, for the mesh."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one subject reached in a case."""

    subject: str
    rate: Spread
    p50_us: Spread
    p99_us: Spread
    cpu: float
    """Seconds per 100,000 requests."""
    ratio: Spread | None = None
    """Of the first subject's rate to this one's; None for the first itself."""
    p99_ratio: Spread | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One case."""

    case: str
    title: str
    figures: tuple[Figures, ...]
    required: tuple[str, ...] = ()
    """In words."""
    reached: tuple[bool, ...] = ()
    """Each of them."""
    problems: tuple[str, ...] = ()


class Layer7(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run."""

    repetitions: int
    seconds: float
    rows: tuple[Row, ...]
    samples: dict[str, list[Sample]]


@dataclass(slots=True)
class _Run:
    http: Path
    proxies: dict[Subject, Proxy]
    mesh: MeshBed | None
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)

    async def sample(self, case: Case, subject: Subject, repetition: int, seconds: float) -> None:
        try:
            made = await self._sample(case, subject, repetition, seconds)
        except MeshError as error:
            self.problems.setdefault(case.name, []).append(f"{subject.name}: {error}")
        else:
            self.samples.setdefault(case.name, []).append(made)

    async def _sample(self, case: Case, subject: Subject, repetition: int, seconds: float) -> Sample:
        if subject.proxy == "mesh":
            assert self.mesh is not None
            before = self.mesh.cpu_seconds()
            reading = await self.mesh.load(self.http, case, seconds)
            used = self.mesh.cpu_seconds() - before
        else:
            proxy = self.proxies[subject]
            await self.load(case, proxy.port, _WARM_SECONDS)
            before = proxy.cpu_seconds()
            reading = await self.load(case, proxy.port, seconds)
            used = proxy.cpu_seconds() - before
        return Sample(subject=subject.name, repetition=repetition, reading=reading, cpu_seconds=used)

    async def load(self, case: Case, port: int, seconds: float) -> Reading:
        argv = ["taskset", "--cpu-list", cores()[1], *command(self.http, case, ADDRESS, port, seconds)]
        status, output, errors = await run_for_status(argv, timeout=seconds + _GRACE_SECONDS)
        if status != 0:
            raise LoadFailed(f"http ended with {status}: {errors.decode(errors='replace').strip()[-300:]}")
        return read_round_trips(output)


def command(http: Path, case: Case, address: str, port: int, seconds: float) -> list[str]:
    """The command that makes a case's load."""
    mode, last = ("get", case.path) if case.path else ("grpc", str(case.streams))
    return [str(http), mode, address, str(port), str(case.connections), f"{seconds:g}", last]


async def measure(
    plan: Plan, http: Path, envoy: Path | None, folder: Path, layout: LabLayout, tell: Callable[[str, int], None]
) -> Layer7:
    """Run a plan.

    Args:
        plan: what.
        http: the compiled load generator.
        envoy: its program; None leaves Envoy out.
        folder: for logs of the proxies.
        layout: of the lab, for what goes through the whole mesh.
        tell: told what runs next, and how many loads are done.

    Raises:
        MeshError: something does not start. A load that fails is noted, and the rest goes on.
    """
    run = _Run(http, {}, None)
    done = 0
    plain = [case for case in plan.cases if not case.in_mesh]
    in_mesh = [case for case in plan.cases if case.in_mesh]
    for cases in (plain, in_mesh):
        if not cases:
            continue
        async with AsyncExitStack() as stack:
            tell("starting", done)
            if cases is plain:
                wanted = [one for one in plan.proxies if envoy is not None or one.proxy != "envoy"]
                run.proxies = await stack.enter_async_context(running(wanted, http, envoy, folder))
            else:
                run.mesh = await stack.enter_async_context(open_mesh(layout, http))
            for repetition in range(plan.repetitions):
                for case in cases:
                    found = [one for one in case.subjects if one in run.proxies or one.proxy == "mesh"]
                    for subject in rotated_subjects(found, repetition):
                        tell(f"{case.title}: {subject.name}", done)
                        await run.sample(case, subject, repetition, plan.seconds)
                        done += 1
    rows = tuple(row(case, run.samples.get(case.name, []), run.problems.get(case.name, [])) for case in plan.cases)
    return Layer7(repetitions=plan.repetitions, seconds=plan.seconds, rows=rows, samples=run.samples)


def rotated_subjects(subjects: list[Subject], repetition: int) -> list[Subject]:
    """Who is first, in which repetition."""
    start = repetition % len(subjects) if subjects else 0
    return [*subjects[start:], *subjects[:start]]


def row(case: Case, samples: list[Sample], problems: list[str]) -> Row:
    """The row of a case; subjects without samples have no figures."""
    figures = tuple(found for one in case.subjects if (found := _figures(case, samples, one.name)) is not None)
    required, reached = _judged(case, {one.subject: one for one in figures})
    return Row(
        case=case.name, title=case.title, figures=figures, required=required, reached=reached, problems=tuple(problems)
    )


def _figures(case: Case, samples: list[Sample], subject: str) -> Figures | None:
    own = [sample for sample in samples if sample.subject == subject]
    if not own:
        return None
    first = case.subjects[0].name
    readings = [sample.reading for sample in own]
    compared = subject != first
    return Figures(
        subject=subject,
        rate=Spread.of([reading.rate for reading in readings]),
        p50_us=Spread.of([reading.p50_us or 0.0 for reading in readings]),
        p99_us=Spread.of([reading.p99_us or 0.0 for reading in readings]),
        cpu=median(sample.cpu_seconds / sample.reading.work for sample in own) * 100_000,
        ratio=_ratio(samples, first, subject, lambda reading: reading.rate) if compared else None,
        p99_ratio=_ratio(samples, first, subject, lambda reading: reading.p99_us or 0.0) if compared else None,
    )


def _ratio(samples: list[Sample], of: str, to: str, value: Callable[[Reading], float]) -> Spread | None:
    bases = {one.repetition: value(one.reading) for one in samples if one.subject == to}
    ratios = [
        value(one.reading) / bases[one.repetition]
        for one in samples
        if one.subject == of and bases.get(one.repetition)
    ]
    return Spread.of(ratios) if ratios else None


def _judged(case: Case, figures: dict[str, Figures]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    bounds, required, reached = case.bounds, [], []
    judged = figures.get(case.subjects[0].name)
    other = figures.get(case.subjects[1].name) if len(case.subjects) > 1 else None
    if bounds.rate is not None and judged is not None:
        required.append(f">= {bounds.rate:,.0f} /s")
        reached.append(judged.rate.median >= bounds.rate)
    if bounds.rate_ratio is not None and other is not None and other.ratio is not None:
        required.append(f"rate >= {bounds.rate_ratio:g} x {other.subject}")
        reached.append(other.ratio.median >= bounds.rate_ratio)
    if bounds.p99_ratio is not None and other is not None and other.p99_ratio is not None:
        required.append(f"p99 <= {bounds.p99_ratio:g} x {other.subject}")
        reached.append(other.p99_ratio.median <= bounds.p99_ratio)
    return tuple(required), tuple(reached)

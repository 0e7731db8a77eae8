"""The whole of a run, as it is written to JSON."""

from __future__ import annotations

import msgspec

from benchmarks.cases import ENVOY, Plan
from benchmarks.envoy_pair import CONCURRENCY
from benchmarks.figures import Row, Sample, Spread, row
from benchmarks.machine import Machine
from benchmarks.measure import Measured, MemoryFigures


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How was measured."""

    repetitions: int
    seconds: float
    held_seconds: float
    slice_seconds: float
    envoy_concurrency: int = 0
    """Worker threads of each Envoy; 0 when it was left out."""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run has found, single samples included."""

    machine: Machine
    settings: Settings
    others_cores: Spread | None
    """Cores that were busy with something else than the lab, over all loads."""
    rows: tuple[Row, ...]
    memory: MemoryFigures
    samples: dict[str, list[Sample]]


def results(machine: Machine, plan: Plan, measured: Measured) -> Results:
    """Put a run's parts together."""
    rows = tuple(
        row(case, measured.samples.get(case.name, []), measured.problems.get(case.name, ())) for case in plan.cases
    )
    return Results(
        machine=machine,
        settings=Settings(
            repetitions=plan.repetitions,
            seconds=plan.seconds,
            held_seconds=plan.held_seconds,
            slice_seconds=plan.slice_seconds,
            envoy_concurrency=CONCURRENCY if ENVOY in plan.subjects else 0,
        ),
        others_cores=Spread.of(measured.others) if measured.others else None,
        rows=rows,
        memory=measured.memory,
        samples=measured.samples,
    )

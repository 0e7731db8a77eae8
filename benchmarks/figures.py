"""From samples to rows: medians, spreads and ratios. Pure.

A ratio is taken of each repetition's own pair of samples, which were measured one right after the other, and the
median of these ratios is reported: what disturbs the machine for longer than a pair takes disturbs both halves of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from benchmarks.cases import NO_MESH, SUBJECTS, Bulk, Case, Metric
from benchmarks.loads import Reading


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one subject."""

    subject: str
    repetition: int
    reading: Reading
    proxy_cpu_seconds: float
    others_cores: float
    """Cores that were busy meanwhile with something that is not the lab's."""


class Spread(msgspec.Struct, frozen=True):
    """Several values of one thing."""

    median: float
    lowest: float
    highest: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return Spread(median(values), min(values), max(values))


class SubjectFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one subject reached in a case."""

    subject: str
    rate: Spread
    """Gbit/s in bulk, else per second."""
    p50_us: Spread | None = None
    p99_us: Spread | None = None
    failed: int = 0
    proxy_cpu: float | None = None
    """CPU seconds of the mesh's proxies per gigabyte in bulk, else per 100,000 operations; None without proxies."""
    ratio: Spread | None = None
    """To no mesh, by the case's metric; None for no mesh itself."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One case."""

    case: str
    title: str
    placement: str
    unit: str
    metric: str
    figures: tuple[SubjectFigures, ...]
    required: str = ""
    reached: bool | None = None
    """None when nothing is required, or nothing could be measured."""
    problems: tuple[str, ...] = ()


def row(case: Case, samples: Sequence[Sample], problems: Sequence[str] = ()) -> Row:
    """The row of a case; subjects without samples have no figures."""
    figures = tuple(found for subject in SUBJECTS if (found := _figures(case, samples, subject.name)) is not None)
    compared = next((one.ratio for one in figures if one.ratio is not None), None)
    bulk = isinstance(case.load, Bulk)
    return Row(
        case=case.name,
        title=case.title,
        placement=case.placement.value,
        unit="us" if case.metric is Metric.MEDIAN_LATENCY else "Gbit/s" if bulk else "/s",
        metric=case.metric.value,
        figures=figures,
        required=str(case.bound) if case.bound else "",
        reached=case.bound.reached(compared.median) if case.bound and compared else None,
        problems=tuple(problems),
    )


def _figures(case: Case, samples: Sequence[Sample], subject: str) -> SubjectFigures | None:
    own = [sample for sample in samples if sample.subject == subject]
    if not own:
        return None
    readings = [sample.reading for sample in own]
    ratios = _ratios(case.metric, samples, subject) if subject != NO_MESH.name else []
    unit = 1.0 if isinstance(case.load, Bulk) else 100_000.0
    work = sum(reading.work for reading in readings)
    enrolled = next(one.enrolled for one in SUBJECTS if one.name == subject)
    return SubjectFigures(
        subject=subject,
        rate=Spread.of([reading.rate for reading in readings]),
        p50_us=_spread([reading.p50_us for reading in readings]),
        p99_us=_spread([reading.p99_us for reading in readings]),
        failed=sum(reading.failed for reading in readings),
        proxy_cpu=sum(sample.proxy_cpu_seconds for sample in own) / work * unit if enrolled and work else None,
        ratio=Spread.of(ratios) if ratios else None,
    )


def _ratios(metric: Metric, samples: Sequence[Sample], subject: str) -> list[float]:
    """Of each repetition in which both were measured."""
    plain = {one.repetition: _value(metric, one.reading) for one in samples if one.subject == NO_MESH.name}
    return [
        value / plain[one.repetition]
        for one in samples
        if one.subject == subject and plain.get(one.repetition)
        for value in [_value(metric, one.reading)]
    ]


def _value(metric: Metric, reading: Reading) -> float:
    return reading.rate if metric is Metric.RATE else reading.p50_us or 0.0


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None

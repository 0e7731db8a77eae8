"""From samples to rows: medians, spreads and ratios. Pure.

A ratio is taken of each repetition's own samples, which were measured one right after the other, and the median of
these ratios is reported: what disturbs the machine for longer than that takes disturbs both sides of the ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

import msgspec

from benchmarks.cases import AMBIMESH, ENVOY, HELD_DECAY, HELD_TAIL, NO_MESH, SUBJECTS, Bulk, Case, Metric
from benchmarks.loads import Reading


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one subject."""

    subject: str
    repetition: int
    reading: Reading
    proxy_cpu_seconds: float
    lab_cpu_seconds: float
    """Of everything in the lab: proxies, kernel work on their behalf, and the load's own two ends."""
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
    """CPU seconds of the subject's proxies per gigabyte in bulk, else per 100,000 operations; None without proxies."""
    lab_cpu: float | None = None
    """The same of the whole lab, which includes both ends of the load."""
    ratio: Spread | None = None
    """To no mesh, by the case's metric; None for no mesh itself."""


class HeldFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How one subject bore a held load."""

    subject: str
    rates: tuple[float, ...]
    """Of each slice."""
    p50_us: tuple[float, ...]
    p99_us: tuple[float, ...]
    decay: float
    """The last slice's rate as a part of the first one's."""
    tail: float
    """p99 to p50, over the whole time."""

    @property
    def steady(self) -> bool:
        """Whether it did not decay."""
        return self.decay >= HELD_DECAY

    @property
    def tight(self) -> bool:
        """Whether its tail is as near as it must be."""
        return self.tail <= HELD_TAIL


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One case."""

    case: str
    title: str
    placement: str
    unit: str
    metric: str
    figures: tuple[SubjectFigures, ...]
    required: float | None = None
    """What the mesh's ratio to no mesh must be: at least, of a rate; at most, of a latency."""
    reached: bool | None = None
    """None when nothing is required, or nothing could be measured."""
    aim: float | None = None
    aim_reached: bool | None = None
    required_text: str = ""
    aim_text: str = ""
    to_peer: Spread | None = None
    """The mesh's ratio to Envoy, by the case's metric; None where one of them was not measured."""
    ahead: bool | None = None
    held: tuple[HeldFigures, ...] = ()
    problems: tuple[str, ...] = ()


def row(case: Case, samples: Sequence[Sample], problems: Sequence[str] = ()) -> Row:
    """The row of a case; subjects without samples have no figures."""
    figures = tuple(found for subject in SUBJECTS if (found := _figures(case, samples, subject.name)) is not None)
    compared = next((one.ratio for one in figures if one.subject == AMBIMESH.name), None)
    to_peer = _ratios(case.metric, samples, AMBIMESH.name, ENVOY.name)
    bulk, bound = isinstance(case.load, Bulk), case.bound
    return Row(
        case=case.name,
        title=case.title,
        placement=case.placement.value,
        unit="us" if case.metric is Metric.MEDIAN_LATENCY else "Gbit/s" if bulk else "/s",
        metric=case.metric.value,
        figures=figures,
        required=bound.ratio if bound else None,
        reached=bound.reached(compared.median) if bound and compared else None,
        aim=bound.aim if bound else None,
        aim_reached=bound.aim_reached(compared.median) if bound and compared else None,
        required_text=bound.text(bound.ratio) if bound else "",
        aim_text=bound.text(bound.aim) if bound else "",
        to_peer=to_peer,
        ahead=_ahead(case.metric, to_peer),
        held=tuple(_held(samples)) if case.held else (),
        problems=tuple(problems),
    )


def _ahead(metric: Metric, to_peer: Spread | None) -> bool | None:
    if to_peer is None:
        return None
    return to_peer.median > 1 if metric is Metric.RATE else to_peer.median < 1


def _figures(case: Case, samples: Sequence[Sample], subject: str) -> SubjectFigures | None:
    own = [sample for sample in samples if sample.subject == subject]
    if not own:
        return None
    readings = [sample.reading for sample in own]
    work = sum(reading.work for reading in readings) / (1.0 if isinstance(case.load, Bulk) else 100_000.0)
    has_proxies = any(one.proxy for one in SUBJECTS if one.name == subject)
    return SubjectFigures(
        subject=subject,
        rate=Spread.of([reading.rate for reading in readings]),
        p50_us=_spread([reading.p50_us for reading in readings]),
        p99_us=_spread([reading.p99_us for reading in readings]),
        failed=sum(reading.failed for reading in readings),
        proxy_cpu=sum(sample.proxy_cpu_seconds for sample in own) / work if has_proxies and work else None,
        lab_cpu=sum(sample.lab_cpu_seconds for sample in own) / work if work else None,
        ratio=_ratios(case.metric, samples, subject, NO_MESH.name) if subject != NO_MESH.name else None,
    )


def _held(samples: Sequence[Sample]) -> Iterator[HeldFigures]:
    for sample in samples:
        slices, reading = sample.reading.slices, sample.reading
        if slices and reading.p50_us and reading.p99_us is not None:
            rates = tuple(one.per_second for one in slices)
            yield HeldFigures(
                subject=sample.subject,
                rates=rates,
                p50_us=tuple(one.p50_us for one in slices),
                p99_us=tuple(one.p99_us for one in slices),
                decay=rates[-1] / rates[0] if rates[0] else 0.0,
                tail=reading.p99_us / reading.p50_us,
            )


def _ratios(metric: Metric, samples: Sequence[Sample], subject: str, base: str) -> Spread | None:
    """Of each repetition in which both were measured; None when there is no such repetition."""
    bases = {one.repetition: _value(metric, one.reading) for one in samples if one.subject == base}
    return _spread(
        [
            _value(metric, one.reading) / bases[one.repetition]
            for one in samples
            if one.subject == subject and bases.get(one.repetition)
        ]
    )


def _value(metric: Metric, reading: Reading) -> float:
    return reading.rate if metric is Metric.RATE else reading.p50_us or 0.0


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None

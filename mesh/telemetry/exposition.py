"""Metrics as the text Prometheus reads (exposition format 0.0.4), without holding up the data plane.

prometheus_client writes some 20 microseconds a sample with labels as many as ours: a tenth of a second for a thousand
pairs of workloads, during which no connection would be accepted. A ``PreparedFamily`` brings its labels as ready text,
which makes a sample a string concatenation, and the page is written in slices between which other tasks run. Families
of any other kind go through prometheus_client's own writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SLICE: Final = 500
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Row(NamedTuple):
    """One sample of a ``PreparedFamily``."""

    label_text: str
    """As ``label_text`` makes it."""
    label_values: Sequence[str]
    value: int


class PreparedFamily(Metric):
    """A counter family whose samples hold ready label text; reads as any other family for whom that is no use."""

    def __init__(self, name: str, documentation: str, label_names: Sequence[str], rows: Sequence[Row]) -> None:
        super().__init__(name, documentation, "counter")
        self._label_names = label_names
        self._rows = rows

    @property
    def samples(self) -> list[Sample]:
        """All samples, made at each call."""
        return [
            Sample(f"{self.name}_total", dict(zip(self._label_names, row.label_values, strict=True)), row.value)
            for row in self._rows
        ]

    @samples.setter
    def samples(self, value: list[Sample]) -> None:
        assert not value, "samples come from rows"

    def slices(self) -> Iterator[str]:
        """The family's text, in pieces that take well under a millisecond each to make."""
        name = f"{self.name}_total"
        yield f"# HELP {name} {self.documentation}\n# TYPE {name} counter\n"
        for start in range(0, len(self._rows), _SLICE):
            rows = self._rows[start : start + _SLICE]
            yield "".join([f"{name}{text} {value}\n" for text, _, value in rows])


class HistogramRow(NamedTuple):
    """One label set of a ``PreparedHistogram``."""

    label_text: str
    """As ``label_text`` makes it; not empty."""
    label_values: Sequence[str]
    counts: Sequence[int]
    """Of each bucket by itself, the one without bound last."""
    total: float
    """Sum of what was observed."""


class PreparedHistogram(Metric):
    """A histogram family whose samples hold ready label text."""

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str],
        bounds: Sequence[float],
        rows: Sequence[HistogramRow],
    ) -> None:
        super().__init__(name, documentation, "histogram")
        self._label_names = label_names
        self._bounds = [*(f"{bound:g}" for bound in bounds), "+Inf"]
        self._rows = rows

    @property
    def samples(self) -> list[Sample]:
        """All samples, made at each call."""
        samples = []
        for row in self._rows:
            labels = dict(zip(self._label_names, row.label_values, strict=True))
            for bound, count in zip(self._bounds, accumulate(row.counts), strict=True):
                samples.append(Sample(f"{self.name}_bucket", {**labels, "le": bound}, count))
            samples.append(Sample(f"{self.name}_sum", labels, row.total))
            samples.append(Sample(f"{self.name}_count", labels, sum(row.counts)))
        return samples

    @samples.setter
    def samples(self, value: list[Sample]) -> None:
        assert not value, "samples come from rows"

    def slices(self) -> Iterator[str]:
        """The family's text, in pieces that take well under a millisecond each to make."""
        name = self.name
        yield f"# HELP {name} {self.documentation}\n# TYPE {name} histogram\n"
        ends = [f',le="{bound}"}}' for bound in self._bounds]
        step = max(1, _SLICE // (len(ends) + 2))
        for start in range(0, len(self._rows), step):
            lines = []
            for text, _, counts, total in self._rows[start : start + step]:
                begin = f"{name}_bucket{text[:-1]}"
                reached = 0
                for end, count in zip(ends, counts, strict=True):
                    reached += count
                    lines.append(f"{begin}{end} {reached}\n")
                lines.append(f"{name}_sum{text} {total:.15g}\n{name}_count{text} {reached}\n")
            yield "".join(lines)


class _Families:
    """The part of a registry that prometheus_client's writer asks for."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def label_text(names: Sequence[str], values: Sequence[str]) -> str:
    """``{name="value",...}`` with values escaped."""
    pairs = zip(names, values, strict=True)
    return "{" + ",".join([f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs]) + "}"


async def render(registry: CollectorRegistry) -> bytes:
    """The page of one scrape."""
    families = list(registry.collect())
    others = _Families([family for family in families if not isinstance(family, PreparedFamily | PreparedHistogram)])
    pieces = [generate_latest(others)]
    for family in families:
        if isinstance(family, PreparedFamily | PreparedHistogram):
            for piece in family.slices():
                pieces.append(piece.encode())
                await trio.lowlevel.checkpoint()
    return b"".join(pieces)

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest

from benchmarks import picture
from benchmarks.cases import AMBIMESH, CASES, ENVOY, FULL, NO_MESH
from benchmarks.figures import Sample
from benchmarks.loads import Reading
from benchmarks.machine import Machine
from benchmarks.measure import Measured
from benchmarks.results import Results, results


def sample(subject: str, repetition: int, rate: float) -> Sample:
    reading = Reading(rate=rate, work=rate, p50_us=1000 / rate, p99_us=4000 / rate)
    return Sample(
        subject=subject,
        repetition=repetition,
        reading=reading,
        proxy_cpu_seconds=1,
        lab_cpu_seconds=2,
        others_cores=0,
    )


@pytest.fixture
def found(machine: Machine) -> Results:
    """All cases, of which one has no sample with the mesh."""
    measured = Measured()
    for case in CASES:
        for subject, rate in ((NO_MESH, 10.0), (AMBIMESH, 4.0), (ENVOY, 3.0)):
            if case.placement in subject.placements and (case.name, subject) != ("same-bulk", AMBIMESH):
                measured.samples.setdefault(case.name, []).extend(
                    sample(subject.name, repetition, rate + repetition) for repetition in range(3)
                )
    return results(machine, FULL, measured)


def test_every_row_with_a_ratio_is_in_one_panel(found: Results) -> None:
    drawn = [row.case for panel in picture.panels(found) for row in panel.rows]
    assert sorted(drawn) == sorted(case.name for case in CASES if case.name != "same-bulk")
    assert [len({row.metric for row in panel.rows}) for panel in picture.panels(found)] == [1, 1, 1]


def test_a_picture_has_the_rows_the_marks_and_both_meshes(found: Results) -> None:
    figure = picture.figure_of(found)
    labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert labels[:3] == ["bulk TCP, 1 connection", "bulk TCP, 4 connections", "32 x 100 B"]
    assert labels[-2:] == ["cross node, 1 x 100 B, p50", "same node, 1 x 100 B, p50"]
    bars = [len(axes.patches) for axes in figure.axes]
    assert bars == [2 * 8, 6, 2 + 1]
    across, *_ = figure.axes
    marks = {round(float(line.get_xdata()[0]), 2) for line in across.lines}  # type: ignore[index, arg-type]
    assert {0.48, 0.65, 0.28, 0.40, 1.0} <= marks
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("ambimesh", "envoy", "required of ambimesh", "aimed for", "no mesh")
    ]


def test_a_picture_is_written(found: Results, tmp_path: Path) -> None:
    target = tmp_path / "results.png"
    picture.draw(found, target)
    content = target.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", content[16:24])
    assert 1000 < width < 2000 < 2 * height


def test_a_run_without_any_ratio_says_so(found: Results, tmp_path: Path) -> None:
    nothing = msgspec.structs.replace(found, rows=())
    assert "nothing to compare was measured" in [text.get_text() for text in picture.figure_of(nothing).texts]
    picture.draw(nothing, tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 1000

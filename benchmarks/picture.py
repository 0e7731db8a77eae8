"""The picture of a run: ratios to no mesh per case, the mesh and Envoy side by side, with the marks that are required.

Three panels, because their directions and ranges differ: rates across nodes, rates on one node, latencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.cases import AMBIMESH, ENVOY, NO_MESH, Metric, Placement
from benchmarks.figures import Row, Spread
from benchmarks.report import number
from benchmarks.results import Results

_COLOURS = {AMBIMESH.name: "#2a6fb0", ENVOY.name: "#c8741f"}
_INK, _QUIET, _GRID, _MARK = "#222222", "#666666", "#e3e3e3", "#8f1d2c"
_BAR, _ROW_INCHES, _FRAME_INCHES, _WIDTH_INCHES = 0.34, 0.5, 0.95, 10.0
_DOTS_PER_INCH = 130


@dataclass(frozen=True, slots=True)
class Panel:
    """Cases that share an axis."""

    title: str
    rows: tuple[Row, ...]


def panels(results: Results) -> list[Panel]:
    """What is drawn: each row once, those without any ratio nowhere."""
    drawn = [row for row in results.rows if any(one.ratio for one in row.figures)]
    rates = [row for row in drawn if row.metric == Metric.RATE.value]
    found = [
        Panel(
            f"{placement.capitalize()}: rate, as a multiple of no mesh (more is better)",
            tuple(row for row in rates if row.placement == placement.value),
        )
        for placement in Placement
    ]
    latencies = tuple(row for row in drawn if row.metric == Metric.MEDIAN_LATENCY.value)
    found.append(Panel("Latency, as a multiple of no mesh (less is better)", latencies))
    return [panel for panel in found if panel.rows]


def draw(results: Results, target: Path) -> None:
    """Write the picture as PNG."""
    figure_of(results).savefig(target, format="png")


def figure_of(results: Results) -> Figure:
    """The picture; of a run without any ratio one that says so."""
    shown = panels(results)
    heights = [_FRAME_INCHES + _ROW_INCHES * len(panel.rows) for panel in shown] or [1.0]
    figure = Figure(figsize=(_WIDTH_INCHES, sum(heights) + 1.0), dpi=_DOTS_PER_INCH, layout="constrained")
    if shown:
        axes = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        for one, panel in zip(axes, shown, strict=True):
            _draw_panel(one, panel)
        figure.legend(handles=_legend(shown), loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    else:
        figure.text(0.5, 0.5, "nothing to compare was measured", ha="center", color=_QUIET)
    figure.supxlabel(_conditions(results), fontsize=8, color=_QUIET)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10, color=_INK)
    highest = max(_highest(row) for row in panel.rows)
    for place, row in enumerate(panel.rows):
        _draw_row(axes, place, row, highest)
    axes.axvline(1.0, color=_QUIET, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlim(0, highest * 1.12)
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(panel.rows)), [_label(row, panel) for row in panel.rows])
    axes.tick_params(axis="both", length=0, labelsize=9, colors=_INK)
    axes.grid(axis="x", color=_GRID, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_row(axes: Axes, place: int, row: Row, scale: float) -> None:
    ratios = [(one.subject, one.ratio) for one in row.figures if one.ratio is not None]
    for index, (subject, ratio) in enumerate(ratios):
        at = place + (index - (len(ratios) - 1) / 2) * _BAR * 1.08
        axes.barh(at, ratio.median, height=_BAR, color=_COLOURS.get(subject, _QUIET), zorder=2)
        if ratio.highest > ratio.lowest:
            axes.plot([ratio.lowest, ratio.highest], [at, at], color=_INK, linewidth=1, zorder=4)
        # Inside, at its start, where no mark is; a bar too short for that has its figure behind it.
        fits = ratio.lowest > 0.08 * scale
        axes.text(
            0.01 * scale if fits else ratio.highest + 0.01 * scale,
            at,
            number(ratio.median),
            va="center",
            fontsize=9,
            fontweight="bold",
            color="white" if fits else _INK,
            zorder=6,
        )
    for mark, style, width in ((row.required, "-", 2.2), (row.aim, (0, (2, 1.5)), 1.4)):
        if mark is not None:
            axes.plot([mark, mark], [place - 0.44, place + 0.44], color=_MARK, linewidth=width, ls=style, zorder=5)


def _highest(row: Row) -> float:
    ratios: list[Spread] = [one.ratio for one in row.figures if one.ratio is not None]
    return max(*(ratio.highest for ratio in ratios), row.required or 0.0, row.aim or 0.0, 1.0)


def _label(row: Row, panel: Panel) -> str:
    mixed = len({one.placement for one in panel.rows}) > 1
    return f"{row.placement}, {row.title}" if mixed else row.title


def _legend(shown: Sequence[Panel]) -> list[Patch | Line2D]:
    subjects = dict.fromkeys(
        one.subject for panel in shown for row in panel.rows for one in row.figures if one.ratio is not None
    )
    handles: list[Patch | Line2D] = [Patch(color=_COLOURS.get(name, _QUIET), label=name) for name in subjects]
    handles.append(Line2D([], [], color=_MARK, linewidth=2.2, label="required of ambimesh"))
    handles.append(Line2D([], [], color=_MARK, linewidth=1.4, ls=(0, (2, 1.5)), label="aimed for"))
    handles.append(Line2D([], [], color=_QUIET, linewidth=1, ls=(0, (1, 2)), label=NO_MESH.name))
    return handles


def _conditions(results: Results) -> str:
    machine, settings = results.machine, results.settings
    envoy = f", Envoy {machine.envoy}" if machine.envoy else ""
    held = f" (a held load: one of {settings.held_seconds:g} s)" if any(row.held for row in results.rows) else ""
    return (
        f"Bars: medians of {settings.repetitions} repetitions of {settings.seconds:g} s{held}; lines: lowest to "
        f"highest. {machine.date} UTC, commit {machine.commit}.\n"
        f"{machine.cpu}, {machine.cores} cores; Linux {machine.kernel}, Python {machine.python}{envoy}."
    )

"""Tables and picture of a run at layer 7."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from matplotlib.figure import Figure

from benchmarks.layer7.cases import CASES
from benchmarks.layer7.measure import Layer7, Row
from benchmarks.machine import Machine
from benchmarks.report import Table, markdown_table, number, spread, yes_or_no

NAME = "results-layer7"
_COLUMNS = (
    *("case", "subject", "requests/s", "p50 us", "p99 us", "CPU s /100k"),
    *("rate / this", "p99 / this", "required", "reached"),
)
_JUDGED, _OTHER, _MARK, _INK = "#2a6fb0", "#c8741f", "#8f1d2c", "#222222"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is written to JSON."""

    machine: Machine
    layer7: Layer7


def table(found: Layer7) -> Table:
    """One row for each subject of each case; the first subject of a case is the one that is judged."""
    lines: list[tuple[str, ...]] = []
    for row in found.rows:
        for place, one in enumerate(row.figures):
            lines.append(
                (
                    row.title if not place else "",
                    one.subject,
                    spread(one.rate),
                    spread(one.p50_us),
                    spread(one.p99_us),
                    number(one.cpu),
                    spread(one.ratio) if one.ratio else "",
                    spread(one.p99_ratio) if one.p99_ratio else "",
                    "; ".join(row.required) if not place else "",
                    " ".join(map(yes_or_no, row.reached)) if not place else "",
                )
            )
    return Table("Layer 7", _COLUMNS, tuple(lines))


def notes(found: Layer7, machine: Machine) -> Iterator[str]:
    """What a reader has to know beside the figures."""
    yield (
        f"Medians (lowest..highest) of {found.repetitions} repetitions of {found.seconds:g} s; ratios are those of the "
        'first subject of a case to the one in whose line they stand ("this"), within each repetition. Client and '
        "endpoint are one C program; paths differ from request to request, one request in four has the header that one "
        "route asks for."
    )
    yield (
        "The plain proxies run on one core, one worker each, and the load's two ends on another, the same for all; CPU "
        "seconds are the proxy's. Both match routes by prefix and header, split by weight, would try again, admit by "
        "method and path, refuse by header, count, and write Istio's access line for each request to a file."
    )
    if any(row.case == "http-mesh" for row in found.rows):
        yield (
            "Through the whole mesh: client on node1, ztunnel, waypoint, ztunnel, endpoints on node2, all on the "
            "machine's cores together with the load; CPU seconds are of all of them."
        )
    if machine.envoy:
        yield f"Envoy {machine.envoy}."
    for row in found.rows:
        for problem in row.problems:
            yield f"{row.title}: {problem}"


def markdown(found: Layer7, machine: Machine) -> str:
    """The file that is committed."""
    made = table(found)
    lines = [
        "# Figures of layer 7",
        "",
        f"Made by the cases of layer 7 of `python -m benchmarks` on {machine.date} UTC at commit {machine.commit}.",
        "",
        f"Machine: {machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB; Linux {machine.kernel}, Python "
        f"{machine.python}.",
        "",
        *(f"{note}\n" for note in notes(found, machine)),
        f"![Requests per second, per case]({NAME}.png)",
        "",
        *markdown_table(made),
        "",
    ]
    return "\n".join(lines)


def write(found: Layer7, machine: Machine, folder: Path) -> None:
    """Write all three files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.md").write_text(markdown(found, machine))
    encoded = msgspec.json.encode(Report(machine=machine, layer7=found))
    (folder / f"{NAME}.json").write_bytes(msgspec.json.format(encoded, indent=1) + b"\n")
    picture(found, machine).savefig(folder / f"{NAME}.png", format="png")


def picture(found: Layer7, machine: Machine) -> Figure:
    """Requests per second of each case, with what is required of the subject that is judged."""
    rows = [row for row in found.rows if row.figures]
    figure = Figure(figsize=(10.0, 1.3 + 1.25 * max(len(rows), 1)), dpi=130, layout="constrained")
    if not rows:
        figure.text(0.5, 0.5, "nothing was measured", ha="center")
        return figure
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for one, row in zip(axes, rows, strict=True):
        one.set_title(row.title, loc="left", fontsize=10, color=_INK)
        names = [each.subject for each in row.figures]
        for place, each in enumerate(row.figures):
            one.barh(place, each.rate.median, height=0.6, color=_OTHER if place else _JUDGED, zorder=2)
            one.plot([each.rate.lowest, each.rate.highest], [place, place], color=_INK, linewidth=1, zorder=3)
            text = f" {number(each.rate.median)}/s, p99 {number(each.p99_us.median)} us"
            one.text(each.rate.highest, place, text, va="center", fontsize=8)
        mark = _mark(row)
        if mark:
            one.plot([mark, mark], [-0.42, 0.42], color=_MARK, linewidth=2.2, zorder=4)
        one.set_xlim(0, 1.35 * max(mark, *(each.rate.highest for each in row.figures)))
        one.set_ylim(len(names) - 0.5, -0.5)
        one.set_yticks(range(len(names)), names)
        one.tick_params(axis="both", length=0, labelsize=8)
        for side in ("top", "right", "left", "bottom"):
            one.spines[side].set_visible(False)
    figure.supxlabel(
        f"Requests per second: medians, lines from lowest to highest; red: what is required. {machine.date} UTC, "
        f"commit {machine.commit}; {machine.cores} cores.",
        fontsize=8,
    )
    return figure


def _mark(row: Row) -> float:
    """The rate that is required of the first subject; 0: none."""
    bounds = next(case.bounds for case in CASES if case.name == row.case)
    if bounds.rate is not None:
        return bounds.rate
    return (bounds.rate_ratio or 0.0) * row.figures[1].rate.median if len(row.figures) > 1 else 0.0

"""Tables of a run: rows of text that the terminal and Markdown share."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from benchmarks.cases import RESIDENT_AT_REST_BYTES, SUBJECTS
from benchmarks.figures import Row, Spread, SubjectFigures
from benchmarks.measure import MemoryFigures
from benchmarks.results import Results

_MIB = 1024 * 1024
_BASE, *_OTHERS = (subject.name for subject in SUBJECTS)

COLUMNS = (
    "case",
    _BASE,
    *(column for name in _OTHERS for column in (name, f"ratio to {_BASE}")),
    "required",
    "reached",
    f"p50 / p99 us, {_BASE}",
    *(column for name in _OTHERS for column in (f"p50 / p99 us, {name}", f"CPU s, {name}")),
)
MEMORY_COLUMNS = ("resident memory of ztunnel", "node1", "node2", "required", "reached")


def number(value: float) -> str:
    """Three significant digits below 1000, whole above, thousands apart: ``0.416``, ``15.2``, ``112,345``."""
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.9995 else 3
    return f"{value:.{digits}f}"


def spread(values: Spread | None) -> str:
    """``median (lowest..highest)``, or the one value there is."""
    if values is None:
        return "-"
    if values.lowest == values.highest:
        return number(values.median)
    return f"{number(values.median)} ({number(values.lowest)}..{number(values.highest)})"


def yes_or_no(reached: bool | None) -> str:
    """Whether a bound was reached; empty where there is none."""
    return "" if reached is None else "yes" if reached else "NO"


def case_cells(row: Row) -> tuple[str, ...]:
    """A case's cells under :data:`COLUMNS`."""
    by_subject = {one.subject: one for one in row.figures}
    cells = [row.title, _judged(row, by_subject.get(_BASE))]
    for name in _OTHERS:
        found = by_subject.get(name)
        cells += [_judged(row, found), spread(found.ratio) if found else "-"]
    cells += [row.required, yes_or_no(row.reached), _latencies(by_subject.get(_BASE))]
    for name in _OTHERS:
        found = by_subject.get(name)
        cells += [_latencies(found), _cpu(row, found)]
    return tuple(cells)


def memory_rows(memory: MemoryFigures) -> Iterator[tuple[str, ...]]:
    """The rows under :data:`MEMORY_COLUMNS`."""
    required = f"< {RESIDENT_AT_REST_BYTES // _MIB} MiB"
    rest = [f"{one.at_rest / _MIB:.1f} MiB" for one in memory.nodes]
    yield ("at rest, pods enrolled", *rest, required, yes_or_no(memory.at_rest < RESIDENT_AT_REST_BYTES))
    yield ("highest under the loads above", *(f"{one.under_load / _MIB:.1f} MiB" for one in memory.nodes), "", "")
    if memory.idle_connections:
        count = f"{memory.idle_connections:,} idle connections"
        yield (count, *(f"{one.idle_with / _MIB:.1f} MiB" for one in memory.nodes), "", "")
        each = [(one.idle_with - one.idle_before) / memory.idle_connections for one in memory.nodes]
        yield ("each of them", *(f"{number(size)} B" for size in each), "", "")


def notes(results: Results) -> Iterator[str]:
    """What a reader has to know beside the figures, one sentence each."""
    settings, others, memory = results.settings, results.others_cores, results.memory
    yield (
        f"Medians (lowest..highest) of {settings.repetitions} repetitions of {settings.seconds:g} s; a ratio is the "
        "median of the ratios of each repetition's pair, measured one right after the other, first the one, then the "
        "other. CPU seconds are the ztunnels' of both nodes, per GB in bulk, else per 100,000 operations."
    )
    if others:
        yield (
            f"Meanwhile {number(others.median)} of {results.machine.cores} cores were busy with something else "
            f"(median of all loads; highest {number(others.highest)})."
        )
    if memory.problem:
        yield f"Idle connections could not be measured: {memory.problem}"
    elif memory.idle_connections < memory.idle_wanted:
        yield (
            f"{memory.idle_wanted:,} idle connections were wanted; the limit on open files of a process admits "
            f"{memory.idle_connections:,}."
        )
    for row in results.rows:
        for problem in row.problems:
            yield f"{row.placement}, {row.title}: {problem}"
        for one in row.figures:
            if one.failed:
                yield f"{row.placement}, {row.title}, {one.subject}: {one.failed} connections failed."


def held_lines(results: Results) -> Iterator[str]:
    """A held case's slices, one line per subject."""
    for row in results.rows:
        for sample in results.samples.get(row.case, ()):
            if sample.reading.slices:
                rates = " ".join(f"{one.per_second:,.0f}" for one in sample.reading.slices)
                medians = " ".join(number(one.p50_us) for one in sample.reading.slices)
                highs = " ".join(number(one.p99_us) for one in sample.reading.slices)
                yield (
                    f"{row.placement}, {row.title}, {sample.subject}: per second {rates}; p50 us {medians}; "
                    f"p99 us {highs}"
                )


def markdown(results: Results) -> str:
    """The file that is committed."""
    machine = results.machine
    lines = [
        "# Figures",
        "",
        f"Made by `make bench` on {machine.date} UTC at commit {machine.commit}.",
        "",
        f"Machine: {machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB; Linux {machine.kernel}, Python "
        f"{machine.python}, {machine.openssl}, {machine.iperf3}, TCP {machine.congestion_control}.",
        "",
    ]
    lines += [f"{note}\n" for note in notes(results)]
    for placement in dict.fromkeys(row.placement for row in results.rows):
        rows = [case_cells(row) for row in results.rows if row.placement == placement]
        lines += [f"## {placement.capitalize()}", "", *_markdown_table(COLUMNS, rows), ""]
    lines += ["## Memory", "", *_markdown_table(MEMORY_COLUMNS, list(memory_rows(results.memory))), ""]
    held = list(held_lines(results))
    if held:
        lines += [f"## Held connects, in slices of {results.settings.slice_seconds:g} s", ""]
        lines += [f"- {line}" for line in held]
        lines.append("")
    return "\n".join(lines)


def encoded(results: Results) -> bytes:
    """The JSON file, single samples included."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def _markdown_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ("---",) * len(columns), *rows)]


def _judged(row: Row, found: SubjectFigures | None) -> str:
    if found is None:
        return "failed"
    return f"{spread(found.rate if row.metric == 'rate' else found.p50_us)} {row.unit}"


def _latencies(found: SubjectFigures | None) -> str:
    if found is None or found.p50_us is None or found.p99_us is None:
        return "-"
    return f"{number(found.p50_us.median)} / {number(found.p99_us.median)}"


def _cpu(row: Row, found: SubjectFigures | None) -> str:
    if found is None or found.proxy_cpu is None:
        return "-"
    return f"{number(found.proxy_cpu)} {'/GB' if row.unit == 'Gbit/s' else '/100k'}"

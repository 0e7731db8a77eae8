"""Tables of a run: rows of text that the terminal and Markdown share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from benchmarks.cases import (
    AMBIMESH,
    ENVOY,
    HELD_DECAY,
    HELD_TAIL,
    NO_MESH,
    RESIDENT_AT_REST_BYTES,
    SUBJECTS,
    Placement,
)
from benchmarks.figures import Row, Spread, SubjectFigures
from benchmarks.measure import MemoryFigures
from benchmarks.results import Results

_MIB = 1024 * 1024
PICTURE = "results.png"
_HELD_COLUMNS = (
    *("subject", "per second", "last / first", "required", "reached"),
    *("p50 us", "p99 us", "p99 / p50", "required", "reached"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """Column heads and rows of cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


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


def tables(results: Results) -> Iterator[Table]:
    """All tables of a run, in their order."""
    for placement in Placement:
        rows = [row for row in results.rows if row.placement == placement.value]
        if rows:
            subjects = [one.name for one in SUBJECTS if placement in one.placements and one.name in _measured(results)]
            yield _ratio_table(placement, rows, subjects)
            yield _cost_table(placement, rows, subjects)
    held = tuple(_held_rows(results))
    if held:
        slices = f"slices of {results.settings.slice_seconds:g} s"
        yield Table(f"Held: connect + request x 8, cross node, in {slices}", _HELD_COLUMNS, held)
    yield _memory_table(results.memory)


def _measured(results: Results) -> set[str]:
    return {one.subject for row in results.rows for one in row.figures} or {NO_MESH.name}


def _ratio_table(placement: Placement, rows: Sequence[Row], subjects: Sequence[str]) -> Table:
    against_envoy = ENVOY.name in subjects and AMBIMESH.name in subjects
    columns = ["case", *subjects]
    columns += [f"{name} / {NO_MESH.name}" for name in subjects if name != NO_MESH.name]
    columns += ["required", "reached", "aim", "reached"]
    columns += [f"{AMBIMESH.name} / {ENVOY.name}", f"ahead of {ENVOY.name}"] if against_envoy else []
    lines: list[tuple[str, ...]] = []
    for row in rows:
        figures = {one.subject: one for one in row.figures}
        cells = [row.title, *(_judged(row, figures.get(name)) for name in subjects)]
        cells += [spread(_ratio(figures.get(name))) for name in subjects if name != NO_MESH.name]
        cells += [row.required_text, yes_or_no(row.reached), row.aim_text, yes_or_no(row.aim_reached)]
        cells += [spread(row.to_peer), yes_or_no(row.ahead)] if against_envoy else []
        lines.append(tuple(cells))
    return Table(placement.capitalize(), tuple(columns), tuple(lines))


def _cost_table(placement: Placement, rows: Sequence[Row], subjects: Sequence[str]) -> Table:
    with_proxies = [one.name for one in SUBJECTS if one.proxy and one.name in subjects]
    columns = ["case", *(f"p50 / p99 us, {name}" for name in subjects)]
    columns += [f"CPU s of {name}" for name in with_proxies]
    columns += [f"CPU s in all, {name}" for name in subjects]
    lines: list[tuple[str, ...]] = []
    for row in rows:
        figures = {one.subject: one for one in row.figures}
        unit = "/GB" if row.unit == "Gbit/s" else "/100k"
        cells = [row.title, *(_latencies(figures.get(name)) for name in subjects)]
        cells += [_cost(figures[name].proxy_cpu, unit) if name in figures else "-" for name in with_proxies]
        cells += [_cost(figures[name].lab_cpu, unit) if name in figures else "-" for name in subjects]
        lines.append(tuple(cells))
    return Table(f"{placement.capitalize()}: latency and CPU time", tuple(columns), tuple(lines))


def _held_rows(results: Results) -> Iterator[tuple[str, ...]]:
    for row in results.rows:
        for one in row.held:
            judged = one.subject == AMBIMESH.name
            yield (
                one.subject,
                " ".join(number(value) for value in one.rates),
                number(one.decay),
                f">= {HELD_DECAY:.2f}" if judged else "",
                yes_or_no(one.steady) if judged else "",
                " ".join(number(value) for value in one.p50_us),
                " ".join(number(value) for value in one.p99_us),
                number(one.tail),
                f"<= {HELD_TAIL:.2f}" if judged else "",
                yes_or_no(one.tight) if judged else "",
            )


def _memory_table(memory: MemoryFigures) -> Table:
    required = f"< {RESIDENT_AT_REST_BYTES // _MIB} MiB"
    reached = yes_or_no(memory.at_rest < RESIDENT_AT_REST_BYTES) if memory.at_rest is not None else ""
    nodes = memory.nodes
    rows = [
        ("at rest, pods served", *(_mib(one.at_rest) for one in nodes), "", ""),
        ("... shared pages divided", *(_mib(one.at_rest_proportional) for one in nodes), "", ""),
        ("highest under the loads above", *(_mib(one.under_load) for one in nodes), "", ""),
    ]
    if memory.one_process:
        alone = [memory.one_process.get(one.node) if one.subject == AMBIMESH.name else None for one in nodes]
        cells = ["-" if size is None else _mib(size) for size in alone]
        rows.append(("at rest, one process (workers: 1)", *cells, required, reached))
    if memory.idle_connections:
        held = [one if one.idle_with else None for one in nodes]
        cells = [_mib(one.idle_with) if one else "-" for one in held]
        rows.append((f"{memory.idle_connections:,} idle connections", *cells, "", ""))
        each = [(one.idle_with - one.idle_before) / memory.idle_connections if one else None for one in held]
        rows.append(("each of them", *("-" if size is None else f"{number(size)} B" for size in each), "", ""))
    columns = ("resident memory", *(f"{one.subject}, {one.node}" for one in nodes), "required of ambimesh", "reached")
    return Table("Memory", columns, tuple(rows))


def notes(results: Results) -> Iterator[str]:
    """What a reader has to know beside the figures, one sentence each."""
    settings, others, memory = results.settings, results.others_cores, results.memory
    yield (
        f"Medians (lowest..highest) of {settings.repetitions} repetitions of {settings.seconds:g} s; a ratio is the "
        "median of the ratios within each repetition, in which all are measured one right after the other, in an order "
        "that rotates. CPU seconds are of the proxies of both nodes, and of all in the lab, both ends of the load "
        "included; per GB in bulk, else per 100,000 operations. The mesh and Envoy admit the client's identity by "
        "policy, and write their access logs. The ends of a lone connection are kept on cores of their own."
    )
    if settings.envoy_concurrency:
        yield (
            f"Envoy {results.machine.envoy}: one on each side, {settings.envoy_concurrency} worker threads each, in "
            "the pods' network namespaces; HTTP/2 CONNECT over mutual TLS 1.3 with windows of 4 and 16 MiB. It is "
            "dialled on loopback, so it captures nothing, and its destination is fixed."
        )
    if others:
        yield (
            f"Meanwhile {number(others.median)} of {results.machine.cores} cores were busy with something else "
            f"(median of all loads; highest {number(others.highest)})."
        )
    for problem in memory.problems:
        yield f"Idle connections could not be measured: {problem}"
    if memory.idle_connections < memory.idle_wanted:
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
    lines += [f"![Ratios to no mesh, per case]({PICTURE})", ""]
    for table in tables(results):
        lines += [f"## {table.title}", "", *markdown_table(table), ""]
    return "\n".join(lines)


def encoded(results: Results) -> bytes:
    """The JSON file, single samples included."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"


def markdown_table(table: Table) -> list[str]:
    """A table's lines."""
    return [f"| {' | '.join(cells)} |" for cells in (table.columns, ("---",) * len(table.columns), *table.rows)]


def _judged(row: Row, found: SubjectFigures | None) -> str:
    if found is None:
        return "failed"
    return f"{spread(found.rate if row.metric == 'rate' else found.p50_us)} {row.unit}"


def _ratio(found: SubjectFigures | None) -> Spread | None:
    return found.ratio if found else None


def _latencies(found: SubjectFigures | None) -> str:
    if found is None or found.p50_us is None or found.p99_us is None:
        return "-"
    return f"{number(found.p50_us.median)} / {number(found.p99_us.median)}"


def _cost(seconds: float | None, unit: str) -> str:
    return "-" if seconds is None else f"{number(seconds)} {unit}"


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"

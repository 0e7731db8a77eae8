from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.cases import AMBIMESH, CASES, FULL, NO_MESH, Plan
from benchmarks.figures import Sample, Spread
from benchmarks.loads import Reading, Slice
from benchmarks.machine import Machine, cpu_model
from benchmarks.measure import Measured, MemoryFigures, NodeMemory, fitting, order
from benchmarks.results import Results, results

MIB = 1 << 20
MACHINE = Machine(
    cpu="A Processor",
    cores=2,
    memory_gib=8,
    kernel="6.18.0",
    python="3.11.2",
    openssl="OpenSSL 3.0",
    iperf3="iperf 3.12",
    congestion_control="cubic",
    date="2026-11-23 17:00",
    commit="0123456789ab",
)
PLAN = Plan(
    cases=tuple(case for case in CASES if case.name in ("cross-bulk", "same-32x100", "cross-connect-held")),
    repetitions=2,
    seconds=4,
    held_seconds=20,
    slice_seconds=10,
    idle_connections=10_000,
)


def sample(subject: str, rate: float, slices: tuple[Slice, ...] = ()) -> Sample:
    reading = Reading(rate=rate, work=rate, p50_us=100, p99_us=400, slices=slices, failed=len(slices))
    return Sample(subject=subject, repetition=0, reading=reading, proxy_cpu_seconds=3, others_cores=0.25)


def memory(node: str, rest: int) -> NodeMemory:
    return NodeMemory(
        node=node,
        at_rest=rest * MIB,
        under_load=(rest + 5) * MIB,
        idle_before=rest * MIB,
        idle_with=(rest + 20) * MIB,
    )


@pytest.fixture
def found() -> Results:
    held = tuple(Slice(per_second=rate, p50_us=1000, p99_us=2500) for rate in (5000, 4000))
    measured = Measured(
        samples={
            "cross-bulk": [sample(NO_MESH.name, 10), sample(AMBIMESH.name, 3)],
            "cross-connect-held": [sample(NO_MESH.name, 15000), sample(AMBIMESH.name, 4500, held)],
            "same-32x100": [sample(NO_MESH.name, 100_000)],
        },
        problems={"same-32x100": ["ambimesh: rr: connect: Connection refused"]},
        memory=MemoryFigures(
            nodes=(
                memory("node1", 50),
                memory("node2", 61),
            ),
            idle_connections=9000,
            idle_wanted=10_000,
        ),
    )
    return results(MACHINE, PLAN, measured)


def test_markdown_says_what_was_measured_where_and_what_was_missed(found: Results) -> None:
    text = report.markdown(found)
    for part in (
        "A Processor, 2 cores, 8 GiB; Linux 6.18.0, Python 3.11.2, OpenSSL 3.0, iperf 3.12, TCP cubic.",
        "at commit 0123456789ab",
        "| bulk TCP, 1 connection | 10.0 Gbit/s | 3.00 Gbit/s | 0.300 | >= 0.42 | NO |",
        "| failed | - |",
        "same node, 32 x 100 B: ambimesh: rr: connect: Connection refused",
        "| at rest, pods enrolled | 50.0 MiB | 61.0 MiB | < 60 MiB | NO |",
        "the limit on open files of a process admits 9,000",
        "per second 5,000 4,000; p50 us 1,000 1,000; p99 us 2,500 2,500",
        "cross node, connect + request x 8, held, ambimesh: 2 connections failed.",
        "0.250 of 2 cores were busy with something else",
    ):
        assert part in text


def test_every_table_of_the_markdown_is_rectangular(found: Results) -> None:
    widths: set[int] = set()
    for line in [*report.markdown(found).splitlines(), ""]:
        if line.startswith("|"):
            widths.add(line.count("|"))
        else:
            assert len(widths) <= 1
            widths.clear()


def test_memory_per_idle_connection(found: Results) -> None:
    rows = {cells[0]: cells for cells in report.memory_rows(found.memory)}
    assert rows["each of them"][1] == f"{report.number(20 * MIB / 9000)} B"


def test_json_holds_every_sample(found: Results) -> None:
    value = json.loads(report.encoded(found))
    assert value["samples"]["cross-connect-held"][1]["reading"]["slices"][1]["per_second"] == 4000
    assert value["rows"][0]["figures"][1]["ratio"] == {"median": 0.3, "lowest": 0.3, "highest": 0.3}
    assert value["machine"]["commit"] == "0123456789ab"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4161, "0.416"),
        (0.99951, "1.00"),
        (9.996, "10.0"),
        (15.24, "15.2"),
        (99.96, "100"),
        (112345.4, "112,345"),
        (0, "0.000"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert report.number(value) == text


def test_one_value_has_no_spread() -> None:
    assert report.spread(Spread(2, 2, 2)) == "2.00"
    assert report.spread(Spread(2, 1, 3)) == "2.00 (1.00..3.00)"


def test_repetitions_are_the_outer_loop_and_held_cases_come_last() -> None:
    names = [(case.name, repetition) for case, repetition in order(PLAN)]
    assert names == [
        ("cross-bulk", 0),
        ("same-32x100", 0),
        ("cross-bulk", 1),
        ("same-32x100", 1),
        ("cross-connect-held", 0),
    ]
    assert len(order(FULL)) * 2 == FULL.loads


@pytest.mark.parametrize(("limit", "count"), [(20_000, 10_000), (8000, 7000), (500, 0)])
def test_idle_connections_fit_the_descriptor_limit(limit: int, count: int) -> None:
    assert fitting(10_000, limit) == count


def test_processor_names() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: Some   CPU @ 2 GHz\nmodel name\t: other\n") == "Some CPU @ 2 GHz"
    assert cpu_model("") != ""

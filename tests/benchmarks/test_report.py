from __future__ import annotations

import json

import msgspec
import pytest

from benchmarks import report
from benchmarks.cases import AMBIMESH, CASES, ENVOY, FULL, NO_MESH, SUBJECTS, Plan
from benchmarks.figures import Sample, Spread
from benchmarks.loads import Reading, Slice
from benchmarks.machine import Machine, cpu_model, envoy_version
from benchmarks.measure import Measured, MemoryFigures, NodeMemory, fitting, order, rotated
from benchmarks.results import Results, results

MIB = 1 << 20
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
    return Sample(
        subject=subject, repetition=0, reading=reading, proxy_cpu_seconds=3, lab_cpu_seconds=8, others_cores=0.25
    )


def memory(subject: str, node: str, rest: int) -> NodeMemory:
    return NodeMemory(
        subject=subject,
        node=node,
        at_rest=rest * MIB,
        at_rest_proportional=(rest - 10) * MIB,
        under_load=(rest + 5) * MIB,
        idle_before=rest * MIB,
        idle_with=(rest + 20) * MIB,
    )


@pytest.fixture
def found(machine: Machine) -> Results:
    held = tuple(Slice(per_second=rate, p50_us=1000, p99_us=2500) for rate in (5000, 4000))
    measured = Measured(
        samples={
            "cross-bulk": [sample(NO_MESH.name, 10), sample(AMBIMESH.name, 5), sample(ENVOY.name, 8)],
            "cross-connect-held": [sample(NO_MESH.name, 15000), sample(AMBIMESH.name, 4500, held)],
            "same-32x100": [sample(NO_MESH.name, 100_000)],
        },
        problems={"same-32x100": ["ambimesh: rr: connect: Connection refused"]},
        memory=MemoryFigures(
            one_process={"node1": 50 * MIB, "node2": 61 * MIB},
            nodes=(
                memory(AMBIMESH.name, "node1", 50),
                memory(AMBIMESH.name, "node2", 61),
                NodeMemory(subject=ENVOY.name, node="node1", at_rest=70 * MIB, under_load=80 * MIB),
            ),
            idle_connections=9000,
            idle_wanted=10_000,
            problems=("envoy: not open",),
        ),
    )
    return results(machine, PLAN, measured)


def test_markdown_says_what_was_measured_where_and_what_was_missed(found: Results) -> None:
    text = report.markdown(found)
    for part in (
        "A Processor, 2 cores, 8 GiB; Linux 6.18.0, Python 3.11.2, OpenSSL 3.0, iperf 3.12, TCP cubic.",
        "at commit 0123456789ab",
        "| case | no mesh | ambimesh | envoy | ambimesh / no mesh | envoy / no mesh | required | reached | aim "
        "| reached | ambimesh / envoy | ahead of envoy |",
        "| bulk TCP, 1 connection | 10.0 Gbit/s | 5.00 Gbit/s | 8.00 Gbit/s | 0.500 | 0.800 | >= 0.48 | yes | >= 0.65 "
        "| NO | 0.625 | NO |",
        "| bulk TCP, 1 connection | 100 / 400 | 100 / 400 | 100 / 400 | 0.600 /GB | 0.375 /GB | 0.800 /GB | 1.60 /GB "
        "| 1.00 /GB |",
        "| 32 x 100 B | 100,000 /s | failed | - | >= 2.30 |  | >= 3.00 |  |",
        "Envoy 1.40.0 BoringSSL: one on each side, 2 worker threads each",
        "](results.png)",
        "same node, 32 x 100 B: ambimesh: rr: connect: Connection refused",
        "| at rest, pods served | 50.0 MiB | 61.0 MiB | 70.0 MiB |  |  |",
            "| at rest, one process (workers: 1) | 50.0 MiB | 61.0 MiB | - | < 60 MiB | NO |",
        "| ... shared pages divided | 40.0 MiB | 51.0 MiB |",
        "| 9,000 idle connections | 70.0 MiB | 81.0 MiB | - |",
        "Idle connections could not be measured: envoy: not open",
        "the limit on open files of a process admits 9,000",
        "| ambimesh | 5,000 4,000 | 0.800 | >= 0.90 | NO | 1,000 1,000 | 2,500 2,500 | 4.00 | <= 4.00 | yes |",
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
    *_, table = report.tables(found)
    rows = {cells[0]: cells for cells in table.rows}
    assert rows["each of them"][1] == f"{report.number(20 * MIB / 9000)} B"


def test_what_was_left_out_has_no_column(found: Results) -> None:
    alone = [row for row in found.rows if row.case == "same-32x100"]
    first, second, memory = report.tables(msgspec.structs.replace(found, rows=tuple(alone)))
    assert [column for column in first.columns if "ambimesh" in column or "envoy" in column] == []
    assert second.columns == ("case", "p50 / p99 us, no mesh", "CPU s in all, no mesh")
    assert memory.title == "Memory"


def test_json_holds_every_sample(found: Results) -> None:
    value = json.loads(report.encoded(found))
    assert value["samples"]["cross-connect-held"][1]["reading"]["slices"][1]["per_second"] == 4000
    assert value["rows"][0]["figures"][1]["ratio"] == {"median": 0.5, "lowest": 0.5, "highest": 0.5}
    assert msgspec.json.decode(report.encoded(found), type=Results) == found
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
    assert sum(len(FULL.subjects_of(case)) for case, _ in order(FULL)) == FULL.loads


def test_every_subject_is_in_every_place_once() -> None:
    orders = [rotated(SUBJECTS, repetition) for repetition in range(len(SUBJECTS))]
    assert all(set(places) == set(SUBJECTS) for places in (*orders, *zip(*orders, strict=True)))
    assert rotated((), 1) == []


@pytest.mark.parametrize(("limit", "count"), [(20_000, 10_000), (8000, 7000), (500, 0)])
def test_idle_connections_fit_the_descriptor_limit(limit: int, count: int) -> None:
    assert fitting(10_000, limit) == count


def test_versions_of_envoy() -> None:
    said = "/a/path/envoy  version: 0123abc/1.40.0/Clean/RELEASE/BoringSSL"
    assert envoy_version(said) == "1.40.0 BoringSSL"
    assert envoy_version("") == "unknown"


def test_processor_names() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: Some   CPU @ 2 GHz\nmodel name\t: other\n") == "Some CPU @ 2 GHz"
    assert cpu_model("") != ""

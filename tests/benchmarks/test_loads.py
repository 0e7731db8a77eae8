from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.cases import Bulk, Connects, Load, RoundTrips
from benchmarks.loads import UnusableOutput, command, idle_command, read

RR = Path("/somewhere/rr")
RR_OUTPUT = (
    b'{"mode":"crr","connections":8,"size":100,"seconds":2.000,"operations":100,"failed":3,'
    b'"slices":[{"per_second":60.0,"p50_us":10.0,"p99_us":20.0,"max_us":30.0},{"per_second":0.0}],'
    b'"per_second":50.0,"p50_us":11.5,"p99_us":21.5,"max_us":30.0}\n'
)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Bulk(4), "iperf3 -J -c 10.0.0.1 -p 5201 -t 2 -P 4"),
        (RoundTrips(32, 16384), "/somewhere/rr rr 10.0.0.1 7000 32 16384 1.5 10"),
        (Connects(8, "reset"), "/somewhere/rr crr 10.0.0.1 7000 8 100 1.5 10"),
        (Connects(8, "server"), "/somewhere/rr crf 10.0.0.1 7000 8 100 1.5 10"),
    ],
)
def test_commands(load: Load, expected: str) -> None:
    assert " ".join(command(load, RR, "10.0.0.1", 1.5, 10)) == expected


def test_iperf3_runs_for_a_second_at_least() -> None:
    argv = command(Bulk(1), RR, "10.0.0.1", 0.1)
    assert argv[argv.index("-t") + 1] == "1"


def test_idle_command() -> None:
    assert idle_command(RR, "10.0.0.1", 500, 80)[1:] == ["idle", "10.0.0.1", "7000", "500", "80"]


def test_reading_round_trips() -> None:
    reading = read(Connects(8, "reset"), RR_OUTPUT)
    assert (reading.rate, reading.work, reading.failed) == (50.0, 100.0, 3)
    assert (reading.p50_us, reading.p99_us) == (11.5, 21.5)
    assert [one.per_second for one in reading.slices] == [60.0, 0.0]


def test_reading_bulk_takes_what_was_received() -> None:
    end = {
        "sum_sent": {"bits_per_second": 9e9, "bytes": 9_000_000_000},
        "sum_received": {"bits_per_second": 8e9, "bytes": 2_000_000_000},
    }
    reading = read(Bulk(1), msgspec.json.encode({"start": {}, "end": end}))
    assert (reading.rate, reading.work, reading.p50_us) == (8.0, 2.0, None)


@pytest.mark.parametrize(
    ("load", "output"),
    [
        (RoundTrips(1, 100), b""),
        (RoundTrips(1, 100), b'{"mode":"idle"}'),
        (Bulk(1), b"not JSON"),
        (Bulk(1), b"[]"),
        (Bulk(1), b'{"end":{}}'),
        (Bulk(1), b'{"end":null}'),
    ],
)
def test_unusable_output_is_refused(load: Load, output: bytes) -> None:
    with pytest.raises(UnusableOutput):
        read(load, output)


def test_what_iperf3_says_is_told() -> None:
    with pytest.raises(UnusableOutput, match="unable to connect"):
        read(Bulk(1), b'{"start":{},"end":{},"error":"unable to connect to server"}')

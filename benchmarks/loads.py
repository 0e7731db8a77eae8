"""Load generators: the commands that make a load, and what they print about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from benchmarks.cases import Bulk, Load, RoundTrips
from mesh.errors import MeshError

RR_PORT = 7000
"""Where ``rr server`` echoes; on the next port it closes after the first answer."""
IPERF_PORT = 5201
_CONNECT_SIZE = 100


class UnusableOutput(MeshError):
    """A load generator did not print what it should."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a long load; without latencies when nothing came back in it."""

    per_second: float
    p50_us: float = 0.0
    p99_us: float = 0.0
    max_us: float = 0.0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a load generator has measured."""

    rate: float
    """Gbit/s in bulk, else operations per second."""
    work: float
    """Gigabytes in bulk, else operations: what CPU time is divided by."""
    p50_us: float | None = None
    p99_us: float | None = None
    failed: int = 0
    """Connections that failed and were replaced."""
    slices: tuple[Slice, ...] = ()


class _RoundTripReport(msgspec.Struct, frozen=True):
    operations: int
    failed: int
    per_second: float
    p50_us: float
    p99_us: float
    slices: tuple[Slice, ...]


def command(load: Load, rr: Path, address: str, seconds: float, slice_seconds: float = 0) -> list[str]:
    """The command that makes a load.

    Args:
        load: what kind.
        rr: the compiled load generator.
        address: of the server's pod.
        seconds: how long; iperf3 takes whole seconds only, so it gets at least one.
        slice_seconds: length of a slice of connects and round trips; 0 for none.
    """
    if isinstance(load, Bulk):
        whole = str(max(1, round(seconds)))
        return ["iperf3", "-J", "-c", address, "-p", str(IPERF_PORT), "-t", whole, "-P", str(load.connections)]
    if isinstance(load, RoundTrips):
        mode, connections, size = "rr", load.connections, load.size
    else:
        mode, connections, size = "crr" if load.closing == "reset" else "crf", load.at_once, _CONNECT_SIZE
    return [str(rr), mode, address, str(RR_PORT), str(connections), str(size), f"{seconds:g}", f"{slice_seconds:g}"]


def idle_command(rr: Path, address: str, connections: int, seconds: float) -> list[str]:
    """The command that opens connections, prints a line when all stand, and keeps them idle."""
    return [str(rr), "idle", address, str(RR_PORT), str(connections), f"{seconds:g}"]


def read(load: Load, output: bytes) -> Reading:
    """What the command of ``load`` printed.

    Raises:
        UnusableOutput: it is not what its program prints.
    """
    return _read_iperf(output) if isinstance(load, Bulk) else read_round_trips(output)


def read_round_trips(output: bytes) -> Reading:
    """What ``rr`` or ``http`` printed.

    Raises:
        UnusableOutput: it is not what they print.
    """
    try:
        report = msgspec.json.decode(output, type=_RoundTripReport)
    except msgspec.DecodeError as error:
        raise UnusableOutput(f"the load generator printed {output[:200]!r}: {error}") from error
    return Reading(
        rate=report.per_second,
        work=report.operations,
        p50_us=report.p50_us,
        p99_us=report.p99_us,
        failed=report.failed,
        slices=report.slices,
    )


def _read_iperf(output: bytes) -> Reading:
    try:
        report: dict[str, Any] = msgspec.json.decode(output, type=dict)
        if "error" in report:
            raise UnusableOutput(f"iperf3 says: {report['error']}")
        # What the server has received; what was sent counts what is still in queues on the way.
        received = report["end"]["sum_received"]
        return Reading(rate=received["bits_per_second"] / 1e9, work=received["bytes"] / 1e9)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise UnusableOutput(f"iperf3 printed {output[:200]!r}: {error!r}") from error

"""The machine a run was made on, for whoever reads its figures."""

from __future__ import annotations

import os
import platform
import re
import ssl
from pathlib import Path

import msgspec
import trio

from ambimesh.lab.programs import run_for_status
from mesh.clock import utc_now

_CHECKOUT = Path(__file__).parent.parent
_MEASURED = ("mesh", "ebpf", "ztunnel", "waypoint", "cni", "operator", "benchmarks")
"""Folders whose uncommitted changes would make the commit a wrong description of what was measured."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where, when and what."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    openssl: str
    iperf3: str
    envoy: str = ""
    """Empty when it was left out."""
    congestion_control: str
    """Of TCP, which the lab's namespaces take over: bulk rates, with and without the mesh, depend on it much."""
    date: str
    """UTC."""
    commit: str
    """With `` + uncommitted changes`` when there were."""


async def describe(envoy: Path | None = None) -> Machine:
    """This machine, now; ``envoy`` is the peer's program, if it is measured."""
    congestion_control = await trio.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text()
    cpuinfo = await trio.Path("/proc/cpuinfo").read_text()
    return Machine(
        cpu=cpu_model(cpuinfo),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        openssl=ssl.OPENSSL_VERSION,
        iperf3=" ".join((await _said("iperf3", "--version")).split()[:2]),
        envoy=envoy_version(await _said(str(envoy), "--version")) if envoy else "",
        congestion_control=congestion_control.strip(),
        date=utc_now().strftime("%Y-%m-%d %H:%M"),
        commit=await _commit(),
    )


async def _commit() -> str:
    commit = await _said("git", "-C", str(_CHECKOUT), "rev-parse", "--short=12", "HEAD")
    changed = await _said("git", "-C", str(_CHECKOUT), "status", "--porcelain", "--", *_MEASURED)
    return f"{commit or 'unknown'}{' + uncommitted changes' if changed else ''}"


async def _said(*argv: str) -> str:
    status, output, _ = await run_for_status(argv)
    return output.decode(errors="replace").strip() if status == 0 else ""


def cpu_model(cpuinfo: str) -> str:
    """The processor's name from ``/proc/cpuinfo``; its architecture where the kernel gives no name."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def envoy_version(said: str) -> str:
    """``1.40.0 BoringSSL`` from what ``envoy --version`` prints: commit, version, state, kind and TLS library."""
    parts = said.rpartition(" ")[2].split("/")
    return f"{parts[1]} {parts[-1]}" if len(parts) >= 5 else "unknown"

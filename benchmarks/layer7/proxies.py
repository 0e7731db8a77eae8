"""The plain proxies and the endpoint behind them, as processes on loopback for the length of a run.

Each proxy has one worker, and all proxies one core, of which only the one that is measured wants any; the load's two
ends have the other core, the same for everybody. So the rate is set by the proxy, whose processor time is counted.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from benchmarks.layer7 import envoy_scene
from benchmarks.layer7.cases import Subject
from mesh.errors import EnvironmentLacks

ADDRESS = "127.0.0.1"
_CHECKOUT = Path(__file__).parents[2]
_START_SECONDS = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Proxy:
    """One running proxy."""

    def __init__(self, port: int, process: trio.Process, log: Path) -> None:
        self.port = port
        self.process = process
        self.log = log

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        return cpu_seconds(Path(f"/proc/{self.process.pid}/stat").read_text())


def cpu_seconds(stat: str) -> float:
    """User and system time from ``/proc/PID/stat``, whose second field may hold blanks."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def cores() -> tuple[str, str]:
    """Of the proxies, and of the load, as ``taskset`` takes them; the same one where there is but one."""
    found = sorted(os.sched_getaffinity(0))
    return str(found[0]), str(found[-1])


def free_ports(count: int) -> list[int]:
    """So many ports in a row of loopback that nobody uses now.

    Raises:
        EnvironmentLacks: there are none.
    """
    for first in range(20_000, 30_000, 50):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind((ADDRESS, port))
        except OSError:
            continue
        return list(range(first, first + count))
    raise EnvironmentLacks(f"no {count} ports in a row are free on {ADDRESS}")


@asynccontextmanager
async def running(
    subjects: Sequence[Subject], http: Path, envoy: Path | None, folder: Path
) -> AsyncIterator[dict[Subject, Proxy]]:
    """Start everything; ended at the end of the block, however that comes.

    Args:
        subjects: the plain proxies.
        http: the compiled load generator, which is the endpoint, too.
        envoy: its program, if it is among them.
        folder: for configurations and logs.

    Raises:
        EnvironmentLacks: something does not start; with its own words.
    """
    backend, _, *ports = free_ports(2 + 2 * len(subjects))
    proxy_core, load_core = cores()
    processes: list[trio.Process] = []

    async def start(core: str, log: Path, *argv: str) -> trio.Process:
        with log.open("wb") as output, log.with_suffix(".err").open("wb") as errors:
            process = await trio.lowlevel.open_process(
                ["taskset", "--cpu-list", core, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=_CHECKOUT,
            )
        processes.append(process)
        return process

    try:
        log = folder / "endpoint.log"
        endpoint = Proxy(backend, await start(load_core, log, str(http), "server", ADDRESS, str(backend)), log)
        found: dict[Subject, Proxy] = {}
        for number, subject in enumerate(subjects):
            port, log = ports[number], folder / f"{subject.proxy}-{subject.routes}.log"
            if subject.proxy == "envoy":
                configuration = folder / f"envoy-{subject.routes}.json"
                admin_port = ports[len(subjects) + number]
                access_log = log.with_suffix(".access")
                value = envoy_scene.configuration(port, backend, subject.routes, access_log, admin_port)
                configuration.write_bytes(msgspec.json.encode(value))
                options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
                process = await start(proxy_core, log, str(envoy), "-c", str(configuration), *options)
            else:
                module = "benchmarks.layer7.plain_waypoint"
                arguments = (str(port), str(backend), str(subject.routes))
                process = await start(proxy_core, log, sys.executable, "-m", module, *arguments)
            found[subject] = Proxy(port, process, log)
        for proxy in (endpoint, *found.values()):
            await _until_listening(proxy)
        yield found
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()


async def _until_listening(proxy: Proxy) -> None:
    deadline = trio.current_time() + _START_SECONDS
    while True:
        try:
            stream = await trio.open_tcp_stream(ADDRESS, proxy.port)
        except OSError as error:
            if proxy.process.poll() is not None or trio.current_time() > deadline:
                words = proxy.log.with_suffix(".err").read_text(errors="replace")[-2000:]
                raise EnvironmentLacks(f"{proxy.log.stem} does not listen: {words or error}") from error
            await trio.sleep(0.05)
        else:
            await stream.aclose()
            return

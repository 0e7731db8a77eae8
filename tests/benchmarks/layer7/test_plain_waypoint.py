"""The waypoint's engine as a plain proxy, as the process it is: requests and calls pass, others are refused."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from benchmarks.build import build_http
from benchmarks.layer7.cases import CASES, WAYPOINT
from benchmarks.layer7.measure import command
from benchmarks.layer7.proxies import ADDRESS, running
from benchmarks.loads import read_round_trips
from mesh.errors import EnvironmentLacks


async def test_loads_pass_and_are_recorded(tmp_path: Path) -> None:
    http = await build_http()
    async with running([WAYPOINT], http, None, tmp_path) as proxies:
        proxy = proxies[WAYPOINT]
        done = 0
        for case in CASES[:3]:
            argv = command(http, case, ADDRESS, proxy.port, 0.2)
            made = await trio.run_process(argv, capture_stdout=True)
            done += int(read_round_trips(made.stdout).work)
        with socket.create_connection((ADDRESS, proxy.port), timeout=10) as sock:
            sock.sendall(b"GET /secret HTTP/1.1\r\nhost: shop\r\n\r\n")
            assert sock.recv(4096).startswith(b"HTTP/1.1 403 ")
        assert proxy.cpu_seconds() > 0
        assert done > 0
        proxy.process.terminate()
        await proxy.process.wait()
        lines = proxy.log.read_text().splitlines()
    assert len(lines) > done
    assert sum(" 403 " in line for line in lines) == 1


async def test_a_proxy_that_does_not_start_says_why(tmp_path: Path) -> None:
    program = tmp_path / "not-http"
    program.write_text("#!/bin/sh\necho cannot >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(EnvironmentLacks, match="cannot"):
        async with running([], program, None, tmp_path):
            pass

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mesh.errors import EnvironmentLacks
from mesh.telemetry.output import LineOutput
from ztunnel import app, data_plane
from ztunnel.config import AdminGroup, BpfGroup, ControlPlaneGroup, FastPathGroup, LogGroup, NodeGroup, ZtunnelSettings


def settings(folder: Path) -> ZtunnelSettings:
    return ZtunnelSettings(
        node=NodeGroup(name="node1"),
        control_plane=ControlPlaneGroup(
            address="127.0.0.1:1", server_name="operator", root_certificate=folder / "root.pem", token=folder / "token"
        ),
        zds_socket=folder / "zds.sock",
        bpf=BpfGroup(bpffs=folder),
        admin=AdminGroup(admin_port=0, metrics_port=0, readiness_port=0),
        fast_path=FastPathGroup(enabled=False),
        log=LogGroup(level="warning"),
    )


@pytest.fixture
def own_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a whole process sets for itself, kept from this one."""
    monkeypatch.setattr("mesh.telemetry.log.configure", lambda *_: None)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    monkeypatch.setattr(data_plane, "raise_descriptor_limit", lambda: 1024)
    with (tmp_path / "out").open("wb") as file:
        output = LineOutput(file.fileno())
        for module in (app, data_plane):
            monkeypatch.setattr(module, "standard_output", lambda: output)
        yield


async def test_sigterm_before_the_agent_is_there(own_output: None, tmp_path: Path) -> None:
    """The whole process, without programs, agent or operator: it waits, says so, and ends when told."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.run, settings(tmp_path))
            for _ in range(5):
                await trio.testing.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGTERM)


async def test_a_port_that_is_taken(own_output: None, maps: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = settings(tmp_path)
        admin = AdminGroup(admin_port=taken.getsockname()[1], metrics_port=0, readiness_port=0)
        changed = ZtunnelSettings(
            node=wanted.node, control_plane=wanted.control_plane, zds_socket=wanted.zds_socket, admin=admin,
            log=wanted.log, fast_path=wanted.fast_path,
        )
        with pytest.raises(ExceptionGroup) as caught, trio.fail_after(10):
            await app.run(changed)
    assert caught.value.subgroup(EnvironmentLacks) is not None

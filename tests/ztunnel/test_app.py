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

from ebpf.fastpath.abilities import Abilities
from ebpf.paths import PinPaths
from mesh.control_plane import ControlPlaneGroup
from mesh.errors import EnvironmentLacks
from mesh.telemetry.output import LineOutput
from ztunnel import app
from ztunnel.config import AdminGroup, BpfGroup, FastPathGroup, LogGroup, NodeGroup, ZtunnelSettings


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


class Maps:
    """Opens like the pinned maps do, or not."""

    opened: list[Maps]
    missing: type[Maps] | None = None

    def __init__(self, _paths: PinPaths) -> None:
        if type(self) is Maps.missing:
            raise EnvironmentLacks("the node's programs are not loaded")
        self.closed = False
        self.opened.append(self)

    def __enter__(self) -> Maps:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def stop(self, *, splice: bool) -> None:
        """Of the fast path's, when it is switched off."""


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> list[type[Maps]]:
    kinds: list[type[Maps]] = []
    Maps.opened, Maps.missing = [], None
    for name in ("OriginalDestinations", "Deliveries", "ListenerTable", "PodTable", "FastPathMaps"):
        kind = type(name, (Maps,), {})
        monkeypatch.setattr(app, name, kind)
        kinds.append(kind)
    monkeypatch.setattr(app, "read_abilities", lambda _: Abilities(splice=False))
    return kinds


@pytest.fixture
def own_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a whole process sets for itself, kept from this one."""
    monkeypatch.setattr("mesh.telemetry.log.configure", lambda *_: None)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    monkeypatch.setattr(app, "raise_descriptor_limit", lambda: 1024)
    with (tmp_path / "out").open("wb") as file:
        monkeypatch.setattr(app, "standard_output", lambda: LineOutput(file.fileno()))
        yield


async def test_maps_are_waited_for(
    maps: list[type[Maps]], tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    paths = PinPaths(tmp_path, "node1")
    Maps.missing = maps[-1]
    found: list[Any] = []

    async def wait() -> None:
        found.append(await app._open_maps(paths, trio.Event()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(2.5)
        assert not found
        assert len(Maps.opened) >= 6
        assert all(one.closed for one in Maps.opened)  # what was opened in vain does not pile up
        Maps.missing = None
    assert [type(one) for one in Maps.opened[-5:]] == maps
    assert not any(one.closed for one in Maps.opened[-5:])


async def test_waiting_for_maps_ends_when_we_are_to_stop(maps: list[type[Maps]], tmp_path: Path) -> None:
    Maps.missing = maps[0]
    stopping = trio.Event()
    stopping.set()
    with trio.fail_after(2):
        assert await app._open_maps(PinPaths(tmp_path, "node1"), stopping) is None


async def test_sigterm_before_the_agent_is_there(own_output: None, tmp_path: Path) -> None:
    """The whole process, without programs, agent or operator: it waits, says so, and ends when told."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.run, settings(tmp_path))
            for _ in range(5):
                await trio.testing.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGTERM)


async def test_a_port_that_is_taken(own_output: None, maps: list[type[Maps]], tmp_path: Path) -> None:
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

"""The agent's side of the plugin's socket, with the real plugin where it matters."""

import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import cni.plugin_server
from cni.plugin_server import serve_plugin
from cni.protocol_codec import CniCode, CniFailure, PluginRequest, decode_reply
from mesh.errors import MeshError
from mesh.zds.packet_driver import listen
from mesh.zds.server_driver import ZtunnelAway

PREVIOUS = {"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.7/24"}]}


class Handler:
    def __init__(self, failure: Exception | None = None, delay: float = 0) -> None:
        self.failure = failure
        self.delay = delay
        self.calls: list[tuple[str, PluginRequest]] = []

    async def add(self, request: PluginRequest) -> None:
        await self._do("add", request)

    async def check(self, request: PluginRequest) -> None:
        await self._do("check", request)

    async def delete(self, request: PluginRequest) -> None:
        await self._do("delete", request)

    async def _do(self, name: str, request: PluginRequest) -> None:
        self.calls.append((name, request))
        await trio.sleep(self.delay)
        if self.failure is not None:
            raise self.failure


@asynccontextmanager
async def serving(path: Path, handler: Handler, counted: list[tuple[str, str]] | None = None) -> AsyncIterator[None]:
    seen = [] if counted is None else counted
    with listen(path, socket.SOCK_STREAM) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_plugin, listener, handler, lambda command, code: seen.append((command, code)))
            yield
            nursery.cancel_scope.cancel()


def environment(command: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/a",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b",
    }


async def execute(plugin: Path, path: Path, command: str, **configuration: Any) -> tuple[int, bytes]:
    stdin = json.dumps({"cniVersion": "1.0.0", "agentSocket": str(path)} | configuration).encode()
    done = await trio.run_process(
        [plugin],
        stdin=stdin,
        env=environment(command),
        capture_stdout=True,
        check=False,
    )
    return done.returncode, done.stdout


async def test_add_prints_the_previous_result(plugin: Path, tmp_path: Path) -> None:
    handler, counted = Handler(), list[tuple[str, str]]()
    async with serving(tmp_path / "s", handler, counted):
        status, output = await execute(plugin, tmp_path / "s", "ADD", prevResult=PREVIOUS)
        assert (status, json.loads(output)) == (0, PREVIOUS)
        assert await execute(plugin, tmp_path / "s", "CHECK", prevResult=PREVIOUS) == (0, b"")
        assert await execute(plugin, tmp_path / "s", "DEL") == (0, b"")
    assert [name for name, _ in handler.calls] == ["add", "check", "delete"]
    assert counted == [("ADD", "0"), ("CHECK", "0"), ("DEL", "0")]
    assert os.stat(tmp_path / "s").st_mode & 0o777 == 0o600


async def test_add_as_the_first_plugin_is_a_misconfiguration(plugin: Path, tmp_path: Path) -> None:
    handler = Handler()
    async with serving(tmp_path / "s", handler):
        status, output = await execute(plugin, tmp_path / "s", "ADD")
    assert (status, json.loads(output)["code"]) == (1, 7)
    assert handler.calls == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ZtunnelAway("ztunnel is not connected"), 11),
        (CniFailure(CniCode.REFUSED, "not its own"), 101),
    ],
)
async def test_failures_become_cni_errors(plugin: Path, tmp_path: Path, failure: MeshError, code: int) -> None:
    counted: list[tuple[str, str]] = []
    async with serving(tmp_path / "s", Handler(failure), counted):
        status, output = await execute(plugin, tmp_path / "s", "ADD", prevResult=PREVIOUS)
    error = json.loads(output)
    assert (status, error["code"], error["msg"]) == (1, code, str(failure))
    assert counted == [("ADD", str(code))]


async def test_work_that_takes_too_long_is_ended(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni.plugin_server, "_WORK_SECONDS", 0.1)
    async with serving(tmp_path / "s", Handler(delay=60)):
        status, output = await execute(plugin, tmp_path / "s", "ADD", prevResult=PREVIOUS)
    assert (status, json.loads(output)["code"]) == (1, 11)
    assert "could not finish ADD" in json.loads(output)["msg"]


async def send(path: Path, data: bytes, finish: bool = True) -> bytes:
    stream = await trio.open_unix_socket(str(path))
    async with stream:
        try:
            await stream.send_all(data)
            if finish:
                await stream.send_eof()
            received = b""
            while chunk := await stream.receive_some(65536):
                received += chunk
        except trio.BrokenResourceError:
            return b""
        return received


async def test_garbage_is_answered_and_others_are_served(plugin: Path, tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Handler()):
        for data in (b"", b"\xff", b"{}", b'{"environment": {}, "configuration": ""}'):
            status, output = decode_reply(await send(tmp_path / "s", data))
            assert (status, json.loads(output)["code"]) in ((1, 4), (1, 6))
        assert (await execute(plugin, tmp_path / "s", "DEL"))[0] == 0


async def test_requests_too_long_or_too_slow_are_dropped(
    plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni.plugin_server, "_RECEIVE_SECONDS", 0.2)
    async with serving(tmp_path / "s", Handler()):
        assert await send(tmp_path / "s", b"x" * (3 << 20)) == b""
        with trio.fail_after(3):
            assert await send(tmp_path / "s", b"{", finish=False) == b""
        assert (await execute(plugin, tmp_path / "s", "DEL"))[0] == 0


def test_the_agent_gives_up_before_the_plugin_does() -> None:
    source = (Path(__file__).parents[2] / "cni" / "plugin" / "ambimesh-cni.c").read_text()
    patience = int(source.partition("#define REPLY_MS ")[2].split()[0]) / 1000
    assert patience >= cni.plugin_server._RECEIVE_SECONDS + cni.plugin_server._WORK_SECONDS


async def test_a_plugin_that_is_killed_does_not_stop_the_agent(plugin: Path, tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Handler(delay=0.2)):
        stdin = json.dumps({"cniVersion": "1.0.0", "agentSocket": str(tmp_path / "s"), "prevResult": PREVIOUS})
        process = await trio.lowlevel.open_process([plugin], stdin=subprocess.PIPE, env=environment("ADD"))
        assert process.stdin is not None
        await process.stdin.send_all(stdin.encode())
        await process.stdin.aclose()
        await trio.sleep(0.05)
        process.kill()
        await process.wait()
        await trio.sleep(0.3)
        assert (await execute(plugin, tmp_path / "s", "DEL"))[0] == 0

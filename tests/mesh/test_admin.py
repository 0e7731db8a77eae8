"""A proxy's three ports, opened and asked; its end by a signal. (What their pages say: the proxies' own tests.)"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from mesh.admin import admin_routes, metrics_routes, readiness_routes, serve_admin, stop_on_signal
from mesh.errors import ConfigurationError, EnvironmentLacks
from mesh.telemetry.http_endpoint import HttpRequest, HttpResponse, open_http_listeners


@dataclass
class Ports:
    admin_port: int
    metrics_port: int
    readiness_port: int


async def free_port() -> int:
    [listener] = await open_http_listeners("127.0.0.1", 0)
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


async def ask(port: int, request: str) -> tuple[int, str]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b""
        while data := await stream.receive_some():
            answer += data
    return int(answer[9:12]), answer.partition(b"\r\n\r\n")[2].decode()


async def test_the_ports_are_opened_and_answer() -> None:
    levels: list[tuple[str | None, str | None]] = []
    missing = ["the moon"]
    quits: list[int] = []

    async def everything() -> object:
        return {"all": 1}

    async def page(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, b"a 1\n", "text/plain")

    async def wanting() -> list[str]:
        return missing

    def set_levels(level: str | None, access: str | None) -> dict[str, str]:
        if level == "loud":
            raise ConfigurationError("no such level")
        levels.append((level, access))
        return {"level": level or "info", "access": access or "info"}

    ports = Ports(await free_port(), await free_port(), await free_port())
    async with trio.open_nursery() as nursery:
        admin = admin_routes("HELP\n", everything, set_levels, lambda: quits.append(1))
        await serve_admin(nursery, ports, admin, metrics_routes(page), readiness_routes(wanting))
        assert await ask(ports.admin_port, "GET /") == (200, "HELP\n")
        assert (await ask(ports.admin_port, "GET /config_dump"))[0] == 200
        assert await ask(ports.admin_port, "GET /logging?level=debug") == (200, "level: info\naccess: info\n")
        posted = await ask(ports.admin_port, "POST /logging?level=debug&access=off")
        assert posted == (200, "level: debug\naccess: off\n")
        assert levels == [(None, None), ("debug", "off")]
        assert (await ask(ports.admin_port, "POST /logging?level=loud"))[0] == 400
        assert (await ask(ports.admin_port, "GET /quitquitquit"))[0] in (404, 405)
        assert quits == []
        assert (await ask(ports.admin_port, "POST /quitquitquit"))[0] == 200
        assert quits == [1]
        for path in ("/metrics", "/stats/prometheus"):
            assert await ask(ports.metrics_port, f"GET {path}") == (200, "a 1\n")
        status, text = await ask(ports.readiness_port, "GET /healthz/ready")
        assert (status, text.strip()) == (503, "not ready: the moon")
        missing.clear()
        assert (await ask(ports.readiness_port, "GET /healthz/ready"))[0] == 200
        with pytest.raises(EnvironmentLacks):
            await serve_admin(nursery, ports, {}, {}, {})
        nursery.cancel_scope.cancel()


async def test_a_signal_asks_for_the_end() -> None:
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, stopping)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(5):
            await stopping.wait()
        nursery.cancel_scope.cancel()

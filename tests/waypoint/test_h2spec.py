"""The cases of h2spec, against what clients meet: a waypoint inside a tunnel, and the tunnel itself.

h2spec (tests/tools) dials plain TCP. A bridge on loopback gives each of its connections what a mesh would: to the
waypoint a stream of a tunnel, in which HTTP/2 is spoken with prior knowledge; to the tunnel's own HTTP/2 a mutual TLS
connection to port 15008.
"""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.hbone.codec import encode_connect
from mesh.hbone.driver import open_client
from mesh.identity import SpiffeId
from mesh.tls.context import client_context

TOOL = Path(__file__).parents[2] / ".build" / "bin" / "h2spec"
Dial = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]
INSIDE = {
    "http2/3.5 Sends invalid connection preface": "what is not the preface is HTTP/1.1 there, and answered 400",
    "http2/4.2 Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE": (
        "20,000 bytes exceed 16,384, and not what our SETTINGS admit"
    ),
}
"""Cases that do not pass in a tunnel, and why that is right."""
OF_TUNNELS = (
    *("generic/1", "generic/3", "generic/5", "http2/3.5", "http2/4.1", "http2/4.3", "http2/5.5", "http2/6.2"),
    *("http2/6.3", "http2/6.4", "http2/6.5.1", "http2/6.5.2", "http2/6.7", "http2/6.8", "http2/6.10", "http2/7"),
    "hpack",
)


@pytest.fixture(scope="module")
def h2spec() -> Path:
    if not TOOL.exists():
        pytest.fail("h2spec is not built; run: make tools", pytrace=False)
    return TOOL


async def _pump(source: trio.abc.ReceiveStream, sink: trio.abc.HalfCloseableStream) -> None:
    try:
        while data := await source.receive_some():
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(sink)
        if isinstance(source, trio.abc.AsyncResource):
            await trio.aclose_forcefully(source)


class EndsAtOnce(trio.abc.HalfCloseableStream):
    """TLS as the bridge needs it: it has no half close, so the end of one direction ends both."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See :class:`trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See :class:`trio.abc.ReceiveStream`."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        """Close."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close without a goodbye, which the other side might not read."""
        await trio.aclose_forcefully(self._stream)


@asynccontextmanager
async def bridge(dial: Dial) -> AsyncIterator[int]:
    """A port of loopback, each connection to which is joined to one that ``dial`` makes."""

    async def serve(stream: trio.SocketStream) -> None:
        far = await dial()
        async with stream, far, trio.open_nursery() as nursery:
            nursery.start_soon(_pump, stream, far)
            nursery.start_soon(_pump, far, stream)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def failures(tool: Path, port: int, folder: Path, *options: str) -> tuple[int, dict[str, str]]:
    """How many cases were tried, and what was wrong with those that failed."""
    report = folder / "report.xml"
    # Its own patience, 2 s, is short of what a busy machine may take for an answer.
    command = [str(tool), "-p", str(port), "-j", str(report), "--timeout", "5", *options]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    assert report.exists(), done.stdout
    tried, failed = 0, {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        tried += 1
        if len(case):
            name = f"{case.get('package')} {case.get('classname')}"
            failed[name] = "".join(case.itertext())
    return tried, failed


async def secured(mesh: Any) -> trio.SSLStream[trio.SocketStream]:
    """A connection to the waypoint's port for tunnels, by a workload of the mesh."""
    stream = await trio.open_tcp_stream("127.0.0.1", mesh.port)
    credentials = mesh.authority.issue(SpiffeId("cluster.local", "demo", "client"))
    return trio.SSLStream(stream, client_context(credentials))


async def test_http2_in_a_tunnel(own_mesh: Any, web: Any, h2spec: Path, tmp_path: Path) -> None:
    async with open_client(await secured(own_mesh)) as connection:

        async def dial() -> trio.abc.HalfCloseableStream:
            return await connection.connect(encode_connect(web.authority))

        async with bridge(dial) as port:
            tried, failed = await failures(h2spec, port, tmp_path, "--strict")
    assert failed.keys() == INSIDE.keys(), "\n".join(f"{name}: {text}" for name, text in failed.items())
    assert tried == 146


async def test_http2_of_the_tunnel_itself(own_mesh: Any, h2spec: Path, tmp_path: Path) -> None:
    """The sections that are not about a request under way: other requests than CONNECT are over at once, with 400."""

    async def dial() -> trio.abc.HalfCloseableStream:
        return EndsAtOnce(await secured(own_mesh))

    async with bridge(dial) as port:
        tried, failed = await failures(h2spec, port, tmp_path, "--strict", *OF_TUNNELS)
    assert not failed, "\n".join(f"{name}: {text}" for name, text in failed.items())
    assert tried == 79

"""Bodies that somebody wants to see before the request goes on: over real connections, larger than their windows."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from waypoint.exchange.decision import Decision, Forward, Resume
from waypoint.http.message import RequestHead
from waypoint.testing.exchanges import FixedBackend, FixedDecider
from waypoint.upstream.pool_contract import PoolLimits
from waypoint.upstream.pool_h1 import H1Pool
from waypoint.wire.socket_connector import SocketConnector

SIZE = 1_000_000


class Looker:
    """Looks at some of the body and lets the request go on."""

    def __init__(self, body_bytes: int, decision: Decision) -> None:
        self.body_bytes = body_bytes
        self._decision = decision
        self.seen = b""
        self.whole = False

    def start(self, resume: Resume, body: bytes, *, whole: bool) -> None:
        self.seen, self.whole = body, whole
        resume(self._decision)

    def cancel(self) -> None:
        pytest.fail("the client has not gone")


async def endpoint(stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    digest = hashlib.sha256()
    async with stream:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Data):
                digest.update(event.data)
        text = digest.hexdigest().encode()
        head = h11.Response(status_code=200, headers=[("content-length", str(len(text)))])
        sent = [connection.send(each) or b"" for each in (head, h11.Data(data=text), h11.EndOfMessage())]
        await stream.send_all(b"".join(sent))


@pytest.mark.parametrize("body_bytes", [SIZE // 2, 2 * SIZE])
@pytest.mark.parametrize(
    "option", ["--http1.1", "--http2-prior-knowledge", "--header=transfer-encoding: chunked"]
)
async def test_what_was_seen_is_sent_on_and_the_rest_after_it(
    proxying: Callable[[], AbstractAsyncContextManager[Any]], tmp_path: Path, option: str, body_bytes: int
) -> None:
    upload = random.Random(7).randbytes(SIZE)
    (tmp_path / "upload").write_bytes(upload)
    name, _, value = option.partition("=")
    options = [name, value] if value else [name]
    async with proxying() as waypoint, trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, endpoint, [listener])
        address = ("127.0.0.1", listener.socket.getsockname()[1])
        pool = H1Pool("e", SocketConnector(waypoint.engine, address), waypoint.timers, PoolLimits())
        lookers: list[Looker] = []

        def decide(head: RequestHead) -> Decision:
            lookers.append(Looker(body_bytes, Forward(FixedBackend(pool))))
            return lookers[-1]

        waypoint.listen(FixedDecider(decide))
        done = await trio.run_process(
            ["curl", "-sS", "--max-time", "20", *options, "--data-binary", f"@{tmp_path}/upload",
             f"http://127.0.0.1:{waypoint.port}/"],
            capture_stdout=True,
        )  # fmt: skip
        assert done.stdout.decode() == hashlib.sha256(upload).hexdigest()
        [looker] = lookers
        assert upload.startswith(looker.seen)
        assert looker.whole is (body_bytes > SIZE)
        assert len(looker.seen) == SIZE if looker.whole else body_bytes < len(looker.seen) < body_bytes + (1 << 18)
        pool.drain()
        nursery.cancel_scope.cancel()

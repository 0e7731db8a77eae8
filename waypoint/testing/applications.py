"""HTTP servers behind a waypoint, over loopback: applications, and collectors of spans."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import trio


class Application:
    """An HTTP server that notes what it was asked, and answers with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.requests: list[h11.Request] = []
        self.bodies: list[bytes] = []
        """Of the requests that came whole."""
        self.statuses: list[int] = []
        """Answered first; then 200."""

    def header(self, name: bytes) -> bytes | None:
        """Of the last request."""
        return dict(self.requests[-1].headers).get(name)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        connection, body = h11.Connection(h11.SERVER), b""
        async with stream:
            while True:
                event: Any = connection.next_event()
                if event is h11.NEED_DATA:
                    try:
                        connection.receive_data(await stream.receive_some())
                    except trio.BrokenResourceError:
                        return  # a client that resets its connection is no news
                elif isinstance(event, h11.Request):
                    self.requests.append(event)
                    body = b""
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self.bodies.append(body)
                    await stream.send_all(self._answer(connection))
                    if connection.our_state is h11.MUST_CLOSE:
                        return
                    connection.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    return

    def _answer(self, connection: h11.Connection) -> bytes:
        status = self.statuses.pop(0) if self.statuses else 200
        body = self.name.encode()
        head = h11.Response(status_code=status, headers=[("content-length", str(len(body)))])
        data = [connection.send(each) for each in (head, h11.Data(data=body), h11.EndOfMessage())]
        return b"".join(each for each in data if each)


@asynccontextmanager
async def applications(*names: str) -> AsyncIterator[list[Application]]:
    """Applications at 127.0.0.2 and so on, in their order."""
    made = [Application(name) for name in names]
    async with trio.open_nursery() as nursery:
        for index, application in enumerate(made):
            (listener,) = await trio.open_tcp_listeners(0, host=f"127.0.0.{index + 2}")
            application.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, application.serve, [listener])
        yield made
        nursery.cancel_scope.cancel()

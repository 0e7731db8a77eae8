"""HTTP servers behind a waypoint, over loopback: applications, and collectors of spans."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import trio


class Application:
    """An HTTP/1.1 server that notes what it was asked, and answers with its name; bears that requests are given up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = f"demo/{name}.demo.svc.cluster.local"
        """Of its Service."""
        self.authority = ""
        """Where clients find it, once a mesh has offered it."""
        self.port = 0
        self.open = 0
        """Connections."""
        self.requests: list[h11.Request] = []
        self.bodies: list[bytes] = []
        """Of the requests that came whole."""
        self.statuses: list[int] = []
        """Answered first; then 200."""
        self.body = name.encode()
        """Of every answer."""
        self.pause = 0.0
        """Seconds before each answer."""

    @property
    def seen(self) -> list[bytes]:
        """The paths it was asked for."""
        return [request.target for request in self.requests]

    def header(self, name: bytes) -> bytes | None:
        """Of the last request."""
        return dict(self.requests[-1].headers).get(name)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        self.open += 1
        try:
            async with stream:
                await self._talk(stream, h11.Connection(h11.SERVER))
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass  # a client that resets its connection is no news
        finally:
            self.open -= 1

    async def _talk(self, stream: trio.SocketStream, connection: h11.Connection) -> None:
        body = b""
        while connection.our_state is not h11.MUST_CLOSE:
            event: Any = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                self.requests.append(event)
                body = b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.bodies.append(body)
                await trio.sleep(self.pause)
                for part in self._answer(connection):
                    await stream.send_all(part)
                if connection.our_state is h11.DONE:
                    connection.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return

    def _answer(self, connection: h11.Connection) -> list[bytes]:
        status = self.statuses.pop(0) if self.statuses else 200
        body = b"" if self.requests[-1].method == b"HEAD" else self.body
        head = h11.Response(status_code=status, headers=[("content-length", str(len(self.body)))])
        parts = [connection.send(each) for each in (head, h11.Data(data=body), h11.EndOfMessage())]
        return [part for part in parts if part]  # not joined: the body may be large, and is shared


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

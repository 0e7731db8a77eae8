"""An application behind a waypoint."""

from __future__ import annotations

from typing import Any

import h11
import trio


class Web:
    """A Service of one endpoint outside of the mesh: an HTTP/1.1 server that answers everything alike."""

    key = "demo/web.demo.svc.cluster.local"
    authority = "10.96.0.1:80"

    def __init__(self) -> None:
        self.body = b"answer"
        self.seen: list[bytes] = []
        """Paths."""
        self.open = 0
        """Connections."""

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection; bears that requests are given up."""
        http, body = h11.Connection(h11.SERVER), b""
        self.open += 1
        try:
            while http.our_state is not h11.MUST_CLOSE:
                event: Any = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    self.seen.append(event.target)
                    body = b"" if event.method == b"HEAD" else self.body
                elif isinstance(event, h11.EndOfMessage):
                    head = h11.Response(status_code=200, headers=[("content-length", str(len(self.body)))])
                    for each in (head, h11.Data(data=body), h11.EndOfMessage()):
                        await stream.send_all(http.send(each) or b"")
                    if http.our_state is h11.DONE:
                        http.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass
        finally:
            self.open -= 1

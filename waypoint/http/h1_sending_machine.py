"""HTTP/1.1 to endpoints: what is sent of a request."""

from __future__ import annotations

from waypoint.http.h1_codec import chunk, last_chunk, request_head
from waypoint.http.message import Headers, RequestHead
from waypoint.wire.contract import Wire


class H1Sending:
    """The request's half of ``waypoint.http.contract.Call``; the answer's is the client machine's."""

    __slots__ = (
        *("_chunked_out", "_connect", "_head_method", "_out", "_request_done", "_tunnel", "_upgrade_asked", "_wire"),
    )

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._out: list[bytes] = []
        self._request_done = True
        self._chunked_out = False
        self._head_method = False
        self._upgrade_asked = False
        self._connect = False
        self._tunnel = False

    def send_head(self, head: RequestHead, *, end: bool) -> None:
        """See :class:`Call`."""
        block, self._chunked_out = request_head(head, end=end)
        self._head_method = head.method == b"HEAD"
        self._upgrade_asked = bool(head.upgrade)
        self._connect = head.method == b"CONNECT"
        self._request_done = end
        if end:
            self._wire.write(block)
        else:
            self._out.append(block)

    def send_data(self, data: bytes) -> None:
        """See :class:`Call`."""
        if not self._chunked_out:
            self._out.append(data)
        elif data:
            self._out.append(chunk(data))

    def send_end(self, trailers: Headers | None) -> None:
        """See :class:`Call`."""
        if self._tunnel:
            self.flush()
            self._wire.finish()
        else:
            if self._chunked_out:
                self._out.append(last_chunk(trailers))
            self.flush()
        self._request_done = True

    def flush(self) -> None:
        """See :class:`Call`."""
        out = self._out
        if out:
            self._wire.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

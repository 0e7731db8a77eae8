"""The client's end of a connection, without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import h2.events

from mesh.grpc.codec import (
    CONTENT_TYPE,
    decode_headers,
    decode_status_text,
    encode_metadata,
    encode_timeout,
    is_grpc,
    metadata_of,
)
from mesh.grpc.limits import GrpcLimits
from mesh.grpc.machine import (
    CallProgressed,
    ConnectionMachine,
    GoAwayReceived,
    SettingsReceived,
    SharedEvent,
    WindowOpened,
)
from mesh.grpc.status import GrpcError, StatusCode, status_of_http, status_of_reset, status_of_text

_CANCEL = 0x8
_MAX_STREAM_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The server, or the connection, ended the call. Messages that came before can still be taken."""

    stream_id: int
    status: StatusCode
    message: str
    trailers: Mapping[str, str] = field(default_factory=dict)


ClientEvent = SharedEvent | CallEnded


class ClientMachine(ConnectionMachine):
    """Calls on one connection."""

    def __init__(self, limits: GrpcLimits) -> None:
        super().__init__(limits, client=True, largest_message=limits.response_bytes)
        self._calls: set[int] = set()
        self.refused: str | None = None
        """Why no call can be started any more, or None."""

    def capacity(self) -> int:
        """How many more calls the server and our own bound admit now."""
        admitted = min(self._limits.concurrent_calls, self._h2.remote_settings.max_concurrent_streams)
        return admitted - self._h2.open_outbound_streams

    def start(
        self, method: str, authority: str, scheme: str, metadata: Sequence[tuple[str, str]], timeout: float | None
    ) -> int:
        """Send a call's headers.

        Args:
            method: ``/package.Service/Method``.
            authority: host and port, as ``:authority``.
            scheme: ``https`` or ``http``.
            metadata: header fields of the application.
            timeout: seconds, told to the server.

        Returns:
            The stream id.

        Raises:
            GrpcError: metadata that is not allowed, or the connection takes no calls.
        """
        fields = encode_metadata(metadata)
        stream_id = self._h2.get_next_available_stream_id()
        if self.refused is None and stream_id >= _MAX_STREAM_ID - 2:
            self.refused = "the connection has used up its stream numbers"
        if self.refused is not None:
            raise GrpcError(StatusCode.UNAVAILABLE, self.refused)
        headers = [
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":path", method.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", CONTENT_TYPE),
            (b"user-agent", b"ambimesh"),
        ]
        if timeout is not None:
            headers.append((b"grpc-timeout", encode_timeout(timeout)))
        self._send_headers(stream_id, headers + fields, end=False)
        self._open_inbound(stream_id, self._limits.response_bytes)
        self._calls.add(stream_id)
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """Give up or tidy away a call."""
        self._calls.discard(stream_id)
        self.release(stream_id, _CANCEL)

    def receive(self, data: bytes, now: float) -> list[ClientEvent]:
        """Take what arrived.

        Raises:
            ProtocolViolation: the connection must end, after ``data_to_send`` was written.
        """
        events: list[ClientEvent] = []
        received, goaways = self._receive(data, now)
        for event in received:
            self._handle(event, events)
        for goaway in goaways:
            why = f"the server is closing the connection: {goaway.debug or f'code {goaway.error_code}'}"
            self.refused = why
            events.append(GoAwayReceived(goaway))
            for stream_id in sorted(self._calls):
                if stream_id > goaway.last_stream_id:
                    self._end(CallEnded(stream_id, StatusCode.UNAVAILABLE, why), events)
        return events

    def _handle(self, event: h2.events.Event, events: list[ClientEvent]) -> None:
        match event:
            case h2.events.DataReceived():
                error = self._accept_data(event)
                if error is not None:
                    self._end(CallEnded(event.stream_id, error.status, error.message), events)
                elif event.stream_id in self._calls:
                    events.append(CallProgressed(event.stream_id))
            case h2.events.ResponseReceived():
                self._start_response(event, events)
            case h2.events.TrailersReceived():
                self._end_by_trailers(event.stream_id, decode_headers(event.headers or ()), events)
            case h2.events.StreamEnded():
                # After trailers this finds the call already ended.
                lacking = "the server ended the call without a status"
                self._end(CallEnded(event.stream_id, StatusCode.INTERNAL, lacking), events)
            case h2.events.StreamReset():
                code = int(event.error_code or 0)
                why = f"the server reset the stream (HTTP/2 code {code})"
                self._end(CallEnded(event.stream_id, status_of_reset(code), why), events)
            case h2.events.WindowUpdated():
                events.append(WindowOpened())
            case h2.events.RemoteSettingsChanged():
                events.append(SettingsReceived())

    def _start_response(self, event: h2.events.ResponseReceived, events: list[ClientEvent]) -> None:
        headers = decode_headers(event.headers or ())
        http_status = headers.get(":status", "")
        content_type = headers.get("content-type", "")
        if http_status != "200" or not is_grpc(content_type):
            if "grpc-status" in headers:
                self._end_by_trailers(event.stream_id, headers, events)
                return
            number = int(http_status) if http_status.isascii() and http_status.isdigit() else 0
            why = f"the answer is not gRPC: HTTP status {http_status[:8]}, content type {content_type[:64]!r}"
            self._end(CallEnded(event.stream_id, status_of_http(number), why), events)
        elif headers.get("grpc-encoding", "identity") != "identity":
            why = f"the server compresses ({headers['grpc-encoding'][:32]!r}), which was not offered"
            self._end(CallEnded(event.stream_id, StatusCode.UNIMPLEMENTED, why), events)
        elif "grpc-status" in headers:
            self._end_by_trailers(event.stream_id, headers, events)

    def _end_by_trailers(self, stream_id: int, headers: Mapping[str, str], events: list[ClientEvent]) -> None:
        if "grpc-status" not in headers:
            self._end(CallEnded(stream_id, StatusCode.UNKNOWN, "the trailers hold no grpc-status"), events)
            return
        status = status_of_text(headers["grpc-status"])
        message = decode_status_text(headers.get("grpc-message", ""))
        self._end(CallEnded(stream_id, status, message, metadata_of(headers)), events)

    def _end(self, ended: CallEnded, events: list[ClientEvent]) -> None:
        if ended.stream_id in self._calls:
            self._calls.discard(ended.stream_id)
            events.append(ended)

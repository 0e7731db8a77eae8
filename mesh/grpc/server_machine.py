"""The server's end of a connection, without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import h2.events

from mesh.grpc.codec import (
    CONTENT_TYPE,
    decode_headers,
    decode_timeout,
    encode_metadata,
    encode_status_text,
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
from mesh.grpc.status import GrpcError, StatusCode

NO_OWN_LIMITS: Mapping[str, int] = MappingProxyType({})

_NO_ERROR, _REFUSED_STREAM = 0x0, 0x7


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStarted:
    """A client sent a call's headers."""

    stream_id: int
    method: str
    """``/package.Service/Method``."""
    metadata: Mapping[str, str]
    timeout: float | None
    """Seconds the client is willing to wait."""


@dataclass(frozen=True, slots=True)
class CallCancelled:
    """The client reset the stream: nobody waits for the answer."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class CallFailed:
    """What arrived cannot be taken; the caller shall ``finish`` with this error."""

    stream_id: int
    error: GrpcError


ServerEvent = SharedEvent | CallStarted | CallCancelled | CallFailed


class ServerMachine(ConnectionMachine):
    """Calls on one connection."""

    def __init__(self, limits: GrpcLimits, request_bytes_of: Mapping[str, int] = NO_OWN_LIMITS) -> None:
        """``request_bytes_of`` holds the methods whose messages have a limit of their own."""
        super().__init__(limits, client=False, largest_message=max((limits.request_bytes, *request_bytes_of.values())))
        self._request_bytes_of = request_bytes_of
        self._answered: dict[int, bool] = {}
        """Calls under way, and whether their response headers were sent."""
        self._draining = False

    @property
    def calls(self) -> int:
        """How many are under way."""
        return len(self._answered)

    def drain(self) -> None:
        """Take no more calls; those under way go on."""
        if not self._draining:
            self._draining = True
            self.go_away()

    def receive(self, data: bytes, now: float) -> list[ServerEvent]:
        """Take what arrived.

        Raises:
            ProtocolViolation: the connection must end, after ``data_to_send`` was written.
        """
        events: list[ServerEvent] = []
        received, goaways = self._receive(data, now)
        for event in received:
            self._handle(event, events)
        events.extend(GoAwayReceived(goaway) for goaway in goaways)
        return events

    def _handle(self, event: h2.events.Event, events: list[ServerEvent]) -> None:
        match event:
            case h2.events.RequestReceived():
                self._start(event, events)
            case h2.events.DataReceived():
                error = self._accept_data(event)
                if error is not None:
                    events.append(CallFailed(event.stream_id, error))
                elif event.stream_id in self._answered:
                    events.append(CallProgressed(event.stream_id))
            case h2.events.StreamEnded():
                if event.stream_id in self._inbound:
                    self._inbound[event.stream_id].ended = True
                    events.append(CallProgressed(event.stream_id))
            case h2.events.StreamReset():
                if self._answered.pop(event.stream_id, None) is not None:
                    events.append(CallCancelled(event.stream_id))
                self.release(event.stream_id, _NO_ERROR)
            case h2.events.WindowUpdated():
                events.append(WindowOpened())
            case h2.events.RemoteSettingsChanged():
                events.append(SettingsReceived())

    def _start(self, event: h2.events.RequestReceived, events: list[ServerEvent]) -> None:
        stream_id = event.stream_id
        headers = decode_headers(event.headers or ())
        limit = self._request_bytes_of.get(headers.get(":path", ""), self._limits.request_bytes)
        self._open_inbound(stream_id, limit)
        if self._draining:
            self.release(stream_id, _REFUSED_STREAM)
            return
        if headers.get(":method") != "POST" or not is_grpc(headers.get("content-type", "")):
            # Not a gRPC client at all: the answer is plain HTTP.
            status = b"405" if headers.get(":method") != "POST" else b"415"
            self._send_headers(stream_id, [(b":status", status)], end=True)
            self.release(stream_id, _NO_ERROR)
            return
        self._answered[stream_id] = False
        try:
            timeout = decode_timeout(headers["grpc-timeout"]) if "grpc-timeout" in headers else None
            if headers.get("grpc-encoding", "identity") != "identity":
                raise GrpcError(StatusCode.UNIMPLEMENTED, "compressed messages are not accepted, only identity")
        except GrpcError as error:
            self.finish(stream_id, error.status, error.message)
            return
        events.append(
            CallStarted(
                stream_id=stream_id,
                method=headers.get(":path", ""),
                metadata=metadata_of(headers),
                timeout=timeout,
            )
        )

    def answer(self, stream_id: int) -> None:
        """Send the response headers, unless they were sent.

        Raises:
            GrpcError: the client has gone.
        """
        if stream_id not in self._answered:
            raise GrpcError(StatusCode.CANCELLED, "the client has ended the call")
        if not self._answered[stream_id]:
            self._answered[stream_id] = True
            self._send_headers(stream_id, _RESPONSE, end=False)

    def finish(
        self, stream_id: int, status: StatusCode, message: str, trailers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """End a call; without effect if the client has ended it already."""
        trailer_fields = encode_metadata(trailers)
        answered = self._answered.pop(stream_id, None)
        if answered is None:
            return
        fields = [(b"grpc-status", str(int(status)).encode())]
        if message:
            fields.append((b"grpc-message", encode_status_text(message)))
        fields += trailer_fields
        if not answered:
            accept = [(b"grpc-accept-encoding", b"identity")] if status is StatusCode.UNIMPLEMENTED else []
            fields = [*_RESPONSE, *accept, *fields]
        self._send_headers(stream_id, fields, end=True)
        # A client that is still sending is told to stop; NO_ERROR says that the answer is complete.
        self.release(stream_id, _NO_ERROR)


_RESPONSE = [(b":status", b"200"), (b"content-type", CONTENT_TYPE)]

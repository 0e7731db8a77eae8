"""Asking external authorizers.

A gRPC authorizer keeps one connection per waypoint, opened when it is first needed and again when it has ended; one
that does not open is not tried again for a moment, so requests do not queue up for it. The HTTP form makes a connection
for each question. A question that is not answered in time, or not properly, counts as the authorizer's failure:
``fail_open`` decides, and otherwise ``status_on_error`` is the client's answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Never

import structlog
import trio

from mesh.errors import ConnectFailed, InvalidMessage, MeshError
from mesh.grpc.driver import Channel, GrpcError, GrpcLimits, channel_over
from mesh.identity import SpiffeId
from mesh.model.request_policy import ExternalAuthorizer
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.security.external_authorization_codec import (
    MAX_ANSWER_BYTES,
    METHOD,
    Consent,
    Refusal,
    decode_check,
    decode_http_check,
    encode_check,
    http_check_headers,
)
from waypoint.security.http_client_driver import HttpCall, exchange
from waypoint.telemetry.record import HttpVersion

_log = structlog.get_logger()

Connect = Callable[[ExternalAuthorizer], Awaitable[trio.SocketStream]]
"""To one of the authorizer's endpoints; raises MeshError or OSError."""

RETRY_SECONDS: Final = 1.0
_LIMITS: Final = GrpcLimits(response_bytes=MAX_ANSWER_BYTES)


class _Line:
    """The connection to one gRPC authorizer."""

    def __init__(self, authorizer: ExternalAuthorizer, connect: Connect) -> None:
        self._authorizer = authorizer
        self._connect = connect
        self._channel: Channel | None = None
        self._failed = False
        self._changed = trio.Event()
        self._wanted = trio.Event()

    async def channel(self) -> Channel:
        """The open channel.

        Raises:
            ConnectFailed: it does not open.
        """
        self._wanted.set()
        while self._channel is None:
            if self._failed:
                raise ConnectFailed(f"authorizer {self._authorizer.name} cannot be reached")
            await self._changed.wait()
        return self._channel

    async def run(self) -> Never:
        """Open, keep, open again."""
        while True:
            await self._wanted.wait()
            try:
                stream = await self._connect(self._authorizer)
                hostname = self._authorizer.service.partition("/")[2]
                async with channel_over(stream, f"{hostname}:{self._authorizer.port}", "http", _LIMITS) as channel:
                    self._set(channel, failed=False)
                    await channel.wait_closed()
            except (MeshError, OSError, trio.BrokenResourceError) as error:
                _log.warning("no connection to the authorizer", authorizer=self._authorizer.name, error=str(error))
                self._set(None, failed=True)
                await trio.sleep(RETRY_SECONDS)
            self._wanted = trio.Event()
            self._set(None, failed=False)

    def _set(self, channel: Channel | None, *, failed: bool) -> None:
        self._channel, self._failed = channel, failed
        self._changed.set()
        self._changed = trio.Event()


class ExternalAuthorizers:
    """All authorizers that a waypoint asks."""

    def __init__(self, connect: Connect, identity: SpiffeId | None) -> None:
        """Prepare; ``run`` keeps the connections.

        Args:
            connect: how to reach an authorizer.
            identity: the waypoint's own.
        """
        self._connect = connect
        self._identity = identity
        self._lines: dict[ExternalAuthorizer, _Line] = {}
        self._new, self._news = trio.open_memory_channel[_Line](64)
        self.failures = 0
        """Questions without a proper answer, for metrics."""

    async def ask(
        self,
        authorizer: ExternalAuthorizer,
        head: RequestHead,
        client: Client,
        version: HttpVersion,
        request_id: bytes = b"",
        body: bytes = b"",
    ) -> Consent | Refusal:
        """Ask about one request. Never raises, takes ``authorizer.timeout_seconds`` at most."""
        error = f"no answer within {authorizer.timeout_seconds:g} s"
        with trio.move_on_after(authorizer.timeout_seconds):
            try:
                if authorizer.grpc:
                    question = encode_check(head, client, self._identity, version, request_id, authorizer, body)
                    channel = await self._line(authorizer).channel()
                    return decode_check(await channel.unary(METHOD, question, timeout=authorizer.timeout_seconds))
                answer = await self._ask_http(authorizer, head)
                if answer is not None:
                    return answer
                error = "it answers 5xx"
            except (MeshError, GrpcError, InvalidMessage) as failure:
                error = str(failure)
        self.failures += 1
        _log.warning(
            "authorizer has failed", authorizer=authorizer.name, error=error, admitted=authorizer.fail_open
        )
        return Consent() if authorizer.fail_open else Refusal(status=authorizer.status_on_error)

    async def run(self) -> Never:
        """Keep connections, until cancelled."""
        async with trio.open_nursery() as nursery:
            async for line in self._news:
                nursery.start_soon(line.run)
        raise AssertionError("the channel of lines is never closed")

    def _line(self, authorizer: ExternalAuthorizer) -> _Line:
        line = self._lines.get(authorizer)
        if line is None:
            line = _Line(authorizer, self._connect)
            try:
                self._new.send_nowait(line)
            except trio.WouldBlock as error:
                raise ConnectFailed("too many authorizers at once") from error
            self._lines[authorizer] = line
        return line

    async def _ask_http(self, authorizer: ExternalAuthorizer, head: RequestHead) -> Consent | Refusal | None:
        async def connect(host: str, port: int) -> trio.abc.Stream:
            return await self._connect(authorizer)

        hostname = authorizer.service.partition("/")[2]
        answer = await exchange(
            HttpCall(
                url=f"http://{hostname}:{authorizer.port}{authorizer.path_prefix}{head.path.decode('latin-1')}",
                method=head.method,
                headers=http_check_headers(head, authorizer),
                timeout_seconds=authorizer.timeout_seconds,
                max_body_bytes=MAX_ANSWER_BYTES,
            ),
            connect=connect,
        )
        return decode_http_check(answer.status, answer.headers, answer.body, authorizer)

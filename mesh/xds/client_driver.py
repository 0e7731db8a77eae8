"""The client on trio: one stream after another, for ever.

The stream may break, the server may be away for a day: what was received stays, and the client comes back with the
versions it holds. Waits between attempts grow from 10 ms to 15 s, with jitter, and start over once a response came.
"""

from __future__ import annotations

import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NoReturn, Protocol

import structlog
import trio

from mesh.backoff import Backoff
from mesh.errors import MeshError
from mesh.grpc.driver import GrpcLimits, open_channel
from mesh.xds.client_machine import DeltaClient, Received, Subscription, UnknownTypeReceived
from mesh.xds.discovery_codec import NodeInfo, Rejected, Resource

log = structlog.get_logger("xds")

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
RECONNECT = Backoff(initial=0.01, maximum=15.0)

_BATCH = 128
"""Resources applied between two looks at other tasks: a full push must not stall the data path."""


class MessageStream(Protocol):
    """Messages both ways, as a gRPC call has them."""

    async def send(self, message: bytes) -> None:
        """Send one message."""

    async def receive(self) -> bytes | None:
        """The next message; None at the end."""


class ResourceHandler(Protocol):
    """What the client brings its resources to."""

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
        """Take changes; does not wait.

        A large response comes in several calls, all its removals in the first; the first response of a type comes even
        if it is empty.

        Returns:
            The resources that cannot be used. The others count as taken.
        """

    def applied(self, type_url: str) -> None:
        """All of one response is in: what was known of this type at that moment is whole."""


Connect = Callable[[], AbstractAsyncContextManager[MessageStream]]


def aggregated_stream(
    host: str,
    port: int,
    *,
    ssl_context: Callable[[], ssl.SSLContext | None],
    server_hostname: str | None = None,
    metadata: Callable[[], Awaitable[Sequence[tuple[str, str]]]],
    limits: GrpcLimits | None = None,
) -> Connect:
    """How to open the discovery stream of an operator, or of istiod.

    Args:
        host: name or address.
        port: usually 15012.
        ssl_context: asked anew for each connection, so that a changed root certificate counts.
        server_hostname: the name in the server's certificate, if not ``host``.
        metadata: asked anew for each connection, as tokens are rotated: ``authorization``, ``clusterid``.
        limits: bounds of the connection; default ``GrpcLimits()``.
    """

    @asynccontextmanager
    async def connect() -> AsyncIterator[MessageStream]:
        fields = await metadata()
        async with (
            open_channel(host, port, ssl_context(), server_hostname, limits or GrpcLimits()) as channel,
            channel.stream(METHOD, metadata=fields) as call,
        ):
            yield call

    return connect


class XdsClient:
    """A client of delta discovery; ``run`` it, and subscribe to more at any time."""

    def __init__(
        self,
        connect: Connect,
        node: NodeInfo,
        subscriptions: Sequence[Subscription],
        handler: ResourceHandler,
        backoff: Backoff = RECONNECT,
    ) -> None:
        """``connect`` opens one stream; what it raises is logged, and tried again."""
        self._connect = connect
        self._machine = DeltaClient(node, subscriptions)
        self._type_urls = [each.type_url for each in subscriptions]
        self._handler = handler
        self._backoff = backoff
        self._outgoing: deque[bytes] = deque()
        self._to_send = trio.Event()
        self._progress = trio.Event()
        self._connected = False
        self._failures = 0

    @property
    def connected(self) -> bool:
        """Whether a stream is open now."""
        return self._connected

    def synced(self) -> bool:
        """Whether every type has had its first response applied: the client knows enough to be ready."""
        return all(self._machine.synced(type_url) for type_url in self._type_urls)

    async def wait_synced(self) -> None:
        """Until ``synced``."""
        while not self.synced():
            await self._progress.wait()

    def subscribe(self, type_url: str, names: Iterable[str]) -> None:
        """Ask for names of an on-demand type; asked again after every reconnection."""
        self._queue(self._machine.subscribe(type_url, names))

    def unsubscribe(self, type_url: str, names: Iterable[str]) -> None:
        """Ask for names no longer; the server then removes what nothing else asks for."""
        self._queue(self._machine.unsubscribe(type_url, names))

    async def run(self) -> NoReturn:
        """Keep a stream open, for ever."""
        while True:
            try:
                async with self._connect() as stream:
                    reason = await self._converse(stream)
            except (MeshError, OSError, trio.BrokenResourceError) as error:
                reason = str(error)
            finally:
                self._disconnected()
            self._failures += 1
            delay = self._backoff.delay(self._failures, random.random())
            log.warning("xds_disconnected", reason=reason, attempt=self._failures, retry_seconds=round(delay, 3))
            await trio.sleep(delay)

    def _queue(self, requests: Iterable[bytes]) -> None:
        self._outgoing.extend(requests)
        self._to_send.set()

    def _disconnected(self) -> None:
        self._connected = False
        self._machine.disconnected()
        self._outgoing.clear()

    async def _converse(self, stream: MessageStream) -> str:
        """Until the stream ends; says why it did."""
        self._outgoing.clear()
        self._queue(self._machine.connected())
        self._connected = True
        log.info("xds_connected")
        reasons: list[str] = []
        async with trio.open_nursery() as nursery:

            async def until_it_ends(task: Callable[[MessageStream], Awaitable[str]]) -> None:
                try:
                    reasons.append(await task(stream))
                except MeshError as error:
                    reasons.append(str(error))
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_it_ends, self._send)
            nursery.start_soon(until_it_ends, self._receive)
        return reasons[0] if reasons else "the stream was closed"

    async def _send(self, stream: MessageStream) -> str:
        while True:
            await self._to_send.wait()
            self._to_send = trio.Event()
            while self._outgoing:
                await stream.send(self._outgoing.popleft())

    async def _receive(self, stream: MessageStream) -> str:
        while True:
            message = await stream.receive()
            if message is None:
                return "the server ended the stream"
            received = self._machine.receive(message)
            if isinstance(received, UnknownTypeReceived):
                log.error("xds_unknown_type", type_url=received.type_url)
                self._queue([received.acknowledgement])
            else:
                await self._apply(received)
                self._failures = 0

    async def _apply(self, received: Received) -> None:
        rejected: list[Rejected] = []
        removed = received.removed
        first = True
        for updated in received.batches(_BATCH):
            rejected += self._handler.apply(received.type_url, updated, removed)
            removed, first = (), False
            await trio.lowlevel.checkpoint()
        if first:
            rejected += self._handler.apply(received.type_url, (), removed)
        self._handler.applied(received.type_url)
        # Should the task be cancelled above, nothing is recorded as held, and it is all sent again.
        for each in (*received.malformed, *rejected):
            log.error("xds_resource_rejected", type_url=received.type_url, resource=each.name, reason=each.reason)
        self._queue([self._machine.handled(received, rejected)])
        self._progress.set()
        self._progress = trio.Event()


async def run_client(
    connect: Connect,
    node: NodeInfo,
    subscriptions: Sequence[Subscription],
    handler: ResourceHandler,
    *,
    task_status: trio.TaskStatus[XdsClient] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Run a client, for ever; ``nursery.start`` returns it for later subscriptions."""
    client = XdsClient(connect, node, subscriptions, handler)
    task_status.started(client)
    await client.run()

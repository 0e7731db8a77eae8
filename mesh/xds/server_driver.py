"""The server on trio: a store of snapshots, and the handler of one discovery stream after another."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from mesh.errors import InvalidMessage
from mesh.grpc.driver import CallContext, GrpcError, Handler, ServerStream, StatusCode, streaming
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, DESTINATION_TYPE, LABELS_TYPE
from mesh.xds.server_machine import (
    Acknowledged,
    DeltaServer,
    Event,
    Identified,
    Refused,
    Sees,
    UnknownTypeRequested,
)
from mesh.xds.snapshot import Entry, Snapshot

log = structlog.get_logger("xds")

SERVED_TYPES = (AUTHORIZATION_TYPE, ADDRESS_TYPE, LABELS_TYPE, DESTINATION_TYPE)
"""Policies first: a workload that refers to a policy not yet received is denied everything."""

REQUEST_BYTES = 64 * 1024 * 1024
"""A reconnecting client lists every resource it holds in one request."""

_ACKNOWLEDGE_SECONDS = 120.0


class SnapshotSource(Protocol):
    """Where the server's resources come from."""

    def current(self) -> Snapshot:
        """The latest snapshot."""

    async def changed(self, after_serial: int) -> Snapshot:
        """The first snapshot later than a serial; waits for it."""


class SnapshotStore:
    """The latest snapshot, kept by whoever translates; a ``SnapshotSource``."""

    def __init__(self) -> None:
        self._snapshot = Snapshot.empty()
        self._changed = trio.Event()

    def current(self) -> Snapshot:
        """The latest snapshot."""
        return self._snapshot

    async def changed(self, after_serial: int) -> Snapshot:
        """The first snapshot later than a serial; waits for it."""
        while self._snapshot.serial <= after_serial:
            await self._changed.wait()
        return self._snapshot

    def update(self, type_url: str, updated: Iterable[Entry] = (), removed: Iterable[str] = ()) -> None:
        """Change some resources of a type."""
        self._publish(self._snapshot.changed(type_url, updated, removed))

    def replace(self, types: Mapping[str, Iterable[Entry]]) -> None:
        """Let each of these types hold just these resources; one wake-up for all of them."""
        snapshot = self._snapshot
        for type_url, entries in types.items():
            snapshot = snapshot.replaced(type_url, entries)
        self._publish(snapshot)

    def _publish(self, snapshot: Snapshot) -> None:
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._changed.set()
            self._changed = trio.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedClient:
    """A stream under way, for debugging pages."""

    caller: str
    """Who ``authenticate`` says it is."""
    node_id: str
    """Who it says it is."""
    held: Mapping[str, int]
    """Resources held, by type."""
    acknowledged: int
    refused: int
    last_refusal: str


class XdsServer:
    """Serves the snapshots of a source to any number of streams."""

    def __init__(
        self,
        source: SnapshotSource,
        *,
        authenticate: Callable[[CallContext], Awaitable[str]],
        served_types: Sequence[str] = SERVED_TYPES,
        sees: Callable[[str], Mapping[str, Sees]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            source: of what is served.
            authenticate: names the caller of a stream before any of its messages is read, or raises ``GrpcError``
                with UNAUTHENTICATED or PERMISSION_DENIED.
            served_types: in the order in which responses go out.
            sees: what a caller may have, by type; types that are not there, and None: everything.
        """
        self._source = source
        self._authenticate = authenticate
        self._served_types = tuple(served_types)
        self._sees = sees
        self._streams: set[_Stream] = set()

    def handler(self) -> Handler:
        """For ``serve_grpc``, under the name ``METHOD``."""
        return streaming(self.handle, request_bytes=REQUEST_BYTES)

    async def handle(self, context: CallContext, stream: ServerStream) -> None:
        """Serve one stream until either side ends it."""
        caller = await self._authenticate(context)
        sees = None if self._sees is None else self._sees(caller)
        one = _Stream(self._source, DeltaServer(self._served_types, sees), caller, stream)
        self._streams.add(one)
        log.info("xds_client_connected", caller=caller, peer=str(context.peer))
        try:
            await one.run()
        finally:
            self._streams.discard(one)
            log.info("xds_client_disconnected", caller=caller, node=one.machine.node_id, peer=str(context.peer))

    def connected(self) -> list[ConnectedClient]:
        """The streams under way."""
        return [one.describe(self._served_types) for one in self._streams]


class _Stream:
    def __init__(self, source: SnapshotSource, machine: DeltaServer, caller: str, stream: ServerStream) -> None:
        self.machine = machine
        self._source = source
        self._caller = caller
        self._stream = stream
        self._requested = trio.Event()
        self._acknowledged_by = math.inf
        self._acknowledged = 0
        self._refused = 0
        self._last_refusal = ""

    def describe(self, types: Sequence[str]) -> ConnectedClient:
        return ConnectedClient(
            caller=self._caller,
            node_id=self.machine.node_id,
            held={type_url: self.machine.held(type_url) for type_url in types},
            acknowledged=self._acknowledged,
            refused=self._refused,
            last_refusal=self._last_refusal,
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._respond)
            nursery.start_soon(self._wake_on_changes)
            while (message := await self._stream.receive()) is not None:
                try:
                    events = self.machine.receive(message)
                except InvalidMessage as error:
                    raise GrpcError(StatusCode.INVALID_ARGUMENT, str(error)) from error
                for event in events:
                    self._note(event)
                self._requested.set()
            nursery.cancel_scope.cancel()

    async def _wake_on_changes(self) -> None:
        serial = self._source.current().serial
        while True:
            serial = (await self._source.changed(serial)).serial
            self._requested.set()

    async def _respond(self) -> None:
        while True:
            # An acknowledgement that never comes would leave a client with stale state behind a live connection.
            with trio.move_on_at(self._acknowledged_by):
                await self._requested.wait()
            if trio.current_time() >= self._acknowledged_by:
                raise GrpcError(
                    StatusCode.ABORTED, f"no acknowledgement within {_ACKNOWLEDGE_SECONDS:g} s: reconnect to resume"
                )
            self._requested = trio.Event()
            for response in self.machine.respond(self._source.current()):
                await self._stream.send(response)
            if self._acknowledged_by == math.inf and self.machine.waits_for_acknowledgement():
                self._acknowledged_by = trio.current_time() + _ACKNOWLEDGE_SECONDS

    def _answered(self) -> None:
        waits = self.machine.waits_for_acknowledgement()
        self._acknowledged_by = trio.current_time() + _ACKNOWLEDGE_SECONDS if waits else math.inf

    def _note(self, event: Event) -> None:
        match event:
            case Identified(node_id):
                log.info("xds_node", caller=self._caller, node=node_id)
            case Acknowledged(type_url):
                self._answered()
                self._acknowledged += 1
                log.debug("xds_acknowledged", node=self.machine.node_id, type_url=type_url)
            case Refused(type_url, reason):
                self._answered()
                self._refused += 1
                self._last_refusal = reason[:4096]
                log.warning("xds_refused", node=self.machine.node_id, type_url=type_url, reason=self._last_refusal)
            case UnknownTypeRequested(type_url):
                log.info("xds_unknown_type", node=self.machine.node_id, type_url=type_url)

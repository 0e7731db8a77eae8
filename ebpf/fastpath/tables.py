"""The same-node fast path as ztunnel sees it: verdicts it writes, connections it reads.

The slow path decides, the fast path remembers. After ztunnel has admitted a connection between two pods of this node it
leaves a *verdict*: who dials (a network namespace), what (address and port), and the generation of the destination.
Connections with a valid verdict are then dialled by the kernel programs without ztunnel. Verdicts die all at once when
their destination's generation changes, when ztunnel's listener in the destination is gone, and when ztunnel has not
said for some seconds that it is alive.

For a Service, ztunnel writes down its endpoints, each as often as its weight asks; the program draws one per
connection. What it draws without a verdict goes to ztunnel, with the drawn endpoint, so that the distribution stays.

A fast connection begins on TCP. Of one that has proven to be worth it the programs tell (``talkers``), and
ztunnel has its ends entered in the splice (``enter_client``, ``enter_server``), each from inside its pod's namespace.

An object serves one thread.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ebpf.fastpath.entry import EntryOutcome, SpliceEntry
from ebpf.fastpath.talkers import Talker, Talkers
from ebpf.layout import (
    END_CLOSED,
    END_FAILED,
    FAST_DIAL,
    FAST_SLOTS,
    FAST_SPLICE,
    FastConnection,
    FastFlow,
    FastKey,
    FastService,
    FastState,
    FastVerdict,
    ip_field,
)
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths
from mesh.addresses import IpBytes, SocketAddress
from mesh.closing import Closing
from mesh.errors import ConfigurationError

QUEUE_LIMIT = 4 << 20
"""Bytes. Smaller limits cost throughput of bulk transfers, larger ones memory for slow readers."""

_CONNECTION = struct.Struct("=7Q16sHH16sHH16sHHHHII")
_FLOW = struct.Struct("=9Q8I")
_COOKIE = struct.Struct("=Q")
_ZERO = ctypes.c_uint32(0)


@dataclass(frozen=True, slots=True)
class FastPathConnection:
    """One fast connection. Times are nanoseconds of ``time.monotonic_ns``."""

    cookie: int
    """Of the client's socket."""
    source_netns: int
    destination_netns: int
    opened_at: int
    closed_at: int
    server_cookie: int
    """0: it never was established at the server's end."""
    sent: int
    """By the client, in bytes; of live connections, as of now."""
    received: int
    source: SocketAddress
    """Port 0 until the SYN is sent."""
    destination: SocketAddress
    dialled: SocketAddress
    """Another than ``destination`` when a service was dialled."""
    failed: bool
    """Closed without ever having been established at the client's end."""


class FastPathMaps(Closing):
    """The maps of one node's fast path.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def __init__(self, paths: PinPaths) -> None:
        self._state = PinnedMap(paths, "fast_state", ctypes.c_uint32, FastState)
        self._generations = PinnedMap(paths, "fast_generations", ctypes.c_uint64, ctypes.c_uint64)
        self._verdicts = PinnedMap(paths, "fast_verdicts", FastKey, FastVerdict)
        self._services = PinnedMap(paths, "fast_services", FastKey, FastService)
        self._connections = PinnedMap(paths, "fast_connections", ctypes.c_uint64, FastConnection)
        self._closed = PinnedMap(paths, "fast_closed", ctypes.c_uint64, FastConnection)
        self._flows = PinnedMap(paths, "fast_flows", ctypes.c_uint64, FastFlow)
        self._sockets = PinnedMap(paths, "fast_sockets", ctypes.c_uint64, ctypes.c_uint64)
        self._entry = SpliceEntry(paths)
        self.talkers = Talkers(paths)

    def close(self) -> None:
        """Close the maps; what they say stays."""
        for table in (
            *(self._state, self._generations, self._verdicts, self._services),
            *(self._connections, self._closed, self._flows, self._sockets, self._entry, self.talkers),
        ):
            table.close()

    # -- what ztunnel says ---------------------------------------------------------------------------------------------

    def stay_alive(
        self, seconds: float, *, splice: bool = True, queue_limit: int = QUEUE_LIMIT
    ) -> None:
        """Honour verdicts for so long from now.

        Args:
            seconds: how long.
            splice: whether payload may go past TCP.
            queue_limit: bytes that may wait in a receiver's queue before its direction falls back to TCP.
        """
        flags = FAST_DIAL | (FAST_SPLICE if splice else 0)
        until = time.monotonic_ns() + int(seconds * 1e9)
        self._state.set(_ZERO, FastState(until, flags, queue_limit))

    def stop(self, *, splice: bool = True) -> None:
        """Honour no verdict from now on. Live connections go on as they are."""
        flags = FAST_SPLICE if splice else 0
        self._state.set(_ZERO, FastState(0, flags, QUEUE_LIMIT))

    def clear(self) -> None:
        """Forget all verdicts, services and generations; live connections go on."""
        for verdict in list(self._verdicts):
            self._verdicts.remove(verdict)
        for service in list(self._services):
            self._services.remove(service)
        for generation in list(self._generations):
            self._generations.remove(generation)

    def set_generation(self, destination_netns: int, generation: int) -> None:
        """From now on only verdicts of this generation hold for this destination.

        Raises:
            ConfigurationError: the map is full (as many as pods).
        """
        self._generations.set(ctypes.c_uint64(destination_netns), ctypes.c_uint64(generation))

    def forget_generation(self, destination_netns: int) -> None:
        """No verdict holds for this destination."""
        self._generations.remove(ctypes.c_uint64(destination_netns))

    def admit(self, source_netns: int, to: SocketAddress, destination_netns: int, generation: int) -> bool:
        """Write a verdict. False if there is no room; such connections keep to the slow path."""
        try:
            self._verdicts.set(_key(source_netns, to), FastVerdict(generation, destination_netns))
        except ConfigurationError:
            return False
        return True

    def revoke(self, source_netns: int, to: SocketAddress) -> None:
        """Remove a verdict, if it is there."""
        self._verdicts.remove(_key(source_netns, to))

    def set_service(self, source_netns: int, dialled: SocketAddress, slots: Sequence[SocketAddress]) -> bool:
        """Let connections of a pod to a service draw from these slots. False if there is no room.

        Args:
            source_netns: who dials.
            dialled: the service's address and port.
            slots: 1 to ``FAST_SLOTS`` endpoints, each as often as its weight asks.
        """
        words = (ctypes.c_uint32 * (FAST_SLOTS * 5))()
        for number, endpoint in enumerate(slots[:FAST_SLOTS]):
            words[5 * number : 5 * number + 5] = [*struct.unpack("=4I", endpoint.ip), endpoint.port]
        try:
            self._services.set(_key(source_netns, dialled), FastService(min(len(slots), FAST_SLOTS), 0, words))
        except ConfigurationError:
            return False
        return True

    def remove_service(self, source_netns: int, dialled: SocketAddress) -> None:
        """Take every connection of a pod to a service to ztunnel again."""
        self._services.remove(_key(source_netns, dialled))

    # -- the splice ----------------------------------------------------------------------------------------------------

    def enter_client(self, connection: FastPathConnection) -> EntryOutcome:
        """Enter the client's end; called from inside the client's network namespace.

        Raises:
            EnvironmentLacks: the kernel cannot run the program.
        """
        return self._entry.enter(connection.cookie, connection.source, connection.destination)

    def enter_server(self, connection: FastPathConnection) -> EntryOutcome:
        """The same for the server's end, from inside the server's."""
        return self._entry.enter(connection.server_cookie, connection.destination, connection.source)

    def enter_leg(self, talker: Talker) -> EntryOutcome:
        """Enter both ends of a leg, or neither; called from inside the pod's network namespace.

        Raises:
            EnvironmentLacks: the kernel cannot run the program.
        """
        return self._entry.enter_leg(talker.source, talker.destination)

    def leave(self, cookie: int) -> None:
        """Take a socket whose other end could not be entered out again: nothing has been spliced to it."""
        self._sockets.remove(ctypes.c_uint64(cookie))

    # -- what the programs say -----------------------------------------------------------------------------------------

    def live(self) -> list[FastPathConnection]:
        """All live connections, also those that are being established, with their bytes as of now."""
        sent: dict[int, int] = {}
        for key, value in self._flows.records():
            flow = _FLOW.unpack(value)
            sent[_COOKIE.unpack(key)[0]] = flow[4] + flow[5]
        found = []
        for key, value in self._connections.records():
            connection = _connection(key, value)
            found.append(
                _with_bytes(
                    connection,
                    sent.get(connection.cookie, connection.sent),
                    sent.get(connection.server_cookie, connection.received),
                )
            )
        return found

    def find(self, cookie: int) -> FastPathConnection | None:
        """A live connection by the cookie of its client's socket, with no bytes; None if it is over."""
        value = self._connections.get(ctypes.c_uint64(cookie))
        return None if value is None else _connection(_COOKIE.pack(cookie), bytes(value))

    def take_closed(self) -> list[FastPathConnection]:
        """Connections that ended since this was last asked, each once."""
        return [_connection(key, value) for key, value in self._closed.records(take=True)]

    def drop(self, cookie: int) -> None:
        """Forget a connection that never came to be: its connect failed before a SYN was made."""
        self._connections.remove(ctypes.c_uint64(cookie))


def _key(netns: int, to: SocketAddress) -> FastKey:
    return FastKey(netns, ip_field(to.ip), to.port, 0, 0)


def _connection(key: bytes, value: bytes) -> FastPathConnection:
    fields = _CONNECTION.unpack(value)
    source_netns, destination_netns, opened, closed, server, sent, received = fields[:7]
    source, destination, dialled = (
        SocketAddress(IpBytes(fields[start]), fields[start + 1]) for start in (7, 10, 13)
    )
    client_end = fields[16]
    cookie = int(_COOKIE.unpack(key)[0])
    failed = client_end == END_FAILED or (client_end == END_CLOSED and server == 0)
    return FastPathConnection(
        cookie, source_netns, destination_netns, opened, closed, server, sent, received, source, destination, dialled,
        failed,
    )


def _with_bytes(connection: FastPathConnection, sent: int, received: int) -> FastPathConnection:
    if (sent, received) == (connection.sent, connection.received):
        return connection
    return FastPathConnection(
        connection.cookie,
        connection.source_netns,
        connection.destination_netns,
        connection.opened_at,
        connection.closed_at,
        connection.server_cookie,
        sent,
        received,
        connection.source,
        connection.destination,
        connection.dialled,
        connection.failed,
    )

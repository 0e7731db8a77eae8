"""One process that plays a client's node and a server's node over loopback, without the kernel's programs.

Pods are loopback addresses. What the programs know (what was dialled, for whom a socket delivers) is kept in fakes.
"""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from mesh.addresses import OriginalDestination, PeerAddress, SocketAddress, format_ip, parse_ip
from mesh.errors import MeshError
from mesh.hbone.codec import encode_connect, response_status
from mesh.identity import SpiffeId
from mesh.model.policy import Policy
from mesh.model.service import Service
from mesh.model.workload import Workload
from mesh.relay.acceptor import Acceptor
from mesh.relay.engine import Engine
from mesh.relay.owned_tasks import OwnedTasks
from mesh.relay.pool import PoolKey, TunnelPool
from mesh.relay.socket_end import RawSocket
from mesh.relay.terminator import Terminator
from mesh.relay.tunnel import Tunnel
from mesh.state.store import MeshState
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import L4Metrics, new_registry
from mesh.testing.ca import TestAuthority
from mesh.testing.hbone import RecordingStream
from mesh.testing.model import make_workload
from mesh.tls.context import client_context, server_context
from mesh.tls.credentials import Credentials
from mesh.tls.kernel_driver import KernelTls
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, encode_address, encode_authorization
from mesh.xds.discovery_codec import Resource
from mesh.zds.codec import WorkloadInfo
from tests.mesh.relay.applications import echo
from ztunnel.pod import Pod
from ztunnel.proxy.baggage import BaggageCache
from ztunnel.proxy.connections import ConnectionTable
from ztunnel.proxy.delivery import Deliverer
from ztunnel.proxy.descriptions import Descriptions
from ztunnel.proxy.dials import Dials
from ztunnel.proxy.inbound import InboundProxy
from ztunnel.proxy.outbound import OutboundProxy
from ztunnel.proxy.plaintext import PlaintextProxy

CLIENT_IP = "127.0.0.3"
SERVER_IP = "127.0.0.2"
Application = Callable[[trio.SocketStream], Awaitable[None]]


Socket = socket.socket
"""By this name where a class has a method called socket."""


class Lines:
    """An access log's output."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line.decode())


class Namespace:
    """This process's own namespace, standing in for a pod's."""

    cookies = itertools.count(1)

    def __init__(self) -> None:
        self._cookie = next(self.cookies)
        self.closed = False
        self.made: list[socket.socket] = []
        self.redirect: SocketAddress | None = None
        """Where the sockets made here really connect: applications and gates cannot share an address in a test."""

    def cookie(self) -> int:
        return self._cookie

    def sockets(self, family: int, kind: int, proto: int = 0, count: int = 1) -> list[Socket]:
        return [self.socket(family, kind, proto) for _ in range(count)]

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        made: socket.socket
        if self.redirect is None:
            made = socket.socket(family, kind, proto)
        else:
            made = RedirectedSocket(family, kind, proto)
            made.redirect = self.redirect
        self.made.append(made)
        return made

    def close(self) -> None:
        self.closed = True


class RedirectedSocket(socket.socket):
    redirect: SocketAddress | None = None

    def connect_ex(self, address: Any) -> int:
        to = self.redirect
        return super().connect_ex(address if to is None else (format_ip(to.ip), to.port))


class FakeDeliveries:
    """Remembers for whom sockets were announced."""

    def __init__(self) -> None:
        self.announced: list[SocketAddress] = []
        self.failure: Exception | None = None

    def announce(self, connecting: int, client: SocketAddress) -> None:
        if self.failure is not None:
            raise self.failure
        self.announced.append(client)


class FakeOriginals:
    """Says what was dialled: always the same."""

    chosen: SocketAddress | None = None

    def __init__(self) -> None:
        self.destination: SocketAddress | None = None
        self.failure: Exception | None = None

    def take(self, accepted: int) -> OriginalDestination | None:
        if self.failure is not None:
            raise self.failure
        return None if self.destination is None else OriginalDestination(self.destination)


class FakeContexts:
    """Certificates of a test authority."""

    def __init__(self, authority: TestAuthority) -> None:
        self.authority = authority
        self.others: dict[SpiffeId, Credentials] = {}
        """Shown instead of an identity's own."""
        self.failure: MeshError | None = None
        self.kernel: KernelTls | None = None

    def credentials(self, identity: SpiffeId) -> Credentials:
        if self.failure is not None:
            raise self.failure
        return self.others.get(identity) or self.authority.issue(identity)

    async def client(self, identity: SpiffeId) -> ssl.SSLContext:
        return self.telling(client_context(self.credentials(identity)))

    async def server(self, identity: SpiffeId) -> ssl.SSLContext:
        return self.telling(server_context(self.credentials(identity)))

    def telling(self, context: ssl.SSLContext) -> ssl.SSLContext:
        if self.kernel is not None:
            self.kernel.key_log.attach(context)
        return context


class RedirectedPool(TunnelPool):
    """Dials the port a test listens on instead of 15008."""

    port = 0

    def ready(self, key: PoolKey) -> Tunnel | None:
        return super().ready(self._redirected(key))

    async def checkout(self, key: PoolKey) -> Tunnel:
        return await super().checkout(self._redirected(key))

    def _redirected(self, key: PoolKey) -> PoolKey:
        return key._replace(address=SocketAddress(key.address.ip, self.port))


@dataclass
class Kit:
    """All parts, wired as ``ztunnel.app`` does it."""

    nursery: trio.Nursery
    engine: Engine = field(default_factory=Engine)
    authority: TestAuthority = field(default_factory=TestAuthority)
    state: MeshState = field(default_factory=lambda: MeshState("node1"))
    log: Lines = field(default_factory=Lines)
    deliveries: FakeDeliveries = field(default_factory=FakeDeliveries)
    originals: FakeOriginals = field(default_factory=FakeOriginals)
    acceptors: list[Acceptor] = field(default_factory=list)

    def __post_init__(self) -> None:
        anything: Any
        self.registry = new_registry("ztunnel", "0")
        anything = self.log
        self.table = ConnectionTable(L4Metrics(self.registry), AccessLog("text", "info", anything))
        self.descriptions = Descriptions(self.state, self.table)
        self.dials = Dials(self.engine)
        self.contexts = FakeContexts(self.authority)
        self.baggage = BaggageCache()
        anything = self.deliveries
        deliverer = self.deliverer = Deliverer(anything)
        self.inbound = InboundProxy(
            self.engine, self.state, self.descriptions, self.table, deliverer, self.dials, self.baggage, None
        )
        self.plaintext = PlaintextProxy(
            self.engine, self.state, self.descriptions, self.table, deliverer, self.dials
        )
        anything = self.originals
        self.outbound = OutboundProxy(
            self.engine, self.state, self.descriptions, anything, self.table, self.dials, self.baggage, None
        )
        self.server = self.pod("server", SERVER_IP)
        self.client = self.pod("client", CLIENT_IP)
        self.terminator = self.make_terminator(self.server)
        self.pool = self.make_pool(self.client)
        self.nursery.start_soon(self.engine.run)
        self.nursery.start_soon(self.descriptions.run)

    # -- the mesh as the control plane describes it

    def pod(self, name: str, *addresses: str) -> Pod:
        namespace: Any = Namespace()
        info = WorkloadInfo(name, "demo", name)
        tasks = OwnedTasks(self.nursery, self.engine)
        return Pod(f"uid-{name}", info, namespace, map(parse_ip, addresses), "cluster.local", tasks)

    def describe(self, *pods: Pod, **fields: Any) -> None:
        """The control plane describes these pods."""
        self.tell(*(self.workload(pod, **fields) for pod in pods))
        self.policies()
        for pod in pods:
            self.descriptions.follow(pod)

    def workload(self, pod: Pod, **fields: Any) -> Workload:
        addresses = [format_ip(ip) for ip in pod.addresses]
        return make_workload(
            pod.info.name,
            *addresses,
            namespace="demo",
            service_account=pod.info.service_account,
            node="node1",
            **fields,
        )

    def tell(self, *values: Workload | Service, removed: tuple[str, ...] = ()) -> None:
        resources = [
            Resource(value.uid if isinstance(value, Workload) else value.key, "1", (), encode_address(value))
            for value in values
        ]
        assert self.state.apply(ADDRESS_TYPE, resources, removed) == []
        self.state.applied(ADDRESS_TYPE)

    def policies(self, *values: Policy, removed: tuple[str, ...] = ()) -> None:
        resources = [Resource(value.key, "1", (), encode_authorization(value)) for value in values]
        assert self.state.apply(AUTHORIZATION_TYPE, resources, removed) == []
        self.state.applied(AUTHORIZATION_TYPE)

    # -- listeners

    def make_terminator(self, pod: Pod) -> Terminator[Pod]:
        contexts: Any = self.contexts
        return Terminator(self.engine, pod, contexts, self.inbound)

    def make_pool(self, pod: Pod) -> RedirectedPool:
        contexts: Any = self.contexts
        return RedirectedPool(self.engine, pod, contexts)

    def listen(self, accepted: Callable[[RawSocket, PeerAddress], None], host: str = SERVER_IP) -> int:
        """A listener in the relay; its port."""
        listener = socket.create_server((host, 0), backlog=512)
        listener.setblocking(False)
        self.acceptors.append(Acceptor(self.engine, listener, accepted))
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port

    def serve_hbone(self) -> int:
        """Serve the server pod's tunnels; the client's pool dials them."""
        self.pool.port = self.listen(self.terminator.accepted)
        return self.pool.port

    def key(self, *expected: SpiffeId, ip: str = SERVER_IP) -> PoolKey:
        """What the client's connections to the server share."""
        identities = frozenset[SpiffeId | str](expected or {self.server.identity})
        return PoolKey(self.client.identity, parse_ip(CLIENT_IP), identities, SocketAddress(parse_ip(ip), 15008))

    async def application(self, application: Application, host: str = SERVER_IP) -> int:
        """Run an application; its port."""
        listeners = await trio.open_tcp_listeners(0, host=host)
        self.nursery.start_soon(trio.serve_listeners, application, listeners)
        port = listeners[0].socket.getsockname()[1]
        assert isinstance(port, int)
        return port

    echo = staticmethod(echo)
    """An application."""

    # -- clients

    @staticmethod
    def status(stream: RecordingStream) -> int | None:
        """The status of an answer."""
        return None if stream.headers is None else response_status(stream.headers)

    async def ask(self, tunnel: Tunnel, authority: str, **fields: str) -> RecordingStream:
        """CONNECT by hand, answered or reset."""
        stream = self.send(tunnel, encode_connect(authority, **fields))
        await self.until(lambda: stream.headers is not None or stream.resets)
        return stream

    def send(self, tunnel: Tunnel, block: bytes) -> RecordingStream:
        stream = RecordingStream(tunnel.machine, consume=True)
        stream.stream = tunnel.machine.open_stream(block, stream)
        return stream

    async def until(self, holds: Callable[[], Any], seconds: float = 5) -> None:
        with trio.fail_after(seconds):
            while not holds():  # noqa: ASYNC110 -- the relay has no events to wait for
                await trio.sleep(0.002)

    async def record(self, *parts: str) -> str:
        """The one close record of the one connection, with these parts in it."""
        await self.until(lambda: self.log.lines)
        assert len(self.log.lines) == 1, self.log.lines
        (line,) = self.log.lines
        assert not len(self.table)
        for part in parts:
            assert part in line, line
        return line

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a family's samples with these labels."""
        self.table.count_all()
        return sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def nothing_open(self, pod: Pod) -> bool:
        """Whether all sockets made inside a pod are closed, but for those kept for later deliveries."""
        self.deliverer.forget(pod)
        namespace: Any = pod.namespace
        return all(sock.fileno() == -1 for sock in namespace.made)

    def close(self) -> None:
        for acceptor in self.acceptors:
            acceptor.close()
        for pod in (self.server, self.client):
            pod.tasks.stop()
            self.deliverer.forget(pod)
        self.pool.close(None)
        self.terminator.close(None)
        for connection in self.table:
            if connection.end is not None:
                connection.end.cut(MeshError("the test is over"))


@pytest.fixture
def open_kit() -> Callable[[], Any]:
    """``async with open_kit() as kit``."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Kit]:
        async with trio.open_nursery() as nursery:
            kit = Kit(nursery)
            try:
                yield kit
            finally:
                kit.close()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        kit.engine.close()
        assert not len(kit.table)

    return opened


@pytest.fixture
async def kit(open_kit: Any) -> AsyncIterator[Kit]:
    """The client's and the server's node, nothing described yet."""
    async with open_kit() as made:
        yield made

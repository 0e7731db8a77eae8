"""A waypoint as the process runs it, between a client and endpoints, in one process over loopback.

The operator's discovery service is the real one; certificates come from a test authority. Endpoints are plain HTTP
servers (workloads outside of the mesh), so that no second proxy is needed.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from prometheus_client import CollectorRegistry

from mesh.addresses import SocketAddress, parse_ip
from mesh.certificates.contexts import ContextCache
from mesh.control_plane import ControlPlaneGroup
from mesh.errors import TunnelRefused
from mesh.hbone.codec import encode_connect
from mesh.identity import SpiffeId
from mesh.model.service import Service
from mesh.model.waypoint import Destination, DestinationPort, WorkloadLabels
from mesh.model.workload import AppProtocol, ServicePort, TunnelProtocol, Workload
from mesh.relay.engine import Engine
from mesh.relay.owned_tasks import OwnedTasks
from mesh.relay.pool import PoolKey, TunnelPool
from mesh.testing.ca import TestAuthority
from mesh.testing.grpc import serving
from mesh.testing.model import make_service, make_workload
from mesh.tls.context import control_plane_server_context
from mesh.tls.credentials import Credentials
from mesh.wire import external_authorization_pb2 as authorization
from mesh.xds.client_driver import METHOD
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, DESTINATION_TYPE, LABELS_TYPE, encode_address
from mesh.xds.server_driver import SnapshotStore, XdsServer
from mesh.xds.snapshot import entry
from mesh.xds.waypoint_codec import encode_destination, encode_labels
from waypoint import app
from waypoint.config import GatewayGroup, ListenGroup, LogGroup, WaypointSettings
from waypoint.host import OwnNamespace, WaypointHost
from waypoint.listening import open_listeners
from waypoint.testing.applications import Application, applications
from waypoint.testing.redis_servers import Redis
from waypoint.wire.contract import Buffer, WireOwner
from waypoint.wire.stream_wire import StreamWire

KEY = "demo/waypoint"
CLIENT = SpiffeId("cluster.local", "demo", "client")


class Received(WireOwner):
    """Everything that a wire brings."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self.lost = False
        self.changed = trio.Event()

    def wire_data(self, data: Buffer) -> None:
        self.data += data
        self._tell()

    def wire_ended(self) -> None:
        self.ended = True
        self._tell()

    def wire_lost(self, error: object) -> None:
        self.lost = True
        self._tell()

    def wire_writable(self) -> None:
        pass

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, holds: Callable[[Received], bool]) -> bytes:
        with trio.fail_after(5):
            while not holds(self):
                await self.changed.wait()
        return bytes(self.data)


class Mesh:
    """The operator, the waypoint and a client."""

    def __init__(self, folder: Path) -> None:
        self.authority = TestAuthority()
        self.store = SnapshotStore()
        self.folder = folder
        self.engine = Engine()
        self.port = 0
        self.pool: TunnelPool
        self.registry: CollectorRegistry
        """The waypoint's metrics."""
        self.output: Any
        """Where its logs go."""
        self.stop: Callable[[], None]
        """Ends the waypoint, as SIGTERM does."""
        (folder / "roots.pem").write_bytes(self.authority.roots)
        (folder / "token").write_text("secret")
        for kind in (AUTHORIZATION_TYPE, ADDRESS_TYPE, LABELS_TYPE, DESTINATION_TYPE):
            self.store.update(kind, [], [])

    def offer(self, *values: Workload | Service | Destination | WorkloadLabels) -> None:
        for value in values:
            if isinstance(value, Destination):
                payload = encode_destination(value)
                made = entry(DESTINATION_TYPE, value.name, payload, (), (value.waypoint,))
                self.store.update(DESTINATION_TYPE, [made], [])
            elif isinstance(value, WorkloadLabels):
                self.store.update(LABELS_TYPE, [entry(LABELS_TYPE, value.uid, encode_labels(value))], [])
            else:
                name = value.uid if isinstance(value, Workload) else value.key
                self.store.update(ADDRESS_TYPE, [entry(ADDRESS_TYPE, name, encode_address(value))], [])

    def offer_application(
        self, application: Application, key: str, vip: str, ip: str, ports: tuple[DestinationPort, ...] | None
    ) -> None:
        """A service at an address, with one endpoint that is not in the mesh; a destination if ports are given."""
        name = key.partition("/")[2].partition(".")[0]
        application.authority = f"{vip}:80"
        port = 80 if ports is not None else 4318
        self.offer(
            make_service(name, vip, ports={port: application.port}, namespace="demo"),
            make_workload(
                f"{name}-1",
                ip,
                namespace="demo",
                workload_name=name,
                services={key: {port: application.port}},
                tunnel_protocol=TunnelProtocol.NONE,
            ),
        )
        if ports is not None:
            self.offer(Destination(key=key, waypoint=KEY, ports=ports))

    async def reached(self, authority: str = "10.96.0.1:80", *arguments: str) -> tuple[int, bytes]:
        """The first answer, once the waypoint has been told."""
        with trio.fail_after(10):
            while True:
                try:
                    return await self.get(authority, *arguments)
                except TunnelRefused:
                    await trio.sleep(0.02)

    def withdraw(self, value: Destination) -> None:
        self.store.update(DESTINATION_TYPE, [], [value.name])

    async def served(self, authority: str) -> None:
        """Wait until something is served."""
        with trio.fail_after(10):
            while True:
                try:
                    wire, _ = await self.connect(authority)
                except TunnelRefused:
                    await trio.sleep(0.02)
                else:
                    wire.reset()
                    return

    async def fetch(self, identity: SpiffeId) -> Credentials:
        """See ``mesh.certificates.ca_client.CaClient``."""
        return self.authority.issue(identity)

    async def connect(self, authority: str) -> tuple[StreamWire, Received]:
        """A client's connection to something, through the waypoint."""
        own = SpiffeId("cluster.local", "demo", "waypoint")
        key = PoolKey(CLIENT, parse_ip("127.0.0.1"), frozenset({own}), SocketAddress(parse_ip("127.0.0.1"), self.port))
        tunnel = await self.pool.checkout(key)
        wire, received, done = StreamWire(tunnel), Received(), trio.Event()
        failures: list[object] = []
        wire.attach(received)

        def answered(error: object) -> None:
            failures.append(error)
            done.set()

        wire.open(encode_connect(authority, forwarded='for="127.0.0.1:4711"'), answered)
        tunnel.output_ready()
        with trio.fail_after(5):
            await done.wait()
        if failures[0] is not None:
            assert isinstance(failures[0], Exception)
            raise failures[0]
        return wire, received

    async def get(self, authority: str, path: str = "/", *headers: str) -> tuple[int, bytes]:
        """One request on a connection of its own: status and the whole answer."""
        wire, received = await self.connect(authority)
        lines = [f"GET {path} HTTP/1.1", f"host: {authority}", "connection: close", *headers]
        wire.write("\r\n".join([*lines, "", ""]).encode())
        answer = await received.until(lambda each: each.ended or each.lost)
        wire.reset()
        return int(answer[9:12]), answer


@pytest.fixture
async def own_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    async with mesh_of(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def replicas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractAsyncContextManager[list[Mesh]]]:
    """Makes several replicas of one waypoint, each with an operator of its own that is offered the same."""

    @asynccontextmanager
    async def make(count: int, **settings: Any) -> AsyncIterator[list[Mesh]]:
        async with AsyncExitStack() as stack:
            made = []
            for number in range(count):
                folder = tmp_path / f"replica-{number}"
                folder.mkdir()
                made.append(await stack.enter_async_context(mesh_of(folder, monkeypatch, **settings)))
            yield made

    return make


@asynccontextmanager
async def mesh_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[Mesh]:
    """``settings`` are the waypoint's."""
    mesh = Mesh(folder)

    async def caller(_context: object) -> str:
        return KEY

    listeners: list[socket.socket] = []
    original = open_listeners

    def listen(port: int) -> list[socket.socket]:
        listeners.extend(original(port))
        return listeners

    def client(*_arguments: Any, **_settings: Any) -> Any:
        return mesh

    monkeypatch.setattr(app, "open_listeners", listen)
    monkeypatch.setattr(app, "ca_client", client)
    operator = mesh.authority.issue_server("operator.test")
    context = control_plane_server_context(operator.certificate_chain, operator.key)
    handlers = {METHOD: XdsServer(mesh.store, authenticate=caller).handler()}
    async with serving(handlers, ssl_context=context) as port, trio.open_nursery() as nursery:
        configuration = WaypointSettings(
            gateway=GatewayGroup(
                name="waypoint",
                namespace="demo",
                service_account="waypoint",
                pod_name="waypoint-1",
                pod_ip="127.0.0.1",
            ),
            control_plane=ControlPlaneGroup(
                address=f"127.0.0.1:{port}",
                server_name="operator.test",
                root_certificate=folder / "roots.pem",
                token=folder / "token",
            ),
            listen=ListenGroup(hbone_port=0, admin_port=0, metrics_port=0, readiness_port=0),
            log=LogGroup(level="warning"),
            **{"drain_seconds": 2.0, **settings},
        )
        waypoint = app._Waypoint(configuration)
        mesh.registry = waypoint.registry
        mesh.output = waypoint.output
        mesh.stop = waypoint.stopping.set
        nursery.start_soon(waypoint.run)
        nursery.start_soon(mesh.engine.run)
        with trio.fail_after(10):
            while not listeners:  # noqa: ASYNC110 -- the process itself tells readiness on a port only
                await trio.sleep(0.01)
        mesh.port = listeners[0].getsockname()[1]
        host = WaypointHost("demo/client", CLIENT, OwnedTasks(nursery, mesh.engine), OwnNamespace())
        contexts: Any = ClientContexts(mesh.authority)
        mesh.pool = TunnelPool(mesh.engine, host, contexts)
        yield mesh
        mesh.pool.close(None)
        waypoint.stopping.set()
        with trio.move_on_after(5):
            await trio.sleep(0.2)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def web(own_mesh: Mesh) -> AsyncIterator[Application]:
    async with applications("web") as (made,):
        made.body = b"answer"
        service = make_service("web", "10.96.0.1", namespace="demo")
        own_mesh.offer(
            replace(service, ports=(ServicePort(80, made.port, app_protocol=AppProtocol.HTTP11),)),
            make_workload(
                "web-1",
                "127.0.0.2",
                namespace="demo",
                services={made.key: {80: made.port}},
                tunnel_protocol=TunnelProtocol.NONE,
            ),
            Destination(key=made.key, waypoint=KEY, ports=(DestinationPort(number=80, protocol=AppProtocol.HTTP11),)),
        )
        made.authority = "10.96.0.1:80"
        await own_mesh.reached(made.authority)
        made.requests.clear()
        yield made


class ClientContexts:
    """``mesh.certificates.tls_contexts.TlsContexts`` without a manager."""

    kernel = None

    def __init__(self, authority: TestAuthority) -> None:
        self._authority = authority
        self._cache = ContextCache()
        self._credentials: dict[SpiffeId, Credentials] = {}

    async def client(self, identity: SpiffeId) -> Any:
        credentials = self._credentials.setdefault(identity, self._authority.issue(identity))
        return self._cache.client(credentials)


Judge = Callable[[authorization.CheckRequest], authorization.CheckResponse]


class _Authorization(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/envoy.service.auth.v3.Authorization/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda request, _context: self._judge(request),
            request_deserializer=authorization.CheckRequest.FromString,
            response_serializer=authorization.CheckResponse.SerializeToString,
        )


@pytest.fixture
def grpc_authorizer() -> Iterator[Callable[[Judge], int]]:
    """Makes a gRPC server (grpcio's) of a function; gives its port at 127.0.0.9."""
    servers = []
    with ThreadPoolExecutor(4) as threads:

        def start(judge: Judge) -> int:
            server = grpc.server(threads)
            server.add_generic_rpc_handlers((_Authorization(judge),))
            port: int = server.add_insecure_port("127.0.0.9:0")
            server.start()
            servers.append(server)
            return port

        yield start
        for server in servers:
            server.stop(None).wait()


@pytest.fixture
def redis(tmp_path: Path) -> Redis:
    return Redis(tmp_path)

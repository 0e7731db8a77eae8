"""The composition root: the only module that builds everything and starts every task."""

from __future__ import annotations

import gc
import random
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version

import structlog
import trio

from ebpf.connections import Deliveries, OriginalDestinations
from ebpf.fastpath.abilities import Abilities, read_abilities
from ebpf.fastpath.tables import FastPathMaps
from ebpf.listeners import ListenerTable
from ebpf.paths import PinPaths
from ebpf.pods import PodTable
from mesh.certificates.ca_client import CaSettings, GrpcCaClient
from mesh.certificates.contexts import ContextCache
from mesh.certificates.manager import IdentityManager
from mesh.certificates.tls_contexts import TlsContexts
from mesh.clock import SystemClock
from mesh.control_plane import follow_control_plane
from mesh.errors import Draining, EnvironmentLacks
from mesh.process import collect_rarely, raise_descriptor_limit
from mesh.relay.engine import Engine
from mesh.state.store import MeshState
from mesh.telemetry import log
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.http_endpoint import open_http_listeners, serve_http
from mesh.telemetry.metrics import L4Metrics, WorkloadManagerMetrics, XdsMetrics, metrics_page, new_registry
from mesh.telemetry.output import standard_output
from mesh.xds.client_machine import Subscription
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.zds.client_driver import run_zds_client
from ztunnel.admin.dump import dump
from ztunnel.admin.readiness import Readiness
from ztunnel.admin.routes import Routes, admin_routes, metrics_routes, readiness_routes
from ztunnel.config import ZtunnelSettings
from ztunnel.fastpath.manager import FastPath
from ztunnel.inpod.manager import PodManager
from ztunnel.inpod.server import Proxies
from ztunnel.proxy.baggage import BaggageCache
from ztunnel.proxy.connections import ConnectionTable
from ztunnel.proxy.delivery import Deliverer
from ztunnel.proxy.descriptions import Descriptions
from ztunnel.proxy.dials import Dials
from ztunnel.proxy.inbound import InboundProxy
from ztunnel.proxy.outbound import OutboundProxy
from ztunnel.proxy.plaintext import PlaintextProxy

_log = structlog.get_logger("ztunnel")

_MAPS_RETRY_SECONDS = 1.0


async def run(settings: ZtunnelSettings) -> None:
    """Be the ztunnel of one node until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an address in the settings cannot be used.
        EnvironmentLacks: a port of ours is taken.
    """
    log.configure(settings.log.format, settings.log.level)
    collect_rarely()
    descriptors = raise_descriptor_limit()
    _log.info("starting", node=settings.node.name, version=version("ambimesh"), descriptors=descriptors)
    await _Ztunnel(settings).run()


class _Ztunnel:
    """All parts, wired."""

    def __init__(self, settings: ZtunnelSettings) -> None:
        self.settings = settings
        self.engine = Engine()
        self.registry = new_registry("ztunnel", version("ambimesh"))
        self.output = standard_output()
        self.access_log = AccessLog(settings.log.format, settings.log.access_level, self.output)
        self.metrics = L4Metrics(self.registry)
        self.table = ConnectionTable(self.metrics, self.access_log)
        self.fast_path: FastPath | None = None
        self.state = MeshState(settings.node.name)
        self.descriptions = Descriptions(self.state, self.table)
        self.dials = Dials(self.engine)
        host, port = settings.control_plane.host_and_port()
        control = settings.control_plane
        client = GrpcCaClient(
            CaSettings(
                host=host,
                port=port,
                server_name=control.server_name,
                root_certificate=control.root_certificate,
                token=control.token,
                cluster_id=settings.node.cluster_id,
                lifetime_seconds=settings.certificate_lifetime_seconds,
            ),
            SystemClock(),
        )
        self.identities = IdentityManager(client, SystemClock(), random.random)
        self.stopping = trio.Event()

    async def run(self) -> None:
        """Start everything, serve, drain, stop."""
        engine = self.engine
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.output.run)
            nursery.start_soon(engine.run)
            nursery.start_soon(self.identities.run)
            nursery.start_soon(self.descriptions.run)
            nursery.start_soon(self._stop_on_signal)
            metrics = XdsMetrics(self.registry)
            nursery.start_soon(
                follow_control_plane,
                self.settings.control_plane,
                self.settings.node.info(),
                [Subscription(ADDRESS_TYPE), Subscription(AUTHORIZATION_TYPE)],
                self.state,
                metrics,
            )
            maps = await _open_maps(PinPaths(self.settings.bpf.bpffs, self.settings.node.name), self.stopping)
            if maps is not None:
                await self._serve(nursery, maps)
            nursery.cancel_scope.cancel()
        engine.close()
        self.output.close()
        _log.info("stopped")

    async def _serve(self, nursery: trio.Nursery, maps: _KernelMaps) -> None:
        """Serve pods until told to stop, then drain."""
        self.fast_path = self._make_fast_path(maps)
        proxies = self._proxies(maps)
        pods = PodManager(
            proxies,
            maps.pods,
            self.descriptions,
            self.identities,
            self.settings.node.trust_domain,
            WorkloadManagerMetrics(self.registry),
            nursery,
        )
        readiness = Readiness(self.state, pods)
        await self._serve_admin(nursery, pods, readiness)
        nursery.start_soon(run_zds_client, self.settings.zds_socket, pods)
        nursery.start_soon(pods.retry_pending)
        nursery.start_soon(self._tick, pods, proxies.deliverer)
        if self.fast_path is not None:
            nursery.start_soon(self.fast_path.run)
        gc.collect()
        gc.freeze()
        await self.stopping.wait()
        readiness.draining = True
        if self.fast_path is not None:
            self.fast_path.stop()
        await self._drain(pods)

    async def _stop_on_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                _log.info("stopping", signal=signal.Signals(number).name)
                self.stopping.set()

    def _proxies(self, maps: _KernelMaps) -> Proxies:
        engine, state, descriptions, table = self.engine, self.state, self.descriptions, self.table
        baggage = BaggageCache()
        deliverer = Deliverer(maps.deliveries)
        return Proxies(
            engine=engine,
            contexts=TlsContexts(self.identities, ContextCache()),
            listener_table=maps.listeners,
            connections=table,
            deliverer=deliverer,
            outbound=OutboundProxy(
                engine, state, descriptions, maps.originals, table, self.dials, baggage, self.fast_path
            ),
            inbound=InboundProxy(
                engine, state, descriptions, table, deliverer, self.dials, baggage, self.fast_path
            ),
            plaintext=PlaintextProxy(engine, state, descriptions, table, deliverer, self.dials),
            fast_path=self.fast_path,
        )

    def _make_fast_path(self, maps: _KernelMaps) -> FastPath | None:
        settings = self.settings.fast_path
        if not settings.enabled:
            maps.fast_path.stop(splice=False)
            return None
        abilities = maps.abilities
        splice = settings.splice and abilities.splice
        _log.info("same-node fast path is on", splice=splice)
        return FastPath(
            maps.fast_path,
            self.state,
            self.metrics,
            self.access_log,
            splice=splice,
        )

    def _count_all(self) -> None:
        self.table.count_all()
        if self.fast_path is not None:
            self.fast_path.count_live()

    async def _serve_admin(self, nursery: trio.Nursery, pods: PodManager, readiness: Readiness) -> None:
        def everything() -> object:
            return dump(self.state, self.identities, self.table, pods)

        async def serve(host: str, port: int, routes: Routes) -> None:
            listeners = await open_http_listeners(host, port)
            await nursery.start(serve_http, routes, listeners)

        admin = self.settings.admin
        await serve("127.0.0.1", admin.admin_port, admin_routes(everything, self.access_log, self.stopping.set))
        await serve("::", admin.metrics_port, metrics_routes(metrics_page(self.registry), self._count_all))
        await serve("::", admin.readiness_port, readiness_routes(readiness.answer))

    async def _tick(self, pods: PodManager, deliverer: Deliverer) -> None:
        while True:
            await trio.sleep(1)
            now = self.engine.now = time.monotonic()
            try:
                pods.tick(now)
                self.dials.tick(now)
                deliverer.tick()
            except Exception:  # a bug in the upkeep of one tunnel must not stop the node's traffic
                _log.exception("upkeep failed")

    async def _drain(self, pods: PodManager) -> None:
        """Take nothing new, let what is established end, and end the rest when the time is up."""
        pods.drain()
        empty = trio.Event()
        self.table.when_empty(empty.set)
        if len(self.table):
            _log.info("draining", connections=len(self.table), seconds=self.settings.drain_seconds)
            with trio.move_on_after(self.settings.drain_seconds):
                await empty.wait()
        self.table.cut_all(Draining("ztunnel has shut down"))
        pods.close()


@dataclass(frozen=True, slots=True)
class _KernelMaps:
    """What the agent's programs share with this process."""

    originals: OriginalDestinations
    deliveries: Deliveries
    listeners: ListenerTable
    pods: PodTable
    fast_path: FastPathMaps
    abilities: Abilities


async def _open_maps(paths: PinPaths, stopping: trio.Event) -> _KernelMaps | None:
    """Open the pinned maps, waiting for the agent to load its programs; None when we are to stop before that."""
    told = False
    while not stopping.is_set():
        with ExitStack() as opened:
            try:
                maps = _KernelMaps(
                    opened.enter_context(OriginalDestinations(paths)),
                    opened.enter_context(Deliveries(paths)),
                    opened.enter_context(ListenerTable(paths)),
                    opened.enter_context(PodTable(paths)),
                    opened.enter_context(FastPathMaps(paths)),
                    read_abilities(paths),
                )
            except EnvironmentLacks as error:
                if not told:
                    _log.warning("waiting for the node agent to load its eBPF programs", error=str(error))
                    told = True
            else:
                opened.pop_all()
                return maps
        with trio.move_on_after(_MAPS_RETRY_SECONDS):
            await stopping.wait()
    return None

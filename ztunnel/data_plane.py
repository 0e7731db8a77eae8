"""What moves a node's bytes, in one process: the only ztunnel there is, or one of its workers.

It has all that a connection needs: the state of the mesh, certificates, listeners in the pods, the relay. Where these
come from is its owner's business (``app``, ``worker.app``).
"""

from __future__ import annotations

import random
import time

import structlog
import trio
from prometheus_client import CollectorRegistry

from mesh.certificates.ca_client import CaClient
from mesh.certificates.manager import IdentityManager
from mesh.certificates.tls_contexts import TlsContexts
from mesh.clock import SystemClock
from mesh.errors import Draining
from mesh.process import Rest
from mesh.relay.engine import Engine
from mesh.state.store import MeshState
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import L4Metrics, WorkloadManagerMetrics
from mesh.telemetry.output import standard_output
from mesh.tls.kernel_driver import find_kernel_tls
from ztunnel.config import ZtunnelSettings
from ztunnel.fastpath.contract import FastPathMemory
from ztunnel.inpod.manager import PodManager
from ztunnel.inpod.server import Proxies
from ztunnel.kernel_maps import KernelMaps
from ztunnel.proxy.baggage import BaggageCache
from ztunnel.proxy.connections import ConnectionTable
from ztunnel.proxy.delivery import Deliverer
from ztunnel.proxy.descriptions import Descriptions
from ztunnel.proxy.dials import Dials
from ztunnel.proxy.inbound import InboundProxy
from ztunnel.proxy.outbound import OutboundProxy
from ztunnel.proxy.plaintext import PlaintextProxy

_log = structlog.get_logger("ztunnel")


class DataPlane:
    """All parts that connections meet, wired.

    Args:
        settings: the process's.
        registry: where it counts.
        client: makes credentials.
        workers: data planes of this node, each in a process.
    """

    def __init__(
        self, settings: ZtunnelSettings, registry: CollectorRegistry, client: CaClient, workers: int = 1
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._registry = registry
        self.engine = Engine()
        self.access_log = AccessLog(settings.log.format, settings.log.access_level, standard_output())
        self.metrics = L4Metrics(registry)
        self.table = ConnectionTable(self.metrics, self.access_log)
        self.state = MeshState(settings.node.name)
        self.descriptions = Descriptions(self.state, self.table)
        self.dials = Dials(self.engine)
        self.identities = IdentityManager(client, SystemClock(), random.random)
        self.kernel_tls = find_kernel_tls(settings.kernel_tls)

    def start(self, nursery: trio.Nursery) -> None:
        """Start what needs no kernel maps."""
        nursery.start_soon(self.engine.run)
        nursery.start_soon(self.identities.run)
        nursery.start_soon(self.descriptions.run)

    def serve(self, nursery: trio.Nursery, maps: KernelMaps, fast_path: FastPathMemory | None) -> PodManager:
        """Serve pods, as the result is told to."""
        proxies = self._proxies(maps, fast_path)
        pods = PodManager(
            proxies,
            maps.pods,
            self.descriptions,
            self.identities,
            self._settings.node.trust_domain,
            WorkloadManagerMetrics(self._registry),
            nursery,
        )
        nursery.start_soon(pods.retry_pending)
        nursery.start_soon(self._tick, pods, proxies.deliverer)
        return pods

    def _proxies(self, maps: KernelMaps, fast_path: FastPathMemory | None) -> Proxies:
        engine, state, descriptions, table = self.engine, self.state, self.descriptions, self.table
        baggage = BaggageCache()
        deliverer = Deliverer(maps.deliveries)
        return Proxies(
            engine=engine,
            contexts=TlsContexts.of(self.identities, self.kernel_tls),
            listener_table=maps.listeners,
            connections=table,
            deliverer=deliverer,
            outbound=OutboundProxy(
                engine, state, descriptions, maps.originals, table, self.dials, baggage, fast_path
            ),
            inbound=InboundProxy(engine, state, descriptions, table, deliverer, self.dials, baggage, fast_path),
            plaintext=PlaintextProxy(engine, state, descriptions, table, deliverer, self.dials),
            fast_path=fast_path,
            workers=self._workers,
        )

    async def _tick(self, pods: PodManager, deliverer: Deliverer) -> None:
        rest = Rest(time.monotonic())
        begun = 0
        while True:
            await trio.sleep(1)
            now = self.engine.now = time.monotonic()
            try:
                pods.tick(now)
                self.dials.tick(now)
                deliverer.tick()
                rest.tick(now, busy=len(self.table) > 0 or self.table.begun != begun)
                begun = self.table.begun
            except Exception:  # a bug in the upkeep of one tunnel must not stop the node's traffic
                _log.exception("upkeep failed")

    async def drain(self, pods: PodManager) -> None:
        """Take nothing new, let what is established end, and end the rest when the time is up."""
        pods.drain()
        empty = trio.Event()
        self.table.when_empty(empty.set)
        if len(self.table):
            _log.info("draining", connections=len(self.table), seconds=self._settings.drain_seconds)
            with trio.move_on_after(self._settings.drain_seconds):
                await empty.wait()
        self.table.cut_all(Draining("ztunnel has shut down"))
        pods.close()

    def close(self) -> None:
        """Close the relay; nothing of it runs any more."""
        self.engine.close()

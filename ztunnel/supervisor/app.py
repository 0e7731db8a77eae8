"""The composition root of the supervisor: what exists once per node, around several workers."""

from __future__ import annotations

import os
from typing import Final

import structlog
import trio

from ebpf.paths import PinPaths
from mesh.addresses import IpBytes, OriginalDestination, SocketAddress
from mesh.admin import admin_routes, metrics_routes, readiness_routes, serve_admin, stop_on_signal
from mesh.control_plane import follow_control_plane
from mesh.errors import InternalError, MeshError
from mesh.identity import SpiffeId
from mesh.process import raise_descriptor_limit, release
from mesh.rbac import ConnectionFacts
from mesh.state.store import MeshState
from mesh.telemetry import log
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import L4Metrics, WorkloadManagerMetrics, XdsMetrics, metrics_page, new_registry
from mesh.telemetry.output import standard_output
from mesh.zds.client_driver import run_zds_client
from ztunnel.admin.dump import dump_state
from ztunnel.admin.routes import HELP, set_levels
from ztunnel.app import NODE_SUBSCRIPTIONS, certificates
from ztunnel.config import ZtunnelSettings
from ztunnel.fanout.messages_codec import Admitted, Certified, Certify, ServiceDialled, SetLevels, ToSupervisor
from ztunnel.fastpath.making import make_fast_path
from ztunnel.fastpath.manager import FastPath
from ztunnel.kernel_maps import KernelMaps, open_maps
from ztunnel.proxy.connections import ConnectionTable
from ztunnel.proxy.descriptions import Descriptions
from ztunnel.supervisor.crew import Crew
from ztunnel.supervisor.pods import NodePods
from ztunnel.supervisor.process_metrics import ProcessesCollector
from ztunnel.supervisor.process_names import SPAWNER, SUPERVISOR, worker_name
from ztunnel.supervisor.reports import merge_dumps, merge_readiness
from ztunnel.supervisor.shared_state import SharedState
from ztunnel.supervisor.spawner import SpawnerHandle
from ztunnel.supervisor.spawner_driver import Spawner
from ztunnel.supervisor.worker_link import WorkerLink

_CERTIFICATES_AT_ONCE: Final = 8
_REPORT_SECONDS: Final = 2.0
_GRACE_SECONDS: Final = 3.0
"""For a worker to end, after what its connections were given."""

_log = structlog.get_logger("ztunnel")


async def run_supervisor(settings: ZtunnelSettings, handle: SpawnerHandle, workers: int) -> None:
    """Be the ztunnel of one node, with so many workers, until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an address in the settings cannot be used.
        EnvironmentLacks: a port of ours is taken.
        ConnectionLost: the spawner has died, and all workers with it.
    """
    log.configure(settings.log.format, settings.log.level)
    descriptors = raise_descriptor_limit()
    _log.info(
        "starting", node=settings.node.name, version=release(), descriptors=descriptors, workers=workers
    )
    await _Supervisor(settings, handle, workers).run()


class _Supervisor:
    """All parts, wired; and what workers ask for (``ztunnel.supervisor.crew.Orders``)."""

    def __init__(self, settings: ZtunnelSettings, handle: SpawnerHandle, workers: int) -> None:
        self._settings = settings
        self._workers = workers
        self._registry = new_registry("ztunnel", release())
        self._output = standard_output()
        self._access_log = AccessLog(settings.log.format, settings.log.access_level, self._output)
        self._metrics = L4Metrics(self._registry)
        self._state = MeshState(settings.node.name)
        # Pods are described for the fast path; connections that would be judged are with the workers.
        self._descriptions = Descriptions(self._state, ConnectionTable(self._metrics, self._access_log))
        self._crew = Crew(workers, self._metrics, self._registry)
        self._shared = SharedState(self._state, self._crew.broadcast)
        self._spawner = Spawner(handle, self._crew.ended)
        self._ca = certificates(settings)
        self._certifying = trio.CapacityLimiter(_CERTIFICATES_AT_ONCE)
        self._fast_path: FastPath | None = None
        self._levels: SetLevels | None = None
        self._stopping = trio.Event()
        self._registry.register(ProcessesCollector(self._processes))

    async def run(self) -> None:
        """Start everything, have it served, drain, stop."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._output.run)
                nursery.start_soon(self._descriptions.run)
                nursery.start_soon(stop_on_signal, self._stopping)
                nursery.start_soon(self._spawner.run)
                nursery.start_soon(
                    follow_control_plane,
                    self._settings.control_plane,
                    self._settings.node.info(),
                    NODE_SUBSCRIPTIONS,
                    self._shared,
                    XdsMetrics(self._registry),
                )
                maps = await open_maps(PinPaths(self._settings.bpf.bpffs, self._settings.node.name), self._stopping)
                if maps is not None:
                    await self._serve(nursery, maps)
                nursery.cancel_scope.cancel()
        finally:
            self._spawner.close()
            self._output.close()
        _log.info("stopped")

    async def _serve(self, nursery: trio.Nursery, maps: KernelMaps) -> None:
        settings = self._settings
        maps.listeners.share_among(self._workers)
        self._fast_path = make_fast_path(
            settings.fast_path, maps, self._state, self._metrics, self._access_log
        )
        self._nursery = nursery
        self._pods = NodePods(
            self._crew,
            maps.pods,
            self._descriptions,
            self._fast_path,
            settings.node.trust_domain,
            WorkloadManagerMetrics(self._registry),
            nursery,
        )
        nursery.start_soon(self._crew.run, self._spawner, self)
        await serve_admin(
            nursery,
            settings.admin,
            admin_routes(HELP, self._everything, self._set_levels, self._stopping.set),
            metrics_routes(metrics_page(self._registry), self._count_all),
            readiness_routes(self._missing),
        )
        nursery.start_soon(run_zds_client, settings.zds_socket, self._pods)
        if self._fast_path is not None:
            nursery.start_soon(self._fast_path.run)
        await self._stopping.wait()
        self._pods.draining = True
        if self._fast_path is not None:
            self._fast_path.stop()
        await self._crew.drain(settings.drain_seconds + _GRACE_SECONDS)

    # -- what workers ask for ------------------------------------------------------------------------------------------

    async def joined(self, link: WorkerLink) -> None:
        """See ``Orders``. No await before all is sent: what changes from here on follows it in order."""
        self._shared.replay(link.send)
        if self._levels is not None:
            link.send(self._levels)
        replayed = self._pods.replay(link)
        await self._pods.settle(link, replayed)
        await link.report("readiness")

    def received(self, link: WorkerLink, message: ToSupervisor) -> None:
        """See ``Orders``."""
        match message:
            case Certify():
                self._nursery.start_soon(self._certify, link, message)
            case Admitted():
                self._admitted(message)
            case ServiceDialled():
                self._service_dialled(message)

    async def _certify(self, link: WorkerLink, wanted: Certify) -> None:
        chain: list[str] = []
        error = ""
        if not self._pods.has_identity(wanted.identity):
            error = f"no pod of this node has the identity {wanted.identity[:256]}"
        else:
            try:
                async with self._certifying:
                    chain = list(await self._ca.certify(SpiffeId.parse(wanted.identity), wanted.request))
            except MeshError as failure:
                error = str(failure)
            except Exception as failure:  # a bug met with one identity must not end everything
                _log.exception("certificate request failed unexpectedly", identity=wanted.identity)
                error = str(InternalError(f"the request for {wanted.identity} failed: {failure!r}"))
        link.send(Certified(number=wanted.number, chain=chain, error=error))

    def _admitted(self, message: Admitted) -> None:
        """The fast path judges once more, by the state of now; what was judged by an older one is not even looked at,
        since the worker will cut that connection in a moment if it must.
        """
        pod = self._pods.by_cookie(message.pod_cookie)
        if self._fast_path is None or pod is None or message.version != self._shared.version:
            return
        identity = SpiffeId.parse(message.identity)
        facts = ConnectionFacts(
            IpBytes(message.source), identity, IpBytes(message.destination), message.port
        )
        self._fast_path.admitted(pod, facts)

    def _service_dialled(self, message: ServiceDialled) -> None:
        pod = self._pods.by_cookie(message.pod_cookie)
        if self._fast_path is not None and pod is not None and message.version == self._shared.version:
            dialled = OriginalDestination(SocketAddress(IpBytes(message.address), message.port))
            self._fast_path.remember_service(pod, dialled)

    # -- admin ---------------------------------------------------------------------------------------------------------

    async def _everything(self) -> object:
        reports = await self._crew.reports("dump", _REPORT_SECONDS)
        return {**dump_state(self._state), **merge_dumps(reports)}

    def _set_levels(self, level: str | None, access: str | None) -> dict[str, str]:
        in_force = set_levels(self._access_log, level, access)
        if level is not None or access is not None:
            former = self._levels or SetLevels(level=None, access=None)
            self._levels = SetLevels(level=level or former.level, access=access or former.access)
            self._crew.broadcast(self._levels)
        return in_force

    async def _count_all(self) -> None:
        await self._crew.reports("counts", _REPORT_SECONDS)
        if self._fast_path is not None:
            self._fast_path.count_live()

    async def _missing(self) -> list[str]:
        reasons = []
        if self._stopping.is_set():
            reasons.append("draining")
        if not self._state.synchronized:
            reasons.append("the control plane has not sent workloads and policies yet")
        if not self._pods.snapshot_received:
            reasons.append("the node agent has not named its pods yet")
        reasons += self._crew.absent()
        reports = await self._crew.reports("readiness", _REPORT_SECONDS)
        reasons += merge_readiness(reports)
        reasons += [f"worker {link.number} does not answer" for link in self._crew.links if link.number not in reports]
        return reasons

    def _processes(self) -> dict[str, int]:
        found = {SUPERVISOR: os.getpid(), SPAWNER: self._spawner.pid}
        for link in self._crew.links:
            if link.pid:
                found[worker_name(link.number)] = link.pid
        return found

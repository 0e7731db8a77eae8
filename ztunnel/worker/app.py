"""The composition root of a worker."""

from __future__ import annotations

import gc
import os
from typing import Final, Never

import msgspec
import structlog
import trio
from prometheus_client import CollectorRegistry

from ebpf.paths import PinPaths
from mesh import ports
from mesh.clock import SystemClock
from mesh.errors import ConfigurationError, ConnectionLost, MeshError
from mesh.netns import NetworkNamespace
from mesh.process import collect_rarely, raise_descriptor_limit, release
from mesh.telemetry import log
from mesh.telemetry.output import standard_output
from mesh.xds.discovery_codec import Resource
from mesh.zds.codec import WorkloadInfo
from ztunnel.admin.dump import dump_traffic
from ztunnel.admin.readiness import Readiness
from ztunnel.admin.routes import set_levels
from ztunnel.config import ZtunnelSettings
from ztunnel.cores import number_of_workers
from ztunnel.data_plane import DataPlane
from ztunnel.fanout.channel_driver import Channel
from ztunnel.fanout.messages_codec import (
    AddPod,
    Answer,
    AvoidPorts,
    Certified,
    DeletePod,
    Drain,
    Report,
    SetLevels,
    StateUpdate,
    ToSupervisor,
    decode_to_worker,
    encode,
)
from ztunnel.inpod.manager import PodManager
from ztunnel.kernel_maps import KernelMaps, open_maps
from ztunnel.supervisor.spawner import WorkerStart
from ztunnel.worker.certificates import RelayedCaClient
from ztunnel.worker.counting import Counting
from ztunnel.worker.fast_path import FastPathReports
from ztunnel.worker.preference import Preference

COUNT_SECONDS: Final = 1.0
_FORGET_SECONDS: Final = 5.0
"""After which the fast path is told again what it seems not to remember."""
_PARTING_SECONDS: Final = 2.0

_log = structlog.get_logger("worker")


async def run_worker(settings: ZtunnelSettings, start: WorkerStart) -> None:
    """Be a worker until the supervisor says to drain, or is gone.

    Raises:
        ConnectionLost: the supervisor is gone.
        InvalidMessage: it said what cannot be understood.
    """
    log.configure(settings.log.format, settings.log.level, worker=start.number)
    collect_rarely()
    raise_descriptor_limit()
    gc.freeze()
    with Channel(start.channel) as channel:
        await _Worker(settings, start.number, channel).run()


class _Worker:
    """All parts, wired."""

    def __init__(self, settings: ZtunnelSettings, number: int, channel: Channel) -> None:
        self._settings = settings
        self._number = number
        self._channel = channel
        self._client = RelayedCaClient(self._send, SystemClock())
        workers = number_of_workers(settings.workers)
        self._plane = DataPlane(settings, CollectorRegistry(), self._client, workers)
        self._counting = Counting(self._plane.metrics)
        self._fast_path = (
            FastPathReports(settings.node.name, self._send) if settings.fast_path.enabled else None
        )
        self._stopping = trio.Event()

    def _send(self, message: ToSupervisor) -> None:
        self._channel.send(encode(message))

    async def run(self) -> None:
        """Serve until told to drain."""
        output = standard_output()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.run)
            nursery.start_soon(self._channel.run)
            self._plane.start(nursery)
            paths = PinPaths(self._settings.bpf.bpffs, self._settings.node.name)
            maps = await open_maps(paths, self._stopping, self._number)
            assert maps is not None, "nobody can have told us to stop yet"
            await self._serve(nursery, maps)
            nursery.cancel_scope.cancel()
        self._plane.close()
        output.close()

    async def _serve(self, nursery: trio.Nursery, maps: KernelMaps) -> None:
        pods = self._plane.serve(nursery, maps, self._fast_path)
        pods.snapshot_received = True  # by the supervisor, which is asked for it
        self._plane.table.when_dialled_over(Preference(self._plane.table, maps.listeners.prefer).ended)
        _log.info("serving", pid=os.getpid(), version=release())
        nursery.start_soon(self._obey, pods, Readiness(self._plane.state, pods))
        nursery.start_soon(self._count, pods)
        if self._fast_path is not None:
            nursery.start_soon(_forget, self._fast_path)
        await self._stopping.wait()
        await self._plane.drain(pods)
        self._plane.table.count_all()
        self._send(self._counting.gained(0))
        with trio.move_on_after(_PARTING_SECONDS):
            await self._channel.sent()

    async def _count(self, pods: PodManager) -> Never:
        while True:
            self._send(self._counting.gained(len(pods.pending)))
            await trio.sleep(COUNT_SECONDS)

    # -- the supervisor's words ----------------------------------------------------------------------------------------

    async def _obey(self, pods: PodManager, readiness: Readiness) -> None:
        while True:
            data, descriptor = await self._channel.receive()
            message = decode_to_worker(data)
            namespace = None if descriptor is None else NetworkNamespace.from_fd(descriptor)
            match message:
                case AddPod():
                    await self._add(pods, message, namespace)
                    continue
                case StateUpdate():
                    self._apply(message)
                case DeletePod():
                    await pods.delete(message.uid)
                    self._send(Answer(number=message.number))
                case AvoidPorts():
                    for server in pods.serving:
                        if server.pod.uid == message.uid:
                            server.pod.mesh_ports |= set(message.ports)
                case Certified():
                    self._client.answered(message)
                case Report():
                    self._send(Answer(number=message.number, content=self._report(message.what, pods, readiness)))
                case SetLevels():
                    self._set_levels(message)
                case Drain():
                    self._stopping.set()
            if namespace is not None:
                namespace.close()

    def _apply(self, update: StateUpdate) -> None:
        state = self._plane.state
        resources = [Resource(name, "", (), payload) for name, payload in update.updated]
        if self._fast_path is not None:
            self._fast_path.version = update.version
            self._fast_path.forget()
        for rejected in state.apply(update.type_url, resources, update.removed):
            _log.error("resource refused that the supervisor took", resource=rejected.name, reason=rejected.reason)
        if update.whole:
            state.applied(update.type_url)

    async def _add(self, pods: PodManager, order: AddPod, namespace: NetworkNamespace | None) -> None:
        """Serve a pod; the answer holds ports of its that are ours beyond the usual."""
        answer = Answer(number=order.number)
        try:
            if namespace is None:
                raise ConnectionLost("the pod's network namespace was lost on the way: out of descriptors?")
            info = WorkloadInfo(order.name, order.namespace, order.service_account)
            await pods.add(order.uid, info, namespace)
        except MeshError as error:
            if namespace is not None:
                namespace.close()
            answer = Answer(number=order.number, error=str(error))
        else:
            ours = [port for server in pods.serving if server.pod.uid == order.uid for port in server.pod.mesh_ports]
            answer = Answer(number=order.number, content=msgspec.msgpack.encode(sorted({*ours} - ports.IN_POD)))
        self._send(answer)

    def _report(self, what: str, pods: PodManager, readiness: Readiness) -> bytes:
        plane = self._plane
        if what == "counts":
            plane.table.count_all()
            self._send(self._counting.gained(len(pods.pending)))
            return b""
        if what == "readiness":
            return msgspec.msgpack.encode(readiness.missing())
        return msgspec.msgpack.encode(dump_traffic(plane.identities, plane.table, pods, plane.kernel_tls))

    def _set_levels(self, message: SetLevels) -> None:
        try:
            set_levels(self._plane.access_log, message.level, message.access)
        except ConfigurationError as error:
            _log.error("log level refused that the supervisor took", error=str(error))


async def _forget(fast_path: FastPathReports) -> Never:
    while True:
        await trio.sleep(_FORGET_SECONDS)
        fast_path.forget()

"""The agent's composition root: the only place where its parts are put together.

The order of the start matters. First the programs are loaded (or found loaded), so that what was captured stays so.
Then the source's first view is awaited and all pods the kernel holds are entered as kept, before ztunnel can connect:
a snapshot that lacked them would make it drop their connections. Only then the sockets open.

SIGTERM ends the process and nothing else: capture stays, the plugin stays, pods' traffic goes on through ztunnel and
new pods wait for the next agent. ``uninstall`` is the other end: it takes everything out.
"""

from __future__ import annotations

import shutil
import signal
import socket
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from cni.agent.api_pods import ApiPods
from cni.agent.attachments import Attachments
from cni.agent.caller_roles import CallerRoles
from cni.agent.captures import Captures
from cni.agent.cgroup_finder import CgroupFinder
from cni.agent.configuration import AgentSettings
from cni.agent.enroller import Enroller
from cni.agent.folder_pods import FolderPods
from cni.agent.metrics import AgentMetrics
from cni.agent.namespace_finder import NamespaceFinder
from cni.agent.pod_source import PodSource
from cni.agent.program_metrics import ProgramMetrics, watch_maps
from cni.agent.reconciler import Reconciler
from cni.agent.sandboxes import SandboxRegister
from cni.enrolment import REDIRECTION_ANNOTATION
from cni.installer.driver import Look, keep_installed, uninstall_once
from cni.plugin_server import serve_plugin
from ebpf.counters import Counters, map_usage
from ebpf.pods import PodTable
from ebpf.programs_driver import detach_all, load_programs
from mesh.errors import ConfigurationError, MeshError
from mesh.telemetry.http_endpoint import HttpRequest, HttpResponse, open_http_listeners, serve_http, text_response
from mesh.telemetry.metrics import metrics_page
from mesh.zds import packet_driver
from mesh.zds.server_driver import ZdsServer
from resources.kube.credentials_driver import ApiSettings

_log = structlog.get_logger("agent")

_SANDBOXES = "sandboxes"
_MOUNTS = Path("/proc/self/mountinfo")


async def run(settings: AgentSettings) -> None:
    """Be the agent until SIGTERM or SIGINT.

    Raises:
        MeshError: the agent cannot start; what it found captured is still so.
    """
    mounts = await trio.to_thread.run_sync(partial(_MOUNTS.read_text, encoding="utf-8", errors="surrogateescape"))
    settings = settings.on_node(mounts)
    _log.info("cgroup v2 found", cgroup=str(settings.bpf.cgroup))
    await trio.to_thread.run_sync(load_programs, settings.node_settings())
    with PodTable(settings.pin_paths) as table, Counters(settings.pin_paths) as counters:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signal, nursery.cancel_scope)
            await _Agent(settings, table, counters).start(nursery)


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            _log.info("stopping; captured pods stay captured", signal=signal.Signals(number).name)
            scope.cancel()
            return


class _Agent:
    """All parts of one agent."""

    def __init__(self, settings: AgentSettings, table: PodTable, counters: Counters) -> None:
        self._settings = settings
        self._table = table
        self._metrics = AgentMetrics()
        self._programs = ProgramMetrics(counters)
        self._metrics.registry.register(self._programs)
        self._source = pods_of(settings)
        self._sandboxes = SandboxRegister(settings.state_directory / _SANDBOXES)
        self._namespaces = NamespaceFinder(settings.pod_cgroup_patterns(), settings.proc)
        self._roles = CallerRoles(
            settings.node_settings(),
            CgroupFinder(settings.bpf.cgroup, settings.proc),
            self._is_mesh_pod,
            settings.bpf.kubelet_names,
        )
        self._zds = ZdsServer(
            settings.zds_limits(),
            admit=self._roles.admit,
            on_connected=self._ztunnels_changed,
            on_refused=self._ztunnel_refused,
        )
        self._enroller = Enroller(Captures(table), self._zds, self._source, self._namespaces, self._sandboxes)
        self._reconciler = Reconciler(
            self._source,
            settings.rules(),
            self._enroller,
            self._sandboxes,
            begun=self._metrics.reconciled,
            ended=self._metrics.repaired,
        )
        self._attachments = Attachments(
            self._source,
            settings.rules(),
            self._enroller,
            self._namespaces,
            self._sandboxes,
            settings.cni.pod_wait_seconds,
        )
        self._plugin = Look(None)
        self._serving = False

    async def start(self, nursery: trio.Nursery) -> None:
        """Start all tasks in their order, and leave them to the nursery."""
        settings = self._settings
        await trio.to_thread.run_sync(self._roles.recall)
        await nursery.start(self._source.run)
        for uid, pod in self._table.enrolled().items():
            if pod.alive:
                self._zds.keep(uid)
        http = await open_http_listeners(settings.http.host, settings.http.port)
        routes = {
            ("GET", "/metrics"): metrics_page(self._metrics.registry),
            ("GET", "/healthz/ready"): self._readiness,
        }
        await nursery.start(serve_http, routes, http)
        await nursery.start(self._serve_zds)
        await nursery.start(self._serve_plugin)
        nursery.start_soon(self._reconciler.run)
        nursery.start_soon(self._roles.keep)
        nursery.start_soon(watch_maps, partial(map_usage, settings.pin_paths), self._programs.found)
        if settings.cni.install:
            nursery.start_soon(keep_installed, settings.installation(), self._installed)
        self._serving = True
        _log.info("agent started", node=settings.node.name, kept=len(self._zds.uids()))

    async def _serve_zds(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with packet_driver.listen(self._settings.ztunnel.socket, socket.SOCK_SEQPACKET) as listener, closing(self._zds):
            await self._zds.serve(listener, task_status)

    async def _serve_plugin(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with packet_driver.listen(self._settings.cni.socket, socket.SOCK_STREAM) as listener:
            await serve_plugin(listener, self._attachments, self._metrics.plugin_request, task_status)

    def _is_mesh_pod(self, uid: str) -> bool:
        selectors = self._settings.rules().own_pods
        pods = (pod for pod in self._source.view.pods.values() if pod.uid == uid)
        return any(selector.selects(pod) for pod in pods for selector in selectors)

    def _ztunnels_changed(self, connected: int) -> None:
        self._metrics.ztunnels(connected)
        if connected:
            # Whatever waited for a ztunnel need not wait out its backoff.
            self._reconciler.wake(impatient=True)

    def _ztunnel_refused(self, uid: str, reason: str) -> None:
        self._enroller.unacknowledged(uid)
        self._reconciler.wake()

    async def _readiness(self, request: HttpRequest) -> HttpResponse:
        if not self._serving:
            return text_response("starting", 503)
        missing = self._plugin.missing_because if self._settings.cni.install else None
        if missing is not None:
            return text_response(f"the CNI plugin is not installed: {missing}", 503)
        return text_response("ready")

    def _installed(self, look: Look) -> None:
        self._metrics.installed(look)
        self._plugin = look
        for reason in look.unusable:
            self._source.tell_node("CniConfigurationUnusable", reason)
        if look.failure is not None:
            self._source.tell_node("CniPluginNotInstalled", str(look.failure))


def pods_of(settings: AgentSettings) -> PodSource:
    """Where this node's pods come from.

    Raises:
        ConfigurationError: the settings name neither or both of the sources.
    """
    group, node = settings.source, settings.node.name
    if group.folder is not None and group.kubernetes is None:
        return FolderPods(group.folder, node)
    if group.kubernetes is not None and group.folder is None:
        chosen = ApiSettings(kubeconfig=group.kubernetes.kubeconfig, context=group.kubernetes.context)
        return ApiPods(chosen, node)
    raise ConfigurationError("$.source: name one of folder and kubernetes")


async def uninstall(settings: AgentSettings) -> None:
    """Take the mesh off this node: plugin, capture of all pods, programs and annotations.

    Raises:
        ConfigurationError: an agent is running, which would put everything back.
        MeshError: something could not be taken away; the rest was.
    """
    _refuse_running(settings)
    failures: list[MeshError] = []
    if settings.cni.install:
        try:
            await trio.to_thread.run_sync(uninstall_once, settings.installation())
        except MeshError as error:
            failures.append(error)
    try:
        with PodTable(settings.pin_paths) as table:
            for uid in table.enrolled():
                table.unenrol(uid)
    except MeshError as error:
        _log.info("no captured pods to release", reason=str(error))
    try:
        await trio.to_thread.run_sync(detach_all, settings.pin_paths)
        await _clear_annotations(pods_of(settings))
    except MeshError as error:
        failures.append(error)
    shutil.rmtree(settings.state_directory / _SANDBOXES, ignore_errors=True)
    with suppress(OSError):  # it is not there, or holds what is not ours
        settings.state_directory.rmdir()
    for place in (settings.cni.socket, settings.ztunnel.socket):
        place.unlink(missing_ok=True)
    if failures:
        raise failures[0]


async def _clear_annotations(source: PodSource) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        for pod in source.view.pods.values():
            if REDIRECTION_ANNOTATION in pod.annotations:
                await source.annotate(pod, REDIRECTION_ANNOTATION, None)
        nursery.cancel_scope.cancel()


def _refuse_running(settings: AgentSettings) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(settings.cni.socket))
        except OSError:
            return
    raise ConfigurationError(f"an agent answers at {settings.cni.socket}: stop it first, it would undo this")

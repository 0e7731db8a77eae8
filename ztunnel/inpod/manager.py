"""The agent's orders: which pods to serve.

``add`` opens a pod's listeners; only then is the order acknowledged. A pod whose listeners cannot be opened is kept as
pending and tried again, while the agent is told. An order to stop serving a pod closes its listeners at once and lets
what is established end by itself: its application may be alive and only un-enrolled.
"""

from __future__ import annotations

import os

import structlog
import trio

from ebpf.pods import PodTable
from mesh.certificates.manager import IdentityManager
from mesh.errors import EnvironmentLacks, MeshError, UnknownWorkload
from mesh.netns import NetworkNamespace
from mesh.relay.owned_tasks import OwnedTasks
from mesh.telemetry.metrics import WorkloadManagerMetrics
from mesh.tls.credentials import Credentials
from mesh.zds.codec import WorkloadInfo
from ztunnel.inpod.server import PodServer, Proxies
from ztunnel.pod import Pod
from ztunnel.proxy.descriptions import Descriptions

RETRY_SECONDS = 5.0

_log = structlog.get_logger("inpod")


class PodManager:
    """Serves pods as the agent says (``mesh.zds.client_driver.ZdsHandler``)."""

    def __init__(
        self,
        proxies: Proxies,
        pods: PodTable,
        descriptions: Descriptions,
        identities: IdentityManager,
        trust_domain: str,
        metrics: WorkloadManagerMetrics,
        nursery: trio.Nursery,
    ) -> None:
        self._proxies = proxies
        self._pods = pods
        self._descriptions = descriptions
        self._identities = identities
        self._trust_domain = trust_domain
        self._metrics = metrics
        self._nursery = nursery
        self._serving: dict[str, PodServer] = {}
        self._leaving: list[PodServer] = []
        self._pending: dict[str, tuple[WorkloadInfo, NetworkNamespace]] = {}
        self._named: set[str] = set()
        self._draining = False
        self.snapshot_received = False
        """Whether the agent has named all its pods since ztunnel started."""
        self.connected = False
        """Whether the agent is there."""
        identities.subscribe(self._renewed)

    @property
    def serving(self) -> list[PodServer]:
        """Pods being served."""
        return list(self._serving.values())

    @property
    def pending(self) -> list[str]:
        """Uids of pods that could not be served yet."""
        return list(self._pending)

    # -- mesh.zds.client_driver.ZdsHandler -----------------------------------------------------------------------------

    async def add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        """Serve a pod; one that is served already is left alone."""
        self.connected = True
        self._named.add(uid)
        server = self._serving.get(uid)
        if server is not None:
            if server.pod.cookie == namespace.cookie() and server.pod.info == info:
                namespace.close()
                return
            self._stop(uid)  # the same pod in a new namespace: its sandbox was replaced
        try:
            self._start(uid, info, namespace)
        except MeshError as error:
            kept = _duplicate(namespace)
            self._discard_pending(uid)
            self._pending[uid] = (info, kept)
            self._metrics.pending.set(len(self._pending))
            _log.error("pod cannot be served yet", pod=f"{info.namespace}/{info.name}", uid=uid, error=str(error))
            raise
        self._discard_pending(uid)

    async def keep(self, uid: str) -> None:
        """Go on serving a pod."""
        self.connected = True
        self._named.add(uid)
        if uid not in self._serving:
            raise UnknownWorkload(f"pod {uid} is not being served: send its network namespace")

    async def delete(self, uid: str) -> None:
        """Stop serving a pod."""
        self._discard_pending(uid)
        self._stop(uid)

    async def snapshot_sent(self) -> None:
        """Drop what the agent has not named."""
        for uid in [uid for uid in self._serving if uid not in self._named]:
            self._stop(uid)
        for uid in [uid for uid in self._pending if uid not in self._named]:
            self._discard_pending(uid)
        self._named.clear()
        self.snapshot_received = True
        self.connected = True
        _log.info("agent has named its pods", serving=len(self._serving), pending=len(self._pending))

    def disconnected(self) -> None:
        """Serve what we have."""
        self.connected = False
        self._named.clear()

    # -- starting and stopping -----------------------------------------------------------------------------------------

    def _start(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        if self._draining:
            raise EnvironmentLacks("this ztunnel is shutting down")
        enrolled = self._pods.enrolled().get(uid)
        if enrolled is None or enrolled.cookie != namespace.cookie():
            raise EnvironmentLacks(f"the agent has not enrolled pod {info.namespace}/{info.name} in the kernel's maps")
        tasks = OwnedTasks(self._nursery, self._proxies.engine)
        pod = Pod(uid, info, namespace, enrolled.entry.addresses, self._trust_domain, tasks)
        try:
            server = PodServer(pod, self._proxies)
        except OSError as error:
            tasks.stop()
            raise EnvironmentLacks(f"pod {pod.name} cannot be served: {error.strerror or error}") from error
        except BaseException:
            tasks.stop()
            raise
        self._serving[uid] = server
        self._descriptions.follow(pod)
        if self._proxies.fast_path is not None:
            self._proxies.fast_path.pod_started(pod)
        self._identities.prefetch(pod.identity)
        self._metrics.started.inc()
        self._metrics.active.set(len(self._serving))
        _log.info("serving pod", pod=pod.name, uid=uid, identity=str(pod.identity))

    def _stop(self, uid: str) -> None:
        server = self._serving.pop(uid, None)
        if server is None:
            return
        server.drain()
        if self._proxies.fast_path is not None:
            self._proxies.fast_path.pod_stopped(server.pod)
        self._leaving.append(server)
        self._identities.forget(server.pod.identity)
        self._metrics.stopped.inc()
        self._metrics.active.set(len(self._serving))
        _log.info("no longer serving pod", pod=server.pod.name, uid=uid)

    def _discard_pending(self, uid: str) -> None:
        waiting = self._pending.pop(uid, None)
        if waiting is not None:
            waiting[1].close()
            self._metrics.pending.set(len(self._pending))

    def _renewed(self, credentials: Credentials) -> None:
        for server in self._serving.values():
            if server.pod.identity == credentials.identity:
                server.renewed()

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once per second."""
        for server in self._serving.values():
            server.tick(now)
        for server in list(self._leaving):
            server.tick(now)
            if server.idle:
                self._leaving.remove(server)
                self._finish(server)

    def _finish(self, server: PodServer) -> None:
        self._descriptions.forget(server.pod)
        server.close()

    async def retry_pending(self) -> None:
        """Try pods again that could not be served."""
        while True:
            await trio.sleep(RETRY_SECONDS)
            for uid, (info, namespace) in list(self._pending.items()):
                try:
                    self._start(uid, info, namespace)
                except MeshError as error:
                    _log.warning("pod still cannot be served", uid=uid, error=str(error))
                else:
                    del self._pending[uid]
                    self._metrics.pending.set(len(self._pending))

    def drain(self) -> None:
        """Take no new connections anywhere."""
        self._draining = True
        for server in self._serving.values():
            server.drain()

    def close(self) -> None:
        """End everything."""
        for server in [*self._serving.values(), *self._leaving]:
            self._finish(server)
        self._serving.clear()
        self._leaving.clear()
        for uid in list(self._pending):
            self._discard_pending(uid)


def _duplicate(namespace: NetworkNamespace) -> NetworkNamespace:
    """The driver closes its descriptor after a failure; ours stays."""
    try:
        return NetworkNamespace.from_fd(os.dup(namespace.fd))
    except OSError as error:
        raise EnvironmentLacks(f"no descriptor for a pod's network namespace: {error.strerror}") from error

"""Enrols one pod and takes it out again; knows, for all pods, what is so.

Theory of operation. The order of enrolment is: the kernel captures, ztunnel acknowledges, the annotation says so.
Between the first two the pod's connections are refused: closed is the safe side. The order of leaving is the same:
the kernel stops capturing, so that new connections go past the mesh, then ztunnel is told, then the annotation goes.
Nothing here ends an established connection.

What is so is the kernel's state (``captures``). Only two facts live in this process alone: that it has verified a
captured namespace, and that ztunnel has acknowledged a pod. Both are to be made again after a restart, so they may be
lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from cni.agent.captures import Captures
from cni.agent.namespace_finder import Namespaces
from cni.agent.pod_source import PodSource
from cni.agent.sandboxes import SandboxRegister
from cni.enrolment import (
    REDIRECTION_ANNOTATION,
    REDIRECTION_ENABLED,
    REDIRECTION_PENDING,
    exclusions_of,
)
from cni.plan import Actual, same_capture
from cni.pod import PodFacts
from ebpf.pods import PodEntry
from mesh.addresses import IpBytes
from mesh.errors import MeshError
from mesh.netns import NetworkNamespace
from mesh.zds.codec import WorkloadInfo

_log = structlog.get_logger("enroller")


class Ztunnel(Protocol):
    """The ztunnels of this node: what is used of ``mesh.zds.server_driver.ZdsServer``."""

    async def add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        """Have a pod served, or raise ZtunnelAway or ZtunnelRefused."""

    async def delete(self, uid: str) -> None:
        """Have a pod served no longer."""


@dataclass(slots=True)
class _Progress:
    verified_cookie: int = -1
    acknowledged: bool = False


class Enroller:
    """Does what a plan asks for, pod by pod."""

    def __init__(
        self,
        captures: Captures,
        ztunnel: Ztunnel,
        source: PodSource,
        namespaces: Namespaces,
        sandboxes: SandboxRegister,
    ) -> None:
        self._captures = captures
        self._ztunnel = ztunnel
        self._source = source
        self._namespaces = namespaces
        self._sandboxes = sandboxes
        self._progress: dict[str, _Progress] = {}
        self._locks: dict[str, tuple[trio.Lock, int]] = {}

    @asynccontextmanager
    async def working_on(self, uid: str) -> AsyncIterator[None]:
        """Nobody else works on this pod meanwhile."""
        lock, users = self._locks.get(uid, (trio.Lock(), 0))
        self._locks[uid] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[uid]
            if users == 1:
                del self._locks[uid]
            else:
                self._locks[uid] = (lock, users - 1)

    def actual(self) -> dict[str, Actual]:
        """What is so, for all pods about which anything is."""
        captured = self._captures.enrolled
        found = {}
        for uid in captured.keys() | self._progress.keys():
            here, progress = captured.get(uid), self._progress.get(uid, _Progress())
            found[uid] = Actual(
                capture=here.entry if here else None,
                verified=here is not None and here.cookie == progress.verified_cookie,
                acknowledged=progress.acknowledged,
            )
        return found

    def refresh(self) -> None:
        """Read the kernel's state again."""
        self._captures.refresh()

    def captured_cookie(self, uid: str) -> int | None:
        """The network namespace the kernel captures for a pod."""
        captured = self._captures.enrolled.get(uid)
        return captured.cookie if captured else None

    def unacknowledged(self, uid: str) -> None:
        """A ztunnel refused this pod after all."""
        if uid in self._progress:
            self._progress[uid].acknowledged = False

    async def enrol(self, pod: PodFacts, namespace: NetworkNamespace, addresses: tuple[IpBytes, ...]) -> None:
        """Capture a pod and have ztunnel serve it; what is so already is left as it is.

        Args:
            pod: who it is.
            namespace: a candidate; it is verified. It stays the caller's.
            addresses: all of the pod's.

        Raises:
            WrongNamespace: the namespace is not the pod's; nothing was done.
            ZtunnelAway, ZtunnelRefused: the pod is captured but not served: its connections are refused.
            MeshError: the kernel did not take it.
        """
        await self._namespaces.verify(namespace, addresses, str(pod.key))
        exclusions, complaints = exclusions_of(pod.annotations)
        cookie, entry = namespace.cookie(), PodEntry(addresses, exclusions, pod.fast_path)
        existing = self._captures.enrolled.get(pod.uid)
        if existing is None or existing.cookie != cookie or not same_capture(existing.entry, entry):
            for complaint in complaints:
                _log.warning("annotation not understood", pod=str(pod.key), reason=complaint)
            self._captures.enrol(pod.uid, cookie, entry, namespace)
        progress = self._progress.setdefault(pod.uid, _Progress())
        progress.verified_cookie, progress.acknowledged = cookie, False
        info = WorkloadInfo(pod.name, pod.namespace, pod.service_account)
        await self._ztunnel.add(pod.uid, info, namespace)
        progress.acknowledged = True
        _log.info("pod enrolled", pod=str(pod.key), uid=pod.uid, account=pod.service_account)

    async def enrol_running(self, pod: PodFacts) -> None:
        """Enrol a pod that runs already: find its namespace, enrol it, annotate it.

        Raises:
            MeshError: as ``enrol``; a pod that ztunnel has not served yet is annotated ``pending``.
        """
        captured = self._captures.enrolled.get(pod.uid)
        addresses = pod.addresses or (captured.entry.addresses if captured else ())
        namespace = await self._locate(pod)
        try:
            await self.enrol(pod, namespace, addresses)
        except MeshError:
            # Never from ``enabled`` back to ``pending``: peers would send in clear what they now encrypt.
            if pod.uid in self._captures.enrolled and REDIRECTION_ANNOTATION not in pod.annotations:
                await self._annotate(pod, REDIRECTION_PENDING)
            raise
        finally:
            namespace.close()
        await self._annotate(pod, REDIRECTION_ENABLED)

    async def attach(self, pod: PodFacts, namespace: NetworkNamespace, addresses: tuple[IpBytes, ...]) -> None:
        """Enrol a pod that is being made; if that fails nothing of it is left, as its network is taken down again.

        Raises:
            MeshError: as ``enrol``.
        """
        try:
            await self.enrol(pod, namespace, addresses)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._leave(pod.uid)
            raise
        try:
            await self._annotate(pod, REDIRECTION_ENABLED)
        except MeshError as error:
            # The pod is in the mesh; the reconciler writes the annotation.
            _log.warning("pod not annotated yet", pod=str(pod.key), reason=str(error))

    async def unenrol(self, uid: str, pod: PodFacts | None, reason: str) -> None:
        """Take a pod out of the mesh.

        Args:
            uid: of the pod.
            pod: None when the source does not know it any more.
            reason: for the log.

        Raises:
            MeshError: the kernel or the source refused.
        """
        await self._leave(uid)
        _log.info("pod un-enrolled", pod=str(pod.key) if pod else "", uid=uid, reason=reason)
        if pod is not None and REDIRECTION_ANNOTATION in pod.annotations:
            await self.clear_annotation(pod)

    async def annotate_enabled(self, pod: PodFacts) -> None:
        """Say that a pod is enrolled."""
        await self._annotate(pod, REDIRECTION_ENABLED)

    async def clear_annotation(self, pod: PodFacts) -> None:
        """Say nothing about a pod that is not enrolled."""
        await self._source.annotate(pod, REDIRECTION_ANNOTATION, None)

    async def _leave(self, uid: str) -> None:
        self._captures.unenrol(uid)
        self._progress.pop(uid, None)
        await self._ztunnel.delete(uid)

    async def _annotate(self, pod: PodFacts, value: str) -> None:
        if pod.annotations.get(REDIRECTION_ANNOTATION) != value:
            await self._source.annotate(pod, REDIRECTION_ANNOTATION, value)

    async def _locate(self, pod: PodFacts) -> NetworkNamespace:
        sandbox = self._sandboxes.find(pod.uid)
        namespace = await self._namespaces.of_sandbox(sandbox) if sandbox else None
        return namespace or await self._namespaces.of_processes(pod)

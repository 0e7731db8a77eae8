"""One node's stand-in for kubelet and kube-proxy: brings the node in line with the object store, over and over."""

from __future__ import annotations

from pathlib import Path

import structlog
import trio

from ambimesh.lab.kubelet.cni_runner import CniRunner
from ambimesh.lab.kubelet.hosts import hosts_text, write_hosts
from ambimesh.lab.kubelet.pods import PodRunner
from ambimesh.lab.kubelet.service_rules import ruleset, service_rules
from ambimesh.lab.kubelet.status_writer import StatusWriter
from ambimesh.lab.layout import CNI_PROGRAMS, LabLayout, NodeLayout
from ambimesh.lab.programs import run
from mesh.errors import MeshError
from resources.folder_source import FolderSource
from resources.folder_store import FolderStore
from resources.object_set import ObjectSet
from resources.objects import EndpointSlice, ObjectKey, Pod, Service

_logger = structlog.get_logger()
SHUTDOWN_GRACE_SECONDS = 2.0
"""What containers are given to end when the whole node goes."""


class Node:
    """The pods and Service rules of one node. Runs in the node's own network namespace."""

    def __init__(self, layout: LabLayout, node: NodeLayout, cgroup: Path) -> None:
        self._layout = layout
        self._node = node
        self._cgroup = cgroup
        self._cni = CniRunner(node.cni_config, (node.cni_programs, CNI_PROGRAMS))
        self._statuses = StatusWriter(FolderStore(layout.cluster))
        self._pods: dict[ObjectKey, PodRunner] = {}
        self._objects = ObjectSet()
        self._rules: str | None = None

    async def run(self) -> None:
        """Work until cancelled; the pods are then ended and their networks removed."""
        source = FolderSource(self._layout.cluster)
        async with source.open(), trio.open_nursery() as nursery:
            nursery.start_soon(self._statuses.run)
            try:
                while True:
                    self._objects = await source.wait_change()
                    self._reconcile_pods(nursery)
                    await self._reconcile_services()
            finally:
                for runner in self._pods.values():
                    runner.grace_seconds = min(runner.grace_seconds, SHUTDOWN_GRACE_SECONDS)

    def _reconcile_pods(self, nursery: trio.Nursery) -> None:
        wanted = {
            pod.key: pod for pod in self._objects.of_kind(Pod) if pod.spec.node_name == self._node.name
        }
        for key, runner in list(self._pods.items()):
            pod = wanted.get(key)
            if pod is None or pod.metadata.uid != runner.pod.metadata.uid:
                runner.cancel_scope.cancel()
        for key, pod in wanted.items():
            old = self._pods.get(key)
            if old is not None and old.pod.metadata.uid == pod.metadata.uid:
                continue
            runner = PodRunner(
                pod,
                self._layout,
                self._node,
                self._cgroup / "pods" / f"{pod.metadata.namespace}_{pod.metadata.name}",
                self._cni,
                self._statuses.submit,
                self._write_hosts,
            )
            self._pods[key] = runner
            nursery.start_soon(self._run_pod, runner, old)

    async def _run_pod(self, runner: PodRunner, previous: PodRunner | None) -> None:
        name = str(runner.key)
        if previous is not None:
            # Two pods of one name share namespace and folder, so the old one must be gone first.
            await previous.finished.wait()
        _logger.info("pod_starting", pod=name)
        try:
            await runner.run()
        finally:
            runner.finished.set()
            if self._pods.get(runner.key) is runner:
                del self._pods[runner.key]
        _logger.info("pod_removed", pod=name)

    async def _reconcile_services(self) -> None:
        for runner in self._pods.values():
            if runner.state.addresses:
                self._write_hosts(runner)
        text = ruleset(service_rules(self._objects.of_kind(Service), self._objects.of_kind(EndpointSlice)))
        if text == self._rules:
            return
        try:
            await run(["nft", "-f", "-"], stdin=text.encode())
        except MeshError as error:
            _logger.error("service_rules_refused", error=str(error))
        else:
            self._rules = text

    def _write_hosts(self, runner: PodRunner) -> None:
        if not runner.folder.is_dir():
            return
        metadata = runner.pod.metadata
        text = hosts_text(
            metadata.namespace,
            runner.pod.spec.hostname or metadata.name,
            runner.state.addresses,
            self._objects.of_kind(Service),
            self._objects.of_kind(EndpointSlice),
        )
        write_hosts(runner.hosts, text)

"""Where the lines are played: a lab, and the ways to act in it and to look at it."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from ambimesh.demo.clients import Client
from ambimesh.demo.recording import Recording
from ambimesh.lab import capture, cgroups, manifests, pods
from ambimesh.lab.http_client import get
from ambimesh.lab.mesh_processes import ZTUNNEL_METRICS_PORT, ztunnel_name
from ambimesh.lab.processes import Processes
from ambimesh.lab.programs import Place, base_environment, launch_arguments, run_for_status
from ambimesh.lab.record import Lab
from mesh.errors import MeshError
from resources.folder_store import FolderStore
from resources.objects import Namespace, Pod, Service

NAMESPACE = "demo"
MODE_LABEL = "istio.io/dataplane-mode"
REDIRECTION = "ambient.istio.io/redirection"
POLICIES = Path(__file__).parent.parent / "manifests" / "policies"


class NotShown(MeshError):
    """A line of the demonstration does not hold; the message says what was measured instead."""


def require(holds: bool, otherwise: str) -> None:
    """Go on only when something holds.

    Raises:
        NotShown: it does not.
    """
    if not holds:
        raise NotShown(otherwise)


@dataclass(slots=True)
class Stage:
    """A lab with the shipped manifests, and what earlier lines left for later ones."""

    lab: Lab
    enrolled: bool = False
    has_waypoint: bool = False
    before: dict[str, dict[str, str]] = field(default_factory=dict)
    """Per pod, its network settings before enrolment."""

    @property
    def store(self) -> FolderStore:
        """The lab's objects."""
        return FolderStore(self.lab.layout.cluster)

    @property
    def processes(self) -> Processes:
        """The lab's processes."""
        return Processes(self.lab.layout)

    def pod(self, name: str, namespace: str = NAMESPACE) -> Pod:
        """A pod as it stands now."""
        return self.store.get(Pod, namespace, name)

    def address(self, name: str, namespace: str = NAMESPACE) -> str:
        """A pod's primary address."""
        return self.pod(name, namespace).status.addresses[0]

    def service_address(self, name: str) -> str:
        """A Service's cluster address."""
        return self.store.get(Service, NAMESPACE, name).spec.virtual_addresses[0]

    def process_ids(self, name: str, namespace: str = NAMESPACE) -> list[int]:
        """The processes of a pod's containers."""
        pod = self.pod(name, namespace)
        return sorted(cgroups.processes_in(self.lab.pod_cgroup(self.lab.node(pod.spec.node_name), namespace, name)))

    def marker(self) -> str:
        """Text that is nowhere else."""
        return f"ambimesh-{secrets.token_hex(12)}"

    async def execute(
        self, pod: str, *command: str, namespace: str = NAMESPACE, timeout: float = 15.0
    ) -> tuple[int, str]:
        """Run a command in a pod; exit status and standard output."""
        found = self.pod(pod, namespace)
        place, environment = pods.place_of(self.lab, found), pods.environment_of(found)
        status, output, _ = await run_for_status(command, place=place, environment=environment, timeout=timeout)
        return status, output.decode(errors="replace")

    async def curl(self, pod: str, url: str, *more: str, namespace: str = NAMESPACE) -> tuple[int, str]:
        """Call a URL from a pod, with at most five seconds."""
        return await self.execute(pod, "curl", "-sS", "-g", "--max-time", "5", *more, url, namespace=namespace)

    async def call(self, pod: str, url: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        """Call the HTTP echo from a pod: its report.

        Raises:
            NotShown: it could not be reached.
        """
        status, text = await self.curl(pod, url, namespace=namespace)
        require(status == 0, f"{namespace}/{pod} could not call {url}: curl ended with {status}")
        try:
            report = json.loads(text)
        except ValueError as error:
            raise NotShown(f"{url} answered {text[:80]!r}, which is not the echo's report") from error
        assert isinstance(report, dict)
        return report

    async def reaches(self, pod: str, url: str, namespace: str = NAMESPACE) -> bool:
        """Whether a call from a pod is answered with success."""
        status, _ = await self.curl(pod, url, "-f", "-o", "/dev/null", namespace=namespace)
        return status == 0

    async def probe(self, node: str, url: str) -> int:
        """Call a URL as the node's kubelet does, from its cgroup; curl's exit status."""
        found = self.lab.node(node)
        place = Place(netns=found.netns, cgroup=self.lab.node_cgroup(found) / "kubelet")
        status, _, _ = await run_for_status(
            ["curl", "-fsS", "-g", "--max-time", "5", "-o", "/dev/null", url],
            place=place,
            environment=base_environment(),
        )
        return status

    @asynccontextmanager
    async def client(self, pod: str, host: str, port: int, *options: str) -> AsyncIterator[Client]:
        """Run a ``tcp_client`` in a pod for the length of the block."""
        found = self.pod(pod)
        command = ["python3", "-m", "ambimesh.apps.tcp_client", host, str(port), *options]
        process = await trio.lowlevel.open_process(
            launch_arguments(command, pods.place_of(self.lab, found), environment=pods.environment_of(found)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        client = Client(process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.listen)
            try:
                yield client
            finally:
                if process.returncode is None:
                    process.terminate()
                with trio.CancelScope(shield=True), trio.move_on_after(5):
                    await process.wait()
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Recording]:
        """Record what passes between the nodes during the block; read the recording after it."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "link.pcap"
            recording = Recording()
            async with capture.recording(self.lab.nodes[0], file):
                yield recording
            recording.content = file.read_bytes()

    async def metrics(self, node: str) -> list[str]:
        """The lines of a ztunnel's metrics page."""
        answer = await get(self.lab.node(node).netns, ZTUNNEL_METRICS_PORT, "/metrics")
        return answer.body.decode().splitlines()

    def access_log(self, node: str) -> str:
        """What the node's ztunnel has logged."""
        return self.processes.log_file(ztunnel_name(node)).read_text(errors="replace")

    def apply(self, file: str) -> None:
        """Apply one of the shipped policies.

        Raises:
            NotShown: it was refused.
        """
        report = manifests.apply(self.store, [POLICIES / file])
        require(not report.problems, "; ".join(report.problems))

    def delete(self, file: str) -> None:
        """Delete one of the shipped policies."""
        manifests.delete(self.store, [POLICIES / file])

    async def enrol(self) -> float:
        """Label the namespace and wait until all its pods are captured; seconds that took.

        Raises:
            NotShown: it takes longer than 20 s.
        """
        started = trio.current_time()
        self.store.patch_metadata(Namespace, "", NAMESPACE, labels={MODE_LABEL: "ambient"})
        await self.until(lambda: not self.uncaptured(), 20, lambda: f"not captured: {', '.join(self.uncaptured())}")
        self.enrolled = True
        return trio.current_time() - started

    def uncaptured(self) -> list[str]:
        """Pods of the namespace that are not (yet) said to be captured."""
        return [
            pod.metadata.name
            for pod in self.store.of_kind(Pod)
            if pod.metadata.namespace == NAMESPACE and pod.metadata.annotations.get(REDIRECTION) != "enabled"
        ]

    async def until(
        self, holds: Callable[[], bool | Awaitable[bool]], seconds: float, otherwise: Callable[[], str]
    ) -> float:
        """Wait until ``holds()``, which may be awaitable, is true; seconds that took.

        Raises:
            NotShown: it is not within ``seconds``; with the text ``otherwise()``.
        """
        started = trio.current_time()
        while True:
            result = holds()
            if result if isinstance(result, bool) else await result:
                return trio.current_time() - started
            if trio.current_time() - started > seconds:
                raise NotShown(f"{otherwise()} (after {seconds:g} s)")
            await trio.sleep(0.05)

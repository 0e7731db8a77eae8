"""One pod on its node, from its network to its end: what a kubelet and a container runtime do together.

Theory of operation. A pod is a network namespace, a cgroup, a folder with its hosts file, and the processes of its
containers. It is made in that order and unmade in reverse; every step of the unmaking bears being repeated, because
the previous kubelet may have been killed in the middle. The network comes from the node's CNI plugins, executed as
they are; while they refuse (the mesh's plugin does while its agent is away), the pod waits without a network and is
retried, so it never runs unprotected.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog
import trio

from ambimesh.lab import cgroups, fabric
from ambimesh.lab.kubelet.cni_plan import Attachment
from ambimesh.lab.kubelet.cni_runner import CniRunner
from ambimesh.lab.kubelet.container_environment import command, environment
from ambimesh.lab.kubelet.containers import ContainerRunner, ContainerSetting, now
from ambimesh.lab.kubelet.pod_status import ContainerState, PodState, pod_status
from ambimesh.lab.layout import LabLayout, NodeLayout
from ambimesh.lab.programs import Place, base_environment
from mesh.errors import MeshError
from resources.objects import Pod
from resources.pod import Container, PodStatus

_logger = structlog.get_logger()
_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 8.0
_INTERFACE = "eth0"
DEFAULT_GRACE_SECONDS = 30.0


class PodRunner:
    """Runs one pod until it is cancelled, and leaves nothing of it behind."""

    def __init__(
        self,
        pod: Pod,
        layout: LabLayout,
        node: NodeLayout,
        cgroup: Path,
        cni: CniRunner,
        write_status: Callable[[Pod, PodStatus], None],
        write_hosts: Callable[[PodRunner], None],
    ) -> None:
        self.pod = pod
        self.key = pod.key
        self.folder = node.pods / f"{pod.metadata.namespace}_{pod.metadata.name}"
        self.grace_seconds = DEFAULT_GRACE_SECONDS
        if pod.spec.termination_grace_period_seconds is not None:
            self.grace_seconds = float(pod.spec.termination_grace_period_seconds)
        self.cancel_scope = trio.CancelScope()
        self.finished = trio.Event()
        self._layout = layout
        self._node = node
        self._cgroup = cgroup
        self._cni = cni
        self._write_status = write_status
        self._write_hosts = write_hosts
        self._status = PodStatus()
        self._log = _logger.bind(pod=f"{pod.metadata.namespace}/{pod.metadata.name}")
        self.state = PodState(pod, (node.ipv4, node.ipv6), now())
        self.state.init_containers = [ContainerState(one) for one in pod.spec.init_containers]
        self.state.containers = [ContainerState(one) for one in pod.spec.containers]

    @property
    def hosts(self) -> Path:
        """What the pod sees as /etc/hosts."""
        return self.folder / "hosts"

    @property
    def netns(self) -> Path:
        """The pod's network namespace; the node's own for a pod that asks for the host's network."""
        if self.pod.spec.host_network:
            return self._node.netns
        return self._layout.pod_netns(self.pod.metadata.namespace, self.pod.metadata.name)

    async def run(self) -> None:
        """Make the pod, keep its containers running, and unmake it when cancelled."""
        with self.cancel_scope:
            try:
                await self._make_network()
                await self._run_containers()
                # All have ended for good: the pod stays listed until it is deleted, without a network of its own.
                await self._unmake()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await self._unmake()
        self.finished.set()

    async def _make_network(self) -> None:
        # A kubelet that was killed left its pods running; they are made anew: their processes are not ours to await.
        await self._unmake()
        self._report()
        delay = _FIRST_RETRY_SECONDS
        while True:
            try:
                await self._try_network()
            except MeshError as error:
                self._log.warning("sandbox_failed", error=str(error), retry_seconds=delay)
                self.state.reason, self.state.message = "FailedCreatePodSandBox", str(error)
                self._report()
            else:
                self.state.reason = self.state.message = ""
                self._write_hosts(self)
                self._log.info("network_ready", addresses=",".join(self.state.addresses))
                return
            await trio.sleep(delay)
            delay = min(delay * 2, _LONGEST_RETRY_SECONDS)

    async def _try_network(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._cgroup.mkdir(parents=True, exist_ok=True)
        if self.pod.spec.host_network:
            self.state.addresses = (self._node.ipv4, self._node.ipv6)
            return
        await self._unmake_network()
        await fabric.add_namespace(self._layout, self.netns)
        found = await self._cni.add(self._attachment(), self.folder)
        self.state.addresses = tuple(address.ip for address in found)

    async def _run_containers(self) -> None:
        for state in self.state.init_containers:
            runner = self._runner(state, "OnFailure" if self.pod.spec.restart_policy != "Never" else "Never")
            await runner.run()
            if state.exit_code != 0:
                return
        self.state.initialized = True
        async with trio.open_nursery() as nursery:
            for state in self.state.containers:
                nursery.start_soon(self._runner(state, self.pod.spec.restart_policy).run)

    def _runner(self, state: ContainerState, restart_policy: str | None) -> ContainerRunner:
        name = f"{self.pod.metadata.namespace}_{self.pod.metadata.name}_{state.container.name}.log"
        setting = ContainerSetting(
            pod=f"{self.pod.metadata.namespace}/{self.pod.metadata.name}",
            place=self.place(),
            address=self.state.addresses[0],
            log=self._layout.logs / "pods" / name,
            restart_policy=restart_policy,
            grace_seconds=self.grace_seconds,
            prepare=self._prepare,
            changed=self._report,
        )
        return ContainerRunner(state, setting)

    def place(self) -> Place:
        """Where the pod's processes run."""
        hostname = self.pod.spec.hostname or self.pod.metadata.name
        return Place(netns=self.netns, cgroup=self._cgroup, hosts=self.hosts, hostname=hostname[:63])

    def _prepare(self, container: Container) -> tuple[list[str], Mapping[str, str]]:
        status = msgspec.structs.replace(self.pod.status, host_ip=self._node.ipv4)
        pod = msgspec.structs.replace(self.pod, status=status)
        variables = environment(container, pod, self.state.addresses, base_environment())
        return command(container, variables), variables

    def _report(self) -> None:
        status = pod_status(self.state, self._status, now())
        if status != self._status:
            self._status = status
            self._write_status(self.pod, status)

    async def _unmake(self) -> None:
        try:
            await cgroups.remove(self._cgroup)
            await self._unmake_network()
        except MeshError as error:
            self._log.error("pod_not_removed", error=str(error))
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _unmake_network(self) -> None:
        if self.pod.spec.host_network or not self.netns.exists():
            return
        await self._cni.delete(self._attachment(), self.folder)
        await fabric.remove_namespace(self._layout, self.netns)

    def _attachment(self) -> Attachment:
        metadata = self.pod.metadata
        return Attachment(
            container_id=f"{self._layout.name}-{metadata.uid}",
            netns=str(self.netns),
            interface=_INTERFACE,
            namespace=metadata.namespace,
            pod=metadata.name,
            uid=metadata.uid,
            plugin_folders=self._cni.plugin_folders,
        )

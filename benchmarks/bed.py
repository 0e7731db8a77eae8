"""The bed: one lab of two nodes in which all subjects have their pods, for the length of a run.

Traffic stays inside the lab's namespaces. Every load is bounded in time, and whatever happens the lab is taken down.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
import yaml

from ambimesh.lab import pods, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.cgroups import processes_in
from ambimesh.lab.http_client import get
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.mesh_processes import ZTUNNEL_METRICS_PORT, ztunnel_name
from ambimesh.lab.processes import Processes
from ambimesh.lab.programs import launch_arguments, run_for_status
from ambimesh.lab.record import Lab
from ambimesh.lab.take_down import take_down
from benchmarks import usage
from benchmarks.cases import AMBIMESH, ENVOY, Bulk, Load, Placement, RoundTrips, Subject
from benchmarks.envoy_configuration import LOOPBACK
from benchmarks.envoy_pair import EnvoyPair, Site
from benchmarks.loads import Reading, command, idle_command, read
from benchmarks.objects import CLIENT, SERVERS, objects_of
from mesh.errors import MeshError
from resources.folder_store import FolderStore
from resources.objects import Pod

_REDIRECTION = "ambient.istio.io/redirection"
_POD_SECONDS = 60.0
_READY_SECONDS = 30.0
_GRACE_SECONDS = 20.0
"""What a load may take beyond its own time, to start and to end."""
_OPENING_SECONDS = 60.0
_OPENED = "istio_tcp_connections_opened_total"


class LoadFailed(MeshError):
    """A load could not be made, or broke off; the message has the load generator's words."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs that were built or installed for the run."""

    rr: Path
    envoy: Path | None = None
    """None when Envoy is left out."""


class Bed:
    """A lab with the pods of some subjects, ready for loads."""

    def __init__(self, lab: Lab, tools: Tools, subjects: Sequence[Subject]) -> None:
        self.lab = lab
        self.subjects = tuple(subjects)
        self._tools = tools
        self._envoys: EnvoyPair | None = None
        self._meters = {
            subject.name: usage.Meter(lab.cgroup, self._proxies(subject).values()) for subject in subjects
        }

    def _proxies(self, subject: Subject) -> dict[str, Path]:
        """The cgroups of a subject's proxies, by node."""
        if not subject.proxy:
            return {}
        return {node.name: self.lab.node_cgroup(node) / subject.proxy for node in self.lab.nodes}

    def used(self, subject: Subject) -> usage.Usage:
        """CPU time so far of a subject's proxies, the lab and the machine."""
        return self._meters[subject.name].read()

    async def start_envoys(self) -> None:
        """Start the peer's proxies in their pods.

        Raises:
            EnvironmentLacks: they do not start.
        """
        assert self._tools.envoy is not None
        client, server = self._site(CLIENT), self._site(SERVERS[Placement.CROSS])
        self._envoys = EnvoyPair(self.lab, client, server)
        await self._envoys.start(self._tools.envoy, self._pod_address(ENVOY, SERVERS[Placement.CROSS]))

    def _site(self, pod: str) -> Site:
        found = self._pod(ENVOY, pod)
        netns = pods.place_of(self.lab, found).netns
        assert netns is not None
        return Site(found.spec.node_name, netns)

    def _pod(self, subject: Subject, name: str) -> Pod:
        return pods.find_pod(self.lab, subject.namespace, name)

    def _pod_address(self, subject: Subject, name: str) -> str:
        return next(address for address in self._pod(subject, name).status.addresses if ":" not in address)

    def _address(self, subject: Subject, placement: Placement) -> str:
        """What a subject's client dials: the server's pod, or where the peer listens for it."""
        return LOOPBACK if subject == ENVOY else self._pod_address(subject, SERVERS[placement])

    async def load(
        self, subject: Subject, placement: Placement, load: Load, seconds: float, slice_seconds: float = 0
    ) -> Reading:
        """Make a load from a subject's client to one of its servers.

        Raises:
            LoadFailed: the load generator ended with an error, or not in time.
            UnusableOutput: it did not print what it should.
        """
        client = self._pod(subject, CLIENT)
        argv = command(load, self._tools.rr, self._address(subject, placement), seconds, slice_seconds)
        try:
            with self._apart(subject, placement, load) as prefix:
                status, output, errors = await run_for_status(
                    [*prefix, *argv],
                    place=pods.place_of(self.lab, client),
                    environment=pods.environment_of(client),
                    timeout=seconds + _GRACE_SECONDS,
                )
        except MeshError as error:
            raise LoadFailed(str(error)) from error
        # iperf3 says what is wrong inside its report.
        if status != 0 and not isinstance(load, Bulk):
            raise LoadFailed(f"rr {argv[1]} ended with {status}: {errors.decode(errors='replace').strip()[-300:]}")
        return read(load, output)

    @contextmanager
    def _apart(self, subject: Subject, placement: Placement, load: Load) -> Iterator[list[str]]:
        """Keep both ends of a lone connection on cores of their own; yields what to put before the client's command.

        The scheduler sometimes puts both on one core, where a round trip is six times as fast: on one machine, that
        is, while the ends of a connection that matters are on two. Which way it falls would decide every ratio.
        """
        cores = sorted(os.sched_getaffinity(0))
        if not isinstance(load, RoundTrips) or load.connections > 1 or len(cores) == 1:
            yield []
            return
        server = pods.place_of(self.lab, self._pod(subject, SERVERS[placement])).cgroup
        assert server is not None
        processes = processes_in(server)
        for pid in processes:
            os.sched_setaffinity(pid, cores[-1:])
        try:
            yield ["taskset", "--cpu-list", str(cores[0])]
        finally:
            for pid in processes:
                os.sched_setaffinity(pid, cores)

    @asynccontextmanager
    async def idle(self, subject: Subject, connections: int) -> AsyncIterator[None]:
        """Hold idle connections across nodes for the length of the block.

        Raises:
            LoadFailed: they could not all be opened.
        """
        client = self._pod(subject, CLIENT)
        hold = _OPENING_SECONDS + _GRACE_SECONDS
        argv = idle_command(self._tools.rr, self._address(subject, Placement.CROSS), connections, hold)
        process = await trio.lowlevel.open_process(
            launch_arguments(argv, pods.place_of(self.lab, client), environment=pods.environment_of(client)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            said = b""
            with trio.move_on_after(_OPENING_SECONDS):
                said = bytes(await process.stdout.receive_some())
            if not said:
                words = b""
                with trio.move_on_after(1):
                    words = bytes(await process.stderr.receive_some())
                reason = words.decode(errors="replace").strip() or f"not open after {_OPENING_SECONDS:g} s"
                raise LoadFailed(f"{connections} idle connections: {reason}")
            yield
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            await process.stdout.aclose()
            await process.stderr.aclose()

    def memory(self, subject: Subject) -> dict[str, usage.Memory]:
        """The memory of a subject's proxies by node."""
        return {node: usage.memory_of(cgroup) for node, cgroup in self._proxies(subject).items()}

    async def restart_proxies(self, subject: Subject) -> None:
        """Start a subject's proxies anew, so that what earlier loads left in their memory is gone.

        Raises:
            LoadFailed: they do not carry traffic again.
        """
        if subject == ENVOY:
            assert self._envoys is not None
            await self._envoys.restart()
        else:
            processes = Processes(self.lab.layout)
            for node in self.lab.nodes:
                await processes.restart(ztunnel_name(node.name))
            for node in self.lab.nodes:
                await readiness.wait_for_process(processes, processes.spec(ztunnel_name(node.name)), _READY_SECONDS)
        await self.warm_up(subject)

    async def restart_with_workers(self, workers: int) -> None:
        """Start the ztunnels anew with another number of workers. Raises as :meth:`restart_proxies`."""
        for node in self.lab.nodes:
            file = self.lab.layout.config / f"{ztunnel_name(node.name)}.yaml"
            file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "workers": workers}, sort_keys=False))
        await self.restart_proxies(AMBIMESH)

    async def warm_up(self, subject: Subject) -> None:
        """Wait until every server answers, which also fetches certificates and opens tunnels.

        Raises:
            LoadFailed: a server does not answer within the time a pod may take.
        """
        for placement in subject.placements:
            for load in (RoundTrips(1, 100), Bulk(1)):
                await self._until_answered(subject, placement, load)

    async def _until_answered(self, subject: Subject, placement: Placement, load: Load) -> None:
        deadline = trio.current_time() + _READY_SECONDS
        while True:
            try:
                await self.load(subject, placement, load, 0.1)
                return
            except MeshError as error:
                if trio.current_time() > deadline:
                    raise LoadFailed(f"{subject.name}, {placement}: no answer: {error}") from error
                await trio.sleep(0.2)

    async def carried(self, subject: Subject) -> int:
        """How many connections a subject's proxies have carried, by their own count; 0 for who has none."""
        if subject == ENVOY:
            return await self._envoys.admitted() if self._envoys else 0
        if subject != AMBIMESH:
            return 0
        total = 0.0
        for node in self.lab.nodes:
            answer = await get(node.netns, ZTUNNEL_METRICS_PORT, "/metrics")
            total += sum_of(_OPENED, answer.body.decode())
        return int(total)


def sum_of(name: str, exposition: str) -> float:
    """The sum of a metric over all its labels, from a page in the Prometheus text format."""
    lines = (line for line in exposition.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(line.rpartition("}")[2].split()[0 if "}" in line else 1]) for line in lines)


@asynccontextmanager
async def open_bed(
    layout: LabLayout, tools: Tools, subjects: Sequence[Subject], step: Callable[[str], None]
) -> AsyncIterator[Bed]:
    """Bring the lab up with everything in it, and take it down at the end of the block, however that comes.

    Raises:
        MeshError: the lab could not be brought up, or a mesh does not carry its namespace's traffic.
    """
    lab = await bring_up(Wish(layout=layout, nodes=2), step)
    try:
        step("starting pods")
        store = FolderStore(lab.layout.cluster)
        for subject in subjects:
            for value in objects_of(subject, tools.rr):
                store.apply(value)
        unready = await readiness.wait_for_pods(lab, _POD_SECONDS)
        if unready:
            raise LoadFailed("; ".join(f"pod {pod} is not ready: {reason}" for pod, reason in unready))
        await _until_captured(store, subjects)
        bed = Bed(lab, tools, subjects)
        if ENVOY in subjects:
            step("starting Envoy")
            await bed.start_envoys()
        step("warming up")
        for subject in subjects:
            await _warmed_up(bed, subject)
        yield bed
    finally:
        with trio.CancelScope(shield=True):
            await take_down(lab, lambda _: None)


async def _warmed_up(bed: Bed, subject: Subject) -> None:
    """Warm a subject up, and see that it is its own proxies that carry its traffic, and nobody else's.

    The figures of a mesh that carries nothing would be splendid.
    """
    before = [await bed.carried(one) for one in bed.subjects]
    await bed.warm_up(subject)
    after = [await bed.carried(one) for one in bed.subjects]
    for one, earlier, later in zip(bed.subjects, before, after, strict=True):
        expected = one == subject and bool(one.proxy)
        if (later > earlier) != expected:
            does = "does not carry its own traffic" if expected else f"carries traffic of {subject.name}"
            raise LoadFailed(f"{one.name} {does}: its connection counters say so")


async def _until_captured(store: FolderStore, subjects: Sequence[Subject]) -> None:
    spaces = {subject.namespace for subject in subjects if subject.enrolled}
    deadline = trio.current_time() + _POD_SECONDS
    while True:
        missing = [
            pod.metadata.name
            for pod in store.of_kind(Pod)
            if pod.metadata.namespace in spaces and pod.metadata.annotations.get(_REDIRECTION) != "enabled"
        ]
        if not missing:
            return
        if trio.current_time() > deadline:
            raise LoadFailed(f"pods are not captured by the mesh: {', '.join(missing)}")
        await trio.sleep(0.05)

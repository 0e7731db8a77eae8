"""A cluster: a control plane, nodes joined to it, and DNS, in namespaces of their own."""

from __future__ import annotations

import json
import shutil
import string
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mesh.errors import EnvironmentLacks
from tests.e2e.kit import mesh_images, node_files
from tests.e2e.kit.control_plane import ControlPlane, KubectlFailed, Wish, running_control_plane
from tests.e2e.kit.image_store import image_store, import_images
from tests.e2e.kit.images import Image
from tests.e2e.kit.node import Node
from tests.e2e.kit.processes import Process
from tests.e2e.kit.segment import CONTROL_PLANE_ADDRESS, Segment, segment
from tests.e2e.kit.waiting import eventually

PREFIX = "ambimesh-cluster-"
"""Begins the names of a cluster's folder and cgroups."""
_DNS = Path(__file__).parent / "manifests/coredns.yaml"
_READY_SECONDS = 180.0
# A node that is away is noticed by tests within seconds, not after the default of forty.
_CONTROLLER_ARGUMENTS = (
    "--node-monitor-period=1s",
    "--node-monitor-grace-period=10s",
    "--node-startup-grace-period=30s",
)


class Cluster:
    """One that runs; made by `running_cluster`."""

    def __init__(self, plane: ControlPlane, nodes: Sequence[Node], network: Segment, folder: Path) -> None:
        self.plane = plane
        self.nodes = nodes
        self.network = network
        self.folder = folder
        self.kubectl = plane.kubectl
        """Runs kubectl as `ControlPlane.kubectl` does."""

    def command(self, *command: str | Path) -> list[str]:
        """The command that runs this command where Services, pods and the API server can be reached."""
        return self.network.command(*command)

    def start(self, name: str, *command: str | Path) -> Process:
        """Start a command there, as administrator of the cluster; whoever starts it ends it."""
        log = self.folder / f"{name}.log"
        return Process(name, self.command(*command), log, environment=self.plane.environment())

    def objects(self, *what: str) -> list[dict[str, Any]]:
        """What ``kubectl get`` finds: kinds, names, ``--namespace``, ``--selector``."""
        answer = json.loads(self.kubectl("get", *what, "--output=json"))
        found: list[dict[str, Any]] = answer.get("items", [answer])
        return found

    def wait_ready(self) -> None:
        """Wait until every node is ready and DNS answers.

        Raises:
            AssertionError: they are not, in a time that is long enough; the message holds logs.
        """
        try:
            for node in self.nodes:
                self.wait_node(node, "True")
            self.rolled_out("deployment/coredns", "--namespace=kube-system")
        except (KubectlFailed, AssertionError) as error:
            raise AssertionError(f"{error}\n{self.trouble()}") from error

    def wait_node(self, node: Node, *ready: str) -> None:
        """Wait until a node's condition ``Ready`` is one of these: ``True``, ``False``, ``Unknown``."""

        def look() -> None:
            (found,) = self.objects("node", node.name)
            conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
            assert conditions.get("Ready") in ready, f"{node.name}: Ready is {conditions.get('Ready')}"

        eventually(lambda: _asserting(look), seconds=_READY_SECONDS)

    def rolled_out(self, what: str, *options: str) -> None:
        """Wait until a Deployment, DaemonSet or StatefulSet is as it was asked to be."""
        self.kubectl("rollout", "status", what, *options, f"--timeout={_READY_SECONDS - 70:.0f}s")

    def trouble(self) -> str:
        """What one looks at when something did not become so: pods, events, the nodes' logs."""
        parts = []
        for what in (("get", "pods", "--all-namespaces", "-o", "wide"), ("get", "events", "--all-namespaces")):
            try:
                parts.append(self.kubectl(*what))
            except EnvironmentLacks as error:
                parts.append(str(error))
        return "\n".join([*parts, *(node.logs() for node in self.nodes)])


def _asserting(look: object) -> None:
    assert callable(look)
    try:
        look()
    except KubectlFailed as error:
        raise AssertionError(str(error)) from error


@contextmanager
def running_cluster(images: Sequence[Image], nodes: int = 2) -> Iterator[Cluster]:
    """A cluster for the length of the block, with DNS, and these images on every node.

    Raises:
        EnvironmentLacks: something has not been built or installed; the message tells the remedy.
        NotServing: a program did not come up.
        AssertionError: a node or DNS did not become ready.
    """
    pause = mesh_images.pause_program()
    wanted = [mesh_images.sandbox_image(), mesh_images.coredns_image(), *images]
    store = image_store(mesh_images.foundations(), pause)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        stack.callback(_remove, folder)
        network = stack.enter_context(segment(pause, folder))
        machines = [Node(number, nodes, network, pause, folder) for number in range(1, nodes + 1)]
        for machine in machines:
            stack.callback(machine.kill)
            store.copy_to(machine.containerd_folder)
            machine.boot()
            machine.start_runtime()
        with ThreadPoolExecutor() as pool:
            importing = [pool.submit(import_images, machine, wanted, store.layers) for machine in machines]
            wish = Wish(
                controllers=True,
                scheduler=True,
                address=CONTROL_PLANE_ADDRESS,
                controller_arguments=_CONTROLLER_ARGUMENTS,
                segment=network,
            )
            plane = stack.enter_context(running_control_plane(wish))
            for each in importing:
                each.result()
        for machine in machines:
            machine.start_services(plane)
        cluster = Cluster(plane, machines, network, folder)
        template = string.Template(_DNS.read_text())
        plane.kubectl(
            "apply",
            "-f",
            "-",
            manifest=template.substitute(
                domain=node_files.CLUSTER_DOMAIN, image=mesh_images.COREDNS_IMAGE, address=node_files.DNS_ADDRESS
            ),
        )
        cluster.wait_ready()
        yield cluster


def _remove(folder: Path) -> None:
    """Remove a folder, of which a process that is being killed may still hold something for a moment."""
    deadline = time.monotonic() + 10
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=time.monotonic() < deadline)

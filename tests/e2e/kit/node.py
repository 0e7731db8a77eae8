"""A machine of a cluster: namespaces of its own, in which Debian's containerd, kubelet and kube-proxy run.

Theory of operation. A node is a process that is number 1 of a process namespace, with mounts, network, cgroups, host
name and System V objects of its own. It sees the machine's file system with a few differences: ``/etc``, ``/opt`` and
``/var`` are overlays whose changes are the node's, folders that kubelet and containerd fill are the node's alone, and
what a machine has in memory (``/run``, bpf objects, network namespaces with names) begins empty. So programs and pods
find every path where they expect it, also a DaemonSet that adds a CNI plugin by hostPath, and the machine keeps none of
it. Killing process 1 is switching the machine off: the kernel kills what runs in it, and mounts, links and network
namespaces go with the last of them. The disk stays, until the node is removed, for the next boot.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mesh.errors import EnvironmentLacks
from tests.e2e.kit import build, cgroups, node_files
from tests.e2e.kit.control_plane import SERVICE_RANGE, ControlPlane
from tests.e2e.kit.processes import Process
from tests.e2e.kit.segment import Segment, node_address, nodes_routes

_PLUGINS = Path("/usr/lib/cni")
_START_SECONDS = 60.0
_COMMAND_SECONDS = 120.0
_NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup")
_RUNTIME = ("containerd", "ctr", "runc")


class Node:
    """One of a cluster's machines, switched off at first."""

    def __init__(self, number: int, count: int, segment: Segment, pause: Path, folder: Path) -> None:
        """Prepare its disk.

        Args:
            number: from 1.
            count: how many nodes the cluster has.
            segment: the network it is joined to.
            pause: the program that is its process 1.
            folder: of the cluster; the name is unique on the machine, and begins those of the node's cgroups.
        """
        self.number = number
        self.name = f"node{number}"
        self.address = node_address(number)
        self._count = count
        self._segment = segment
        self._pause = pause
        self.folder = folder / self.name
        self._group = f"{folder.name}-{self.name}"
        self._hierarchies = cgroups.find_hierarchies()
        self._machine: Process | None = None
        self._first_process = 0
        self._services: list[Process] = []
        self._commands: dict[str, Sequence[str | Path]] = {}
        disk = self.folder / "disk"
        for tree in node_files.OVERLAID:
            (disk / tree).mkdir(parents=True)
            (disk / f"{tree}.work").mkdir()
        for kept in node_files.KEPT:
            (disk / "kept" / kept).mkdir(parents=True)
        if _PLUGINS.is_dir():
            shutil.copytree(_PLUGINS, disk / "kept/opt/cni/bin", dirs_exist_ok=True)
        (disk / "kept/etc/cni/net.d/10-pods.conflist").write_text(node_files.cni_configuration(number))

    @property
    def containerd_folder(self) -> Path:
        """What is ``/var/lib/containerd`` on the node, as the machine sees it."""
        return self.folder / "disk/kept/var/lib/containerd"

    # -- on and off ----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch it on: its namespaces, its link, nothing running yet.

        Raises:
            NotServing: its first process ended or was not done in time.
            EnvironmentLacks: no privilege, or the kernel lacks something.
        """
        assert self._machine is None
        (self.folder / "ready").unlink(missing_ok=True)
        groups = list(zip(self._hierarchies, cgroups.make_folders(self._group), strict=True))
        script = self.folder / "boot"
        script.write_text(node_files.boot_script(self.name, self.folder, groups, self._pause))
        script.chmod(0o755)
        # Cgroups get their namespace in the script, which has to be in the node's folders first.
        unshare = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL", "--"]
        self._machine = Process(self.name, [*unshare, script], self.folder / "boot.log")
        self._machine.wait_until((self.folder / "ready").exists, _START_SECONDS)
        pid = self._machine.pid
        (self._first_process,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        self._segment.connect(self.name, self.number, self._first_process)
        self.execute("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.execute("ip", "link", "set", "eth0", "up")
        for destination, gateway in nodes_routes(self.number, range(1, self._count + 1)):
            self.execute("ip", "route", "replace", destination, "via", gateway)
        if self.number == 1:
            self._segment.route_services(SERVICE_RANGE, self.number)

    def start_runtime(self) -> None:
        """Start containerd.

        Raises:
            EnvironmentLacks: it is not installed.
            NotServing: it did not come up.
        """
        missing = [program for program in _RUNTIME if shutil.which(program) is None]
        if missing:
            raise EnvironmentLacks(
                f"{', '.join(missing)} not found; remedy: make setup-e2e (Debian packages containerd, runc)"
            )
        configuration = self.folder / "containerd.toml"
        configuration.write_text(node_files.containerd_configuration())
        runtime = self.start("containerd", "containerd", "--config", configuration)
        # The socket's file is seen through the root of a process that lives in the node.
        socket = Path(f"/proc/{self._first_process}/root{node_files.CONTAINERD_SOCKET}")
        runtime.wait_until(socket.exists, _START_SECONDS)

    def start_services(self, plane: ControlPlane) -> None:
        """Start kubelet and kube-proxy; the node reports to the API server by and by."""
        (self.folder / "resolv.conf").write_text(f"nameserver {node_files.DNS_ADDRESS}\n")
        kubelet = self.folder / "kubelet.yaml"
        kubelet.write_text(
            node_files.kubelet_configuration(self.number, plane.certificate_authority, self.folder / "resolv.conf")
        )
        proxy = self.folder / "kube-proxy.yaml"
        proxy.write_text(node_files.proxy_configuration(self.name, plane.kubeconfig_of("system:kube-proxy")))
        identity = plane.kubeconfig_of(f"system:node:{self.name}", ["system:nodes"])
        arguments = [f"--config={kubelet}", f"--kubeconfig={identity}", f"--node-ip={self.address}"]
        self.start("kubelet", build.program("kubelet"), *arguments)
        self.start("kube-proxy", build.program("kube-proxy"), f"--config={proxy}")

    def kill(self) -> None:
        """Switch it off without warning; the disk stays. Nothing happens if it is off.

        Raises:
            EnvironmentLacks: something of it lives on.
        """
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
        for service in self._services:
            service.kill()
        self._services.clear()
        self._segment.disconnect(self.name)
        cgroups.remove_folders(self._group)

    # -- inside --------------------------------------------------------------------------------------------------------

    def command(self, *command: str | Path) -> list[str]:
        """The command that runs this command on the node, as root."""
        return ["nsenter", f"--target={self._first_process}", *_NAMESPACES, "--", *map(str, command)]

    def execute(self, *command: str | Path) -> str:
        """Run a short command on the node and return what it printed.

        Raises:
            EnvironmentLacks: it failed; the message is what it said.
        """
        words = [str(word) for word in command]
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS
        )
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise EnvironmentLacks(f"{self.name}: {' '.join(words)}: status {done.returncode}: {said}")
        return done.stdout

    @property
    def running(self) -> Sequence[str]:
        """The services that run."""
        return [service.name for service in self._services if service.running]

    def logs(self) -> str:
        """The ends of its services' logs, for a failure's message."""
        return "\n".join(f"{self.name} {service.name}:\n{service.tail()}" for service in self._services)

    def restart(self, name: str) -> None:
        """End a service without warning and start it again, in new cgroups, as systemd does."""
        service = next(each for each in self._services if each.name == name)
        service.kill()
        self._services.remove(service)
        for hierarchy in self._hierarchies:
            if hierarchy.groups_services:
                place = hierarchy.mounted / cgroups.service_folder(name)
                # The killed process leaves it only when its exit is complete.
                self.execute("sh", "-c", f"until rmdir {place}; do sleep 0.05; done")
        self.start(name, *self._commands[name])

    def start(self, name: str, *command: str | Path) -> Process:
        """Start a service on the node, in the cgroups that systemd would give it; it ends with the node."""
        self._commands[name] = command
        script = node_files.service_script(cgroups.service_folder(name), self._hierarchies, command)
        service = Process(name, self.command("sh", "-c", script), self.folder / f"{name}.log")
        self._services.append(service)
        return service

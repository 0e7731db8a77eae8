"""The agent on a node with systemd and cgroup v2 alone: who is ztunnel, who is kubelet, whose processes are a pod's.

systemd makes every cgroup here, and in the way it does on nodes: kubelet and a service beside it are units, containers
are scopes that the test asks systemd for over D-Bus as runc does, in the slices that kubelet asks for. Containers have
process and cgroup namespaces of their own; the agent's has the node's processes, as in the chart. Its settings for
cgroups are the defaults.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebpf.paths import PinPaths
from ebpf.pods import PodTable
from ebpf.programs_driver import detach_all, read_caller_roles
from resources.decode import decode_documents
from resources.folder_store import FolderStore
from tests.vm.kit.stand_ins import ECHO, ZTUNNEL

pytestmark = [pytest.mark.vm, pytest.mark.root]

TREE = Path("/sys/fs/cgroup")
UNITS = Path("/run/systemd/system")
NODE = "worker"
PORT = 7777
PATIENCE = 60.0
PROBER = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    asked, _ = server.accept()
    host, port = asked.recv(100).decode().split()
    try:
        with socket.create_connection((host, int(port)), timeout=20) as probe:
            probe.sendall(b"alive")
            answer = probe.recv(10).decode()
    except OSError as error:
        answer = os.strerror(error.errno or 0)
    asked.sendall(answer.encode())
    asked.close()
"""
"""Asked over a UNIX socket to connect somewhere; says what came back."""


def eventually(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Container:
    """A process as a container runtime starts it: in namespaces of its own, in a scope of its pod's slice."""

    def __init__(self, uid: str, number: int, command: list[str], *, netns: str | None, own_processes: bool) -> None:
        self.slice = f"kubepods-burstable-pod{uid.replace('-', '_')}.slice"
        self.scope = f"cri-containerd-{number:064x}.scope"
        enter = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []
        spaces = ["unshare", *(["--pid", "--fork", "--kill-child"] if own_processes else []), "--"]
        # It waits until it is where it belongs, and only then has a cgroup namespace of its own.
        start = ["sh", "-c", 'read _; exec unshare --cgroup -- "$@"', "sh", *command]
        self.process = subprocess.Popen([*enter, *spaces, *start], stdin=subprocess.PIPE)
        self.pid = self._child() if own_processes else self.process.pid
        self._into_scope()
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.close()

    @property
    def cgroup(self) -> Path:
        return TREE / "kubepods.slice/kubepods-burstable.slice" / self.slice / self.scope

    def _child(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        eventually(lambda: bool(children.read_text().split()), lambda: "unshare has no child")
        return int(children.read_text().split()[0])

    def _into_scope(self) -> None:
        manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
        properties = ["PIDs", "au", "1", str(self.pid), "Slice", "s", self.slice, "Delegate", "b", "true"]
        properties += ["DefaultDependencies", "b", "false"]
        run(
            "busctl", "call", *manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", self.scope, "fail", "4", *properties,
            "0",
        )  # fmt: skip
        told = Path(f"/proc/{self.pid}/cgroup")
        eventually(lambda: told.read_text() == f"0::/{self.cgroup.relative_to(TREE)}\n", told.read_text)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class SystemdNode:
    """One node: kubelet and another service as units, two application pods, ztunnel's pod, the agent's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FolderStore(folder / "cluster")
        self.containers: list[Container] = []
        self.uids = {
            name: f"0a1b2c3d-0000-4000-8000-{number:012x}"
            for number, name in enumerate(("server", "client", "ztunnel", "agent"), start=1)
        }

    def set_up(self) -> None:
        run("ip", "link", "add", "pods0", "type", "bridge")
        run("ip", "addr", "add", "10.244.1.1/24", "dev", "pods0")
        run("ip", "link", "set", "pods0", "up")
        for number, name in enumerate(("server", "client"), start=2):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"v{name}", "netns", "1")
            run("ip", "link", "set", f"v{name}", "master", "pods0", "up")
            run("ip", "-n", name, "addr", "add", f"10.244.1.{number}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        for name in ("kubelet", "other"):
            program = self.folder / name
            shutil.copy("/usr/bin/python3.11", program)  # the kernel calls a process by its program's file
            (self.folder / "prober.py").write_text(PROBER)
            (UNITS / f"{name}.service").write_text(
                f"[Service]\nExecStartPre=-rm -f {self.folder}/{name}.sock\n"
                f"ExecStart={program} {self.folder}/prober.py {self.folder}/{name}.sock\n"
            )
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "kubelet", "other")
        self.start("server", [sys.executable, "-c", ECHO, str(PORT)], netns="server")
        self.start("client", ["sleep", "infinity"], netns="client")
        self.show("shop", "server", "10.244.1.2", {})
        self.show("shop", "client", "10.244.1.3", {})
        self.show("ambimesh-system", "ztunnel", None, {"app.kubernetes.io/name": "ambimesh-ztunnel"})
        self.label(None)

    def tear_down(self) -> None:
        for container in reversed(self.containers):
            container.end()
        subprocess.run(["systemctl", "stop", "kubelet", "other", "kubepods.slice"], check=False)
        detach_all(self.pins)
        for name in ("server", "client"):
            subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", "pods0"], check=False)
        for name in ("kubelet", "other"):
            (UNITS / f"{name}.service").unlink(missing_ok=True)
        subprocess.run(["systemctl", "daemon-reload"], check=False)

    @property
    def pins(self) -> PinPaths:
        return PinPaths(Path("/sys/fs/bpf"), NODE)

    def start(self, pod: str, command: list[str], *, netns: str | None = None, own_processes: bool = True) -> Container:
        made = Container(self.uids[pod], len(self.containers) + 1, command, netns=netns, own_processes=own_processes)
        self.containers.append(made)
        return made

    def start_agent(self) -> None:
        configuration = self.folder / "agent.yaml"
        settings = {
            "node": {"name": NODE},
            "source": {"folder": str(self.folder / "cluster")},
            "bpf": {"map_tickets": 8192, "map_handoffs": 8192},
            "cni": {"install": False, "socket": str(self.folder / "cni.sock")},
            "ztunnel": {"socket": str(self.folder / "ztunnel.sock")},
            "http": {"host": "127.0.0.1"},
            "state_directory": str(self.folder / "state"),
        }
        configuration.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "cni", "--config", str(configuration)]
        agent = self.start("agent", command, own_processes=False)

        def ready() -> bool:
            assert agent.process.poll() is None, "the agent ended"
            try:
                with socket.create_connection(("127.0.0.1", 15014), timeout=20) as client:
                    client.sendall(b"GET /healthz/ready HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
                    return client.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                return False

        eventually(ready, lambda: "the agent is not ready")

    def show(self, namespace: str, name: str, address: str | None, labels: dict[str, str]) -> None:
        manifest: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "uid": self.uids[name], "labels": labels},
            "spec": {"nodeName": NODE, "serviceAccountName": name, "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address}] if address else []},
        }
        self._apply(manifest)

    def label(self, mode: str | None) -> None:
        labels = {"istio.io/dataplane-mode": mode} if mode else {}
        self._apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})

    def _apply(self, manifest: dict[str, Any]) -> None:
        objects, problems = decode_documents(json.dumps(manifest), "test")
        assert not problems
        self.store.apply(objects[0])

    def captured(self) -> set[str]:
        with PodTable(self.pins) as table:
            return set(table.enrolled())

    def probe(self, service: str) -> str:
        """What a service of the node gets back from the server's application."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE)
            asking.connect(str(self.folder / f"{service}.sock"))
            asking.sendall(f"10.244.1.2 {PORT}".encode())
            return asking.recv(100).decode()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdNode]:
    made = SystemdNode(tmp_path_factory.mktemp("node"))
    try:
        made.set_up()
        made.start_agent()
        yield made
    finally:
        made.tear_down()


def inode(cgroup: Path) -> int:
    return cgroup.stat().st_ino


def test_ztunnel_and_kubelet_are_found(node: SystemdNode) -> None:
    ztunnel = node.start("ztunnel", [sys.executable, "-c", ZTUNNEL, str(node.folder / "ztunnel.sock")])
    expected = frozenset({inode(ztunnel.cgroup)}), frozenset({inode(TREE / "system.slice/kubelet.service")})
    eventually(lambda: read_caller_roles(node.pins) == expected, lambda: (read_caller_roles(node.pins), expected))


def test_running_pods_are_captured_by_their_processes_and_only_kubelet_gets_in(node: SystemdNode) -> None:
    assert (node.probe("kubelet"), node.probe("other")) == ("alive", "alive")
    node.label("ambient")
    wanted = {node.uids["server"], node.uids["client"]}
    eventually(lambda: node.captured() == wanted, node.captured)
    # ztunnel has no listeners here: whatever is not let through has nobody to go to.
    assert node.probe("kubelet") == "alive"
    assert node.probe("other") in ("Connection refused", "Connection reset by peer")


def test_a_restarted_kubelet_is_found_again(node: SystemdNode) -> None:
    before = inode(TREE / "system.slice/kubelet.service")
    run("systemctl", "restart", "kubelet")
    eventually(lambda: (node.folder / "kubelet.sock").exists(), lambda: "kubelet does not listen")
    assert inode(TREE / "system.slice/kubelet.service") != before
    eventually(lambda: node.probe("kubelet") == "alive", lambda: read_caller_roles(node.pins))
    assert node.probe("other") != "alive"

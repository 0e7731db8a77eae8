"""The plugin's binary, built once per run; and a node for the real agent process.

The node has cgroups, a bpffs, namespaces of two pods and of itself, and a folder of manifests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from cni.agent.configuration import AgentSettings
from ebpf.bpffs import mount_bpffs, unmount_bpffs
from ebpf.pods import PodTable
from ebpf.programs_driver import detach_all, load_programs
from mesh.config import load
from mesh.netns import NetworkNamespace
from resources.decode import decode_documents
from resources.folder_store import FolderStore
from resources.objects import Pod

BUILD = Path(__file__).parents[2] / "cni" / "plugin" / "build.sh"
HIERARCHY = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").exists() else Path("/sys/fs/cgroup")
CONFLIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}
ECHO = "import socket,sys\ns=socket.create_server(('0.0.0.0',7777))\n" + (
    "import threading\ndef f(c):\n while d:=c.recv(99): c.sendall(d)\n"
    "while True: threading.Thread(target=f,args=(s.accept()[0],),daemon=True).start()"
)


@dataclass
class PlacedPod:
    """A namespace with an address, and a cgroup."""

    name: str
    uid: str
    address: str
    path: Path
    cgroup: Path
    namespace: NetworkNamespace

    def connect(self, address: str) -> socket.socket:
        """Connect to the echo application at an address, from a process of this pod's cgroup and namespace.

        The socket is made and connected by a forked child in the pod's cgroup and handed over, as control groups
        belong to processes.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
                client = self.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
                client.settimeout(5)
                try:
                    client.connect((address, 7777))
                except OSError as error:
                    theirs.send(str(error.errno).encode())
                else:
                    socket.send_fds(theirs, [b"ok"], [client.fileno()])
            finally:
                os._exit(0)
        theirs.close()
        with ours:
            data, descriptors, _, _ = socket.recv_fds(ours, 64, 1)
        os.waitpid(pid, 0)
        if data != b"ok":
            raise OSError(int(data or b"0"), os.strerror(int(data or b"0")))
        client = socket.socket(fileno=descriptors[0])
        client.settimeout(5)
        return client


class AgentNode:
    """One node; the agent process is started and stopped by the tests."""

    def __init__(self, prefix: str, plugin: Path) -> None:
        self.prefix = prefix
        self.plugin = plugin
        self.folder = Path(tempfile.mkdtemp(prefix=prefix))
        self.cgroup = HIERARCHY / prefix
        self.pods: dict[str, PlacedPod] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.agent: subprocess.Popen[bytes] | None = None
        self.configuration = self.folder / "agent.yaml"
        self.net_d = self.folder / "net.d"
        self.store = FolderStore(self.folder / "cluster")

    # -- the machine
    def set_up(self) -> None:
        mount_bpffs(self.folder / "bpf")
        for part in ("agent", "ztunnel", "kubelet", "pods/shop_client", "pods/shop_server"):
            (self.cgroup / part).mkdir(parents=True)
        self._ip(f"netns add {self.prefix}-node")
        self._ip(f"-n {self.prefix}-node link set lo up")
        for name in ("client", "server"):
            self._ip(f"netns add {self.prefix}-{name}")
            self._ip(f"-n {self.prefix}-{name} link set lo up")
        self._ip(f"-n {self.prefix}-client link add eth0 type veth peer name eth0 netns {self.prefix}-server")
        for number, name in enumerate(("client", "server"), start=2):
            self._ip(f"-n {self.prefix}-{name} addr add 10.244.1.{number}/24 dev eth0")
            self._ip(f"-n {self.prefix}-{name} link set eth0 up")
            path = Path(f"/run/netns/{self.prefix}-{name}")
            self.pods[name] = PlacedPod(
                name=name,
                uid=f"uid-{name}",
                address=f"10.244.1.{number}",
                path=path,
                cgroup=self.cgroup / "pods" / f"shop_{name}",
                namespace=NetworkNamespace.open(path),
            )
        self.net_d.mkdir()
        (self.net_d / "10-net.conflist").write_text(json.dumps(CONFLIST))
        self.configuration.write_text(
            json.dumps(
                {
                    "node": {"name": self.prefix},
                    "source": {"folder": str(self.folder / "cluster")},
                    "state_directory": str(self.folder / "state"),
                    "bpf": {
                        "bpffs": str(self.folder / "bpf"),
                        "cgroup": str(self.cgroup),
                        "ztunnel_cgroups": [str(self.cgroup / "ztunnel")],
                        "kubelet_cgroups": [str(self.cgroup / "kubelet")],
                        "map_tickets": 8192,
                        "map_handoffs": 8192,
                    },
                    "cni": {
                        "socket": str(self.folder / "cni.sock"),
                        "net_directory": str(self.net_d),
                        "binary_directory": str(self.folder / "bin"),
                        "binary": str(self.plugin),
                        "pod_wait_seconds": 0.5,
                    },
                    "ztunnel": {"socket": str(self.folder / "ztunnel.sock")},
                    "pod_cgroups": [str(self.cgroup / "pods" / "{namespace}_{name}")],
                    "http": {"host": "127.0.0.1"},
                }
            )
        )
        load_programs(self.settings.node_settings())
        self.run_in("server", [sys.executable, "-c", ECHO])
        self._wait_for_echo()

    def tear_down(self) -> None:
        self.stop_agent(signal.SIGKILL)
        self._end_processes(keep=0)
        for pod in self.pods.values():
            pod.namespace.close()
        with contextlib.suppress(Exception):
            detach_all(self.settings.pin_paths)
        unmount_bpffs(self.folder / "bpf")
        for name in ("node", "client", "server"):
            subprocess.run(["ip", "netns", "del", f"{self.prefix}-{name}"], check=False, capture_output=True)
        for part in sorted(self.cgroup.glob("**/"), key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                part.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)

    def reset(self) -> None:
        """Between tests: no agent, no pod enrolled, no object."""
        self.stop_agent(signal.SIGKILL)
        self._end_processes(keep=1)  # the echo application
        load_programs(self.settings.node_settings())
        with PodTable(self.settings.pin_paths) as table:
            for uid in table.enrolled():
                table.unenrol(uid)
        for name in self.pods:
            self.store.delete(Pod, "shop", name)
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        (self.net_d / "10-net.conflist").write_text(json.dumps(CONFLIST))

    def _end_processes(self, keep: int) -> None:
        for process in self.processes[keep:]:
            process.kill()
            process.wait()
        del self.processes[keep:]

    def _ip(self, arguments: str) -> None:
        subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)

    def run_in(self, pod: str, command: list[str]) -> subprocess.Popen[bytes]:
        """A process of a pod, in its cgroup and namespace."""
        placed = self.pods[pod]
        enter = f'echo $$ > {placed.cgroup}/cgroup.procs && exec nsenter --net={placed.path} "$@"'
        process = subprocess.Popen(["sh", "-c", enter, "sh", *command])
        self.processes.append(process)
        return process

    def _wait_for_echo(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                self.pods["client"].connect(self.pods["server"].address).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    # -- the agent
    @property
    def settings(self) -> AgentSettings:
        return load(self.configuration, AgentSettings)

    def start_agent(self) -> None:
        enter = f'echo $$ > {self.cgroup}/agent/cgroup.procs && exec nsenter --net=/run/netns/{self.prefix}-node "$@"'
        command = [sys.executable, "-m", "cni", "--config", str(self.configuration)]
        self.agent = subprocess.Popen(["sh", "-c", enter, "sh", *command])
        deadline = time.monotonic() + 30
        while self.get("/healthz/ready")[0] != 200:
            assert self.agent.poll() is None, "the agent ended"
            assert time.monotonic() < deadline, "the agent did not become ready"
            time.sleep(0.05)

    def stop_agent(self, number: int = signal.SIGTERM) -> int | None:
        if self.agent is None:
            return None
        self.agent.send_signal(number)
        status = self.agent.wait(10)
        self.agent = None
        return status

    def get(self, path: str) -> tuple[int, str]:
        """An HTTP GET to the agent, in the node's namespace."""
        with NetworkNamespace.open(f"/run/netns/{self.prefix}-node") as namespace:
            client = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        with client:
            client.settimeout(5)
            try:
                client.connect(("127.0.0.1", 15014))
            except OSError:
                return 0, ""
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n".encode())
            with client.makefile("rb") as stream:
                head, _, body = stream.read().decode().partition("\r\n\r\n")
        return int(head.split()[1]), body

    # -- the cluster
    def label(self, value: str | None) -> None:
        """Make the namespace ambient, or not."""
        labels = {} if value is None else {"istio.io/dataplane-mode": value}
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}
        objects, _ = decode_documents(json.dumps(manifest), "test")
        self.store.apply(objects[0])

    def show_pod(self, name: str, addresses: bool = True) -> None:
        """Put the pod's object into the cluster."""
        placed = self.pods[name]
        manifest: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "uid": placed.uid},
            "spec": {"nodeName": self.prefix, "serviceAccountName": name, "containers": [{"name": "main"}]},
        }
        if addresses:
            manifest["status"] = {"phase": "Running", "podIPs": [{"ip": placed.address}]}
        objects, problems = decode_documents(json.dumps(manifest), "test")
        assert not problems
        self.store.apply(objects[0])

    def annotation(self, name: str) -> str | None:
        return self.store.get(Pod, "shop", name).metadata.annotations.get("ambient.istio.io/redirection")

    def captured(self) -> dict[str, int]:
        """Cookies of enrolled pods by uid, from the kernel."""
        with PodTable(self.settings.pin_paths) as table:
            return {uid: pod.cookie for uid, pod in table.enrolled().items()}

    async def plug(self, command: str, name: str, **changes: str) -> tuple[int, dict[str, Any]]:
        """Execute the installed plugin for a pod as a container runtime does."""
        placed = self.pods[name]
        entry = json.loads((self.net_d / "10-net.conflist").read_text())["plugins"][-1]
        previous = {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": str(placed.path)}],
            "ips": [{"address": f"{placed.address}/24", "interface": 0}],
        }
        stdin = json.dumps({**entry, "cniVersion": "1.0.0", "name": "net", "prevResult": previous})
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"sandbox-{name}",
            "CNI_NETNS": str(placed.path),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID={placed.uid}",
            "CNI_PATH": str(self.folder / "bin"),
        }
        done = await trio.run_process(
            [self.folder / "bin" / "ambimesh-cni"],
            stdin=stdin.encode(),
            env=environment | changes,
            capture_stdout=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout or b"{}")


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("plugin") / "ambimesh-cni"
    subprocess.run([BUILD, output], check=True, timeout=120)
    return output


@pytest.fixture(scope="module")
def whole_node(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Iterator[AgentNode]:
    made = AgentNode(f"cnit{os.getpid()}", plugin)
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()


@pytest.fixture
def agent_node(whole_node: AgentNode) -> Iterator[AgentNode]:
    whole_node.label(None)
    yield whole_node
    whole_node.reset()

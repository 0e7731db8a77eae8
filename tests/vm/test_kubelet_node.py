"""The agent under a real kubelet with systemd's cgroup driver, on cgroup v2 alone.

kubelet runs without an API server: its pods are files. containerd and runc are Debian's. The agent's pod is the
chart's, with its rights, mounts and settings, but for where pods are learnt from and for its image: containers' file
systems are the machine's own, mounted.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ambimesh.chart.loading_driver import load_chart, render
from ebpf.paths import PinPaths
from ebpf.pods import PodTable
from ebpf.programs_driver import detach_all, read_caller_roles
from resources.decode import decode_documents
from resources.folder_store import FolderStore
from tests.e2e.kit.node_files import SANDBOX_IMAGE
from tests.vm.kit.disks import HEADERS, KUBELET, PAUSE_IMAGE, ROOT
from tests.vm.kit.stand_ins import ECHO, ZTUNNEL

pytestmark = [pytest.mark.vm, pytest.mark.root]

TREE = Path("/sys/fs/cgroup")
NODE = "worker"
PORT = 7777
PATIENCE = 240.0
PYTHON = str(ROOT / ".venv/bin/python")
UID = "0a1b2c3d-0000-4000-8000-{:012x}"
SLICE = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice"
MACHINE = ("/usr", "/lib", "/lib64", "/bin", str(ROOT), str(Path(HEADERS).parent))
"""What containers have of the machine: they are made from an image with nothing in it."""
CONTAINERD = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
"""
CHAIN: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
    ],
}


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class KubeletNode:
    """A node whose pods are files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests = folder / "manifests"
        self.store = FolderStore(folder / "cluster")

    def set_up(self) -> None:
        assert KUBELET.exists(), "the machine was made without kubelet; remedy: make kubernetes"
        self.manifests.mkdir()
        (self.folder / "etc").mkdir()
        (self.folder / "resolv.conf").touch()
        for place in ("/opt/cni/bin", "/etc/cni/net.d", "/etc/containerd"):
            Path(place).mkdir(parents=True, exist_ok=True)
        run("sh", "-c", "cp /usr/lib/cni/* /opt/cni/bin")
        Path("/etc/cni/net.d/10-pods.conflist").write_text(json.dumps(CHAIN))
        Path("/etc/containerd/config.toml").write_text(CONTAINERD)
        self.label(None)
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "systemd",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "evictionHard": {"memory.available": "50Mi"},
            "fileCheckFrequency": "1s",
            "makeIPTablesUtilChains": False,
            "readOnlyPort": 10255,
            "resolvConf": str(self.folder / "resolv.conf"),
            "staticPodPath": str(self.manifests),
            "syncFrequency": "2s",
        }
        (self.folder / "kubelet.json").write_text(json.dumps(configuration))
        Path("/run/systemd/system/kubelet.service").write_text(
            f"[Service]\nExecStart={KUBELET} --config={self.folder}/kubelet.json --hostname-override={NODE}\n"
        )
        run("systemctl", "unmask", "containerd")
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "containerd")
        run("ctr", "--namespace", "k8s.io", "images", "import", PAUSE_IMAGE)
        run("systemctl", "start", "kubelet")

    def tear_down(self) -> None:
        for file in self.manifests.glob("*.json"):
            file.unlink()
        # kubelet forgets a pod before its sandbox is gone, which only a containerd that runs takes away.
        deadline = time.monotonic() + PATIENCE
        while (self._tasks() or list(Path("/run/netns").glob("cni-*"))) and time.monotonic() < deadline:
            time.sleep(1)
        subprocess.run(["systemctl", "stop", "kubelet", "containerd"], check=False)
        subprocess.run(["ip", "link", "del", CHAIN["plugins"][0]["bridge"]], check=False)
        detach_all(self.pins)

    def _tasks(self) -> str:
        """What runs in containers."""
        command = ["ctr", "--namespace", "k8s.io", "tasks", "list", "--quiet"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    @property
    def pins(self) -> PinPaths:
        return PinPaths(Path("/sys/fs/bpf"), NODE)

    def eventually(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                journal = run("journalctl", "--no-pager", "-n", "40", "-u", "kubelet", "-u", "containerd")
                logs = "".join(file.read_text()[-3000:] for file in Path("/var/log/pods").rglob("*.log"))
                pytest.fail(f"{what}\n{json.dumps(self.pods())[:3000]}\n{journal}\n{logs}", pytrace=False)
            time.sleep(0.5)

    def start(self, number: int, name: str, spec: dict[str, Any], labels: dict[str, str] | None = None) -> Path:
        """A pod for kubelet, and for the agent; returns its cgroup."""
        uid = UID.format(number)
        spec["containers"][0]["image"] = SANDBOX_IMAGE
        spec["containers"][0]["imagePullPolicy"] = "Never"
        volumes, mounts = spec.setdefault("volumes", []), spec["containers"][0].setdefault("volumeMounts", [])
        for index, place in enumerate(MACHINE):
            volumes.append({"name": f"machine{index}", "hostPath": {"path": str(Path(place).resolve())}})
            mounts.append({"name": f"machine{index}", "mountPath": place, "readOnly": True})
        metadata = {"name": name, "namespace": "shop", "uid": uid, "labels": labels or {}}
        # As from an API server the agent learns of the pod before it has an address.
        self._show({**metadata, "name": f"{name}-{NODE}"}, [])
        (self.manifests / f"{name}.json").write_text(
            json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        )
        return TREE / SLICE.format(uid.replace("-", "_"))

    def show_running(self, name: str) -> None:
        """Tell the agent of a pod that runs."""
        pod = self.pods()[name]
        metadata = {key: pod["metadata"].get(key, {}) for key in ("name", "namespace", "uid", "labels")}
        self._show(metadata, pod["status"]["podIPs"])

    def _show(self, metadata: dict[str, Any], addresses: list[dict[str, str]]) -> None:
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"nodeName": NODE, "containers": [{"name": "main"}]},
            "status": {"phase": "Running" if addresses else "Pending", "podIPs": addresses},
        }
        self._apply(manifest)

    def label(self, mode: str | None) -> None:
        labels = {"istio.io/dataplane-mode": mode} if mode else {}
        self._apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})

    def _apply(self, manifest: dict[str, Any]) -> None:
        objects, problems = decode_documents(json.dumps(manifest), "test")
        assert not problems
        self.store.apply(objects[0])

    def pods(self) -> dict[str, Any]:
        """What kubelet says of its pods, by the manifest's name."""
        try:
            with urllib.request.urlopen("http://127.0.0.1:10255/pods", timeout=30) as answer:
                items = json.load(answer)["items"] or []
        except OSError:
            return {}
        return {item["metadata"]["name"].removesuffix(f"-{NODE}"): item for item in items}

    def container(self, name: str) -> dict[str, Any]:
        """Its status; empty while there is none."""
        statuses = self.pods().get(name, {}).get("status", {}).get("containerStatuses") or [{}]
        return dict(statuses[0])

    def ready(self, name: str) -> bool:
        return bool(self.container(name).get("ready"))


def agent_spec(node: KubeletNode) -> dict[str, Any]:
    """The agent's pod as the chart has it."""
    objects = render(load_chart(), {}, namespace="ambimesh-system")
    named = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    spec: dict[str, Any] = named["DaemonSet", "ambimesh-agent"]["spec"]["template"]["spec"]
    settings = yaml.safe_load(named["ConfigMap", "ambimesh-agent"]["data"]["agent.yaml"])
    settings["source"] = {"folder": str(node.folder / "cluster")}
    settings["cni"]["binary"] = str(ROOT / ".build/bin/ambimesh-cni")
    settings["enrolment"]["own_pods"][0]["namespace"] = "shop"
    (node.folder / "etc/agent.yaml").write_text(json.dumps(settings))
    spec = {key: value for key, value in spec.items() if key not in ("serviceAccountName", "affinity", "nodeSelector")}
    spec["volumes"] = [volume for volume in spec["volumes"] if "configMap" not in volume]
    spec["volumes"].append({"name": "settings", "hostPath": {"path": str(node.folder / "etc")}})
    spec["volumes"].append({"name": "cluster", "hostPath": {"path": str(node.folder / "cluster")}})
    agent = spec["containers"][0]
    agent["volumeMounts"].append({"name": "cluster", "mountPath": str(node.folder / "cluster")})
    agent["command"][0] = PYTHON
    agent["env"] += [{"name": "BCC_KERNEL_SOURCE", "value": HEADERS}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}]
    agent.pop("resources", None)
    return spec


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeletNode]:
    made = KubeletNode(tmp_path_factory.mktemp("node"))
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()


def inodes(cgroup: Path) -> set[int]:
    return {place.stat().st_ino for place in cgroup.glob("cri-containerd-*.scope")}


def test_the_agent_runs_with_the_charts_rights_and_finds_kubelet(node: KubeletNode) -> None:
    node.start(1, "agent", agent_spec(node))
    node.eventually(lambda: node.ready("agent"), "the agent is not ready")
    kubelet = (TREE / "system.slice/kubelet.service").stat().st_ino
    assert read_caller_roles(node.pins) == (frozenset(), frozenset({kubelet}))
    chain = json.loads(Path("/etc/cni/net.d/10-pods.conflist").read_text())
    assert [plugin["type"] for plugin in chain["plugins"]] == ["bridge", "ambimesh-cni"]


def test_ztunnels_container_is_found(node: KubeletNode) -> None:
    spec = {
        "containers": [
            {
                "name": "main",
                "command": [PYTHON, "-c", ZTUNNEL, "/run/ambimesh/ztunnel.sock"],
                "volumeMounts": [{"name": "run", "mountPath": "/run/ambimesh"}],
            }
        ],
        "volumes": [{"name": "run", "hostPath": {"path": "/run/ambimesh"}}],
    }
    cgroup = node.start(2, "ztunnel", spec, {"app.kubernetes.io/name": "ambimesh-ztunnel"})
    node.eventually(lambda: node.ready("ztunnel"), "ztunnel does not run")
    node.show_running("ztunnel")
    node.eventually(lambda: bool(read_caller_roles(node.pins)[0]), "ztunnel is not found")
    assert read_caller_roles(node.pins)[0] <= inodes(cgroup)


def test_kubelets_probes_get_into_a_captured_pod_and_nobody_else(node: KubeletNode) -> None:
    probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1}
    spec = {
        "containers": [{"name": "main", "command": [PYTHON, "-c", ECHO, str(PORT)], "readinessProbe": probe}],
        "terminationGracePeriodSeconds": 1,
    }
    node.start(3, "server", spec)
    node.eventually(lambda: node.ready("server"), "the server is not ready")
    node.show_running("server")
    address = (node.pods()["server"]["status"]["podIP"], PORT)
    assert _ask(address) == "alive"
    node.label("ambient")

    def captured() -> bool:
        with PodTable(node.pins) as table:
            return set(table.enrolled()) == {UID.format(3)}

    node.eventually(captured, "the server is not captured")
    assert _ask(address) in ("Connection refused", "Connection reset by peer")
    _stays_ready(node)


def test_a_restarted_kubelet_gets_in_again(node: KubeletNode) -> None:
    before = (TREE / "system.slice/kubelet.service").stat().st_ino
    run("systemctl", "restart", "kubelet")
    kubelet = (TREE / "system.slice/kubelet.service").stat().st_ino
    assert kubelet != before
    node.eventually(lambda: read_caller_roles(node.pins)[1] == {kubelet}, "the new kubelet is not found")
    node.eventually(lambda: node.ready("server"), "the server is not ready again")
    _stays_ready(node)


def _ask(address: tuple[str, int]) -> str:
    """What somebody of the node, who is not kubelet, gets back."""
    try:
        with socket.create_connection(address, timeout=20) as client:
            client.sendall(b"alive")
            return client.recv(10).decode()
    except OSError as error:
        return os.strerror(error.errno or 0)


def _stays_ready(node: KubeletNode) -> None:
    """Several probes later: a failed one would have made it unready."""
    for _ in range(5):
        time.sleep(1.5)
        assert node.ready("server"), node.container("server")

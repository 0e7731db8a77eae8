"""A node's machine without Kubernetes: what it has of its own, what a reboot keeps, and that nothing is left."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import EnvironmentLacks
from tests.e2e.kit import cgroups, mesh_images
from tests.e2e.kit.node import Node
from tests.e2e.kit.segment import CONTROL_PLANE_ADDRESS, Segment, segment
from tests.e2e.kit.traces import Traces
from tests.e2e.kit.waiting import eventually

pytestmark = pytest.mark.root

LISTEN = (
    "import socket,sys;s=socket.create_server((sys.argv[1],7000));print('listening',flush=True);"
    "c,a=s.accept();print(a[0],flush=True);c.sendall(b'from afar')"
)


@pytest.fixture
def folder(tmp_path: Path, resource_prefix: str) -> Path:
    made = tmp_path / resource_prefix
    made.mkdir()
    return made


@pytest.fixture
def network(folder: Path) -> Iterator[Segment]:
    with segment(mesh_images.pause_program(), folder) as made:
        yield made


@pytest.fixture
def nodes(network: Segment, folder: Path) -> Iterator[list[Node]]:
    made = [Node(number, 2, network, mesh_images.pause_program(), folder) for number in (1, 2)]
    try:
        for node in made:
            node.boot()
        yield made
    finally:
        for node in made:
            node.kill()


def test_a_node_is_a_machine_of_its_own(nodes: list[Node], network: Segment) -> None:
    node = nodes[0]
    assert node.execute("hostname") == "node1\n"
    assert node.execute("ps", "-A", "-o", "pid=,args=").split()[:2] == ["1", str(mesh_images.pause_program())]
    assert node.execute("ls", "/run/netns", "/etc/cni/net.d", "/sys/class/net").split() == [
        *("/etc/cni/net.d:", "10-pods.conflist", "/run/netns:", "/sys/class/net:", "eth0", "lo"),
    ]
    node.execute("sh", "-c", "for place in etc opt var run; do echo mine >/$place/mine; done; touch /sys/fs/cgroup/x")
    assert [place for place in ("etc", "opt", "var", "run") if Path(f"/{place}/mine").exists()] == []
    for hierarchy in cgroups.find_hierarchies():
        assert "/init.scope" not in node.execute("ls", hierarchy.mounted) or hierarchy.groups_services
    with pytest.raises(EnvironmentLacks, match="node1: sh -c exit 3: status 3"):
        node.execute("sh", "-c", "exit 3")


def test_kernel_settings_that_kubelet_changes_are_the_nodes_own(nodes: list[Node]) -> None:
    before = Path("/proc/sys/vm/overcommit_memory").read_text()
    nodes[0].execute("sh", "-c", "echo 2 >/proc/sys/vm/overcommit_memory")
    assert Path("/proc/sys/vm/overcommit_memory").read_text() == before
    assert nodes[0].execute("cat", "/proc/sys/vm/overcommit_memory") == "2\n"


def test_nodes_and_control_plane_reach_each_other(nodes: list[Node], network: Segment) -> None:
    for server, client in ((nodes[0], nodes[1]), (nodes[1], nodes[0])):
        for source in (client.address, CONTROL_PLANE_ADDRESS):
            listening = server.start(f"listener-for-{source}", "python3", "-c", LISTEN, server.address)
            listening.wait_until(lambda process=listening: "listening" in process.tail(), 30)  # type: ignore[misc]
            if source == CONTROL_PLANE_ADDRESS:
                with network.entered(), socket.create_connection((server.address, 7000), 5) as connection:
                    assert connection.recv(100) == b"from afar"
            else:
                ask = f"import socket;print(socket.create_connection(('{server.address}',7000),5).recv(100).decode())"
                assert client.execute("python3", "-c", ask) == "from afar\n"
            assert listening.tail().split()[-1] == source


def test_a_reboot_keeps_the_disk_and_nothing_else(nodes: list[Node]) -> None:
    node = nodes[0]
    node.execute(
        "sh", "-c", "echo 1 >/etc/kept; echo 1 >/var/lib/kubelet/kept; echo 1 >/run/lost; ip link add x type veth"
    )
    running = node.start("sleeper", "sleep", "600")
    node.kill()
    assert not running.running
    assert node.running == []
    node.boot()
    assert node.execute("cat", "/etc/kept", "/var/lib/kubelet/kept") == "1\n1\n"
    assert "lost" not in node.execute("ls", "/run").split()
    assert node.execute("ls", "/sys/class/net").split() == ["eth0", "lo"]


def test_services_are_in_cgroups_of_the_node(nodes: list[Node], folder: Path) -> None:
    sleeper = nodes[0].start("sleeper", "sleep", "600")
    expected = f"/{folder.name}-node1/{cgroups.service_folder('sleeper')}"

    def placed() -> None:
        children = Path(f"/proc/{sleeper.pid}/task/{sleeper.pid}/children").read_text().split()
        assert children
        lines = Path(f"/proc/{children[0]}/cgroup").read_text().splitlines()
        assert any(line.startswith("0::") and line.endswith(expected) for line in lines), lines
        assert all(f"/{folder.name}-node1" in line for line in lines), lines

    eventually(placed)


def test_nothing_is_left_of_nodes(folder: Path, tmp_path: Path) -> None:
    """And what is there while they run is found, so that nothing found means something."""
    with segment(mesh_images.pause_program(), folder) as network:
        node = Node(1, 1, network, mesh_images.pause_program(), folder)
        try:
            node.boot()
            traces = Traces.of(folder)
            found = {line.split()[0] for line in traces.left()}
            assert {"process", "namespace", "cgroup"} <= found
        finally:
            node.kill()
    assert os.listdir("/proc/self/ns")

    def nothing() -> None:
        assert traces.left() == []

    eventually(nothing)

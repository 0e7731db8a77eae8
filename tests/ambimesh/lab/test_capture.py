from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ambimesh.lab import capture
from ambimesh.lab.layout import NodeLayout
from ambimesh.lab.pcap import frames
from ambimesh.lab.programs import Place, run
from mesh.errors import EnvironmentLacks


@pytest.fixture
def node(resource_prefix: str, tmp_path: Path) -> Iterator[NodeLayout]:
    """A node's namespace with an uplink whose other end is in the same namespace."""
    made = NodeLayout(resource_prefix, 1, tmp_path)
    name = made.netns.name
    subprocess.run(["ip", "netns", "add", name], check=True)
    lines = "link add eth0 type veth peer name far\nlink set eth0 up\nlink set far up\naddr add 192.0.2.1/24 dev eth0\n"
    subprocess.run(["ip", "-netns", name, "-batch", "-"], input=lines, text=True, check=True)
    yield made
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.root
async def test_everything_sent_during_the_block_is_recorded(node: NodeLayout, tmp_path: Path) -> None:
    file = tmp_path / "link.pcap"
    async with capture.recording(node, file, "udp"):
        for number in range(5):
            neighbour = "ip neigh replace 192.0.2.2 lladdr 02:00:00:00:00:01 dev eth0"
            send = f"exec 3<>/dev/udp/192.0.2.2/9; echo marker-{number} >&3"
            await run(["bash", "-c", f"{neighbour}; {send}"], place=Place(netns=node.netns))
    content = await trio.Path(file).read_bytes()
    assert [f"marker-{number}".encode() in frame for number, frame in enumerate(frames(content))] == [True] * 5


@pytest.mark.root
async def test_a_filter_tcpdump_does_not_take_is_told(node: NodeLayout, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks, match="tcpdump did not start"):
        async with capture.recording(node, tmp_path / "link.pcap", "no such filter"):
            pass


def test_the_readable_form_ends_by_itself_when_asked(tmp_path: Path) -> None:
    node = NodeLayout("lab", 1, tmp_path)
    assert "timeout" in capture.show_arguments(node, 3.0, "")[-1]
    assert "timeout" not in capture.show_arguments(node, None, "port 15008")[-1]
    assert "port 15008" in capture.show_arguments(node, None, "port 15008")[-1]

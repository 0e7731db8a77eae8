"""What passes between a cluster's nodes, recorded on the bridge that joins them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ambimesh.lab.pcap import TcpPacket, tcp_packets
from mesh.addresses import format_ip
from mesh.errors import EnvironmentLacks
from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.segment import BRIDGE, pod_range

_START_SECONDS = 20.0
_RING_KIB = 32768
_DROPPED = re.compile(r"(\d+) packets? dropped by kernel")


class Recording:
    """What was recorded so far; complete when the block of `recorded` has been left."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def content(self) -> bytes:
        """All frames, as tcpdump keeps them."""
        return self._file.read_bytes()

    @property
    def packets(self) -> list[TcpPacket]:
        """Its TCP segments."""
        return list(tcp_packets(self.content))

    def carried(self, marker: str) -> int:
        """How often a text has passed in clear."""
        return self.content.count(marker.encode())

    def of(self, *addresses: str) -> list[TcpPacket]:
        """The segments to or from one of these addresses."""
        wanted = set(addresses)
        return [each for each in self.packets if wanted & {format_ip(each.source.ip), format_ip(each.destination.ip)}]


def opened(packets: Sequence[TcpPacket]) -> list[bytes]:
    """The first bytes that the client sent on each connection that began among these segments."""
    first: dict[tuple[object, object], bytes] = {}
    for each in packets:
        ends = (each.source, each.destination)
        if each.syn:
            first[ends] = b""
        elif first.get(ends) == b"":
            first[ends] = each.payload
    return list(first.values())


@contextmanager
def recorded(cluster: Cluster) -> Iterator[Recording]:
    """Record what pods of the first two nodes say to one another for the length of the block.

    Raises:
        NotServing: tcpdump did not start.
        EnvironmentLacks: it missed packets.
    """
    file = cluster.folder / "wire.pcap"
    between = f"net {pod_range(1)} and net {pod_range(2)}"
    options = ["-i", BRIDGE, "-n", "-U", "--immediate-mode", "-s", "0", "-B", str(_RING_KIB), "-Z", "root"]
    process = cluster.start("wire", "tcpdump", *options, "-w", file, between)
    try:
        process.wait_until(lambda: "listening on" in process.tail(), _START_SECONDS)
        yield Recording(file)
    finally:
        process.stop()
    dropped = _DROPPED.search(process.tail())
    if dropped is None or int(dropped[1]):
        raise EnvironmentLacks(f"the recording is not whole: {process.tail()}")

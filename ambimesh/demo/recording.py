"""What passed between the nodes while something was done."""

from __future__ import annotations

from dataclasses import dataclass

from ambimesh.lab.pcap import TcpPacket, tcp_packets
from mesh.addresses import IpBytes, SocketAddress, parse_cidr

HBONE_PORT = 15008
_POD_RANGES = (parse_cidr("10.244.0.0/16"), parse_cidr("fd00:10:244::/48"))
_TLS_HANDSHAKE = 0x16


@dataclass(slots=True)
class Recording:
    """A recording of the link; its content is there once the recording has ended."""

    content: bytes = b""

    def packets(self) -> list[TcpPacket]:
        """TCP segments from or to pods; the nodes' own traffic (to the operator) is left out."""
        found = tcp_packets(self.content)
        return [packet for packet in found if _is_pod(packet.source.ip) or _is_pod(packet.destination.ip)]

    def shows(self, marker: str) -> bool:
        """Whether this text can be read anywhere in what was recorded, whatever the protocol."""
        return marker.encode() in self.content

    def carrying(self, marker: str) -> list[TcpPacket]:
        """Segments in which this text can be read."""
        wanted = marker.encode()
        return [packet for packet in self.packets() if wanted in packet.payload]

    def beside_tunnels(self) -> list[TcpPacket]:
        """Segments that belong to no connection with port 15008."""
        return [packet for packet in self.packets() if HBONE_PORT not in (packet.source.port, packet.destination.port)]

    def tunnel_bytes(self) -> int:
        """Payload of connections with port 15008."""
        return sum(
            len(packet.payload)
            for packet in self.packets()
            if HBONE_PORT in (packet.source.port, packet.destination.port)
        )

    def first_bytes(self) -> dict[tuple[SocketAddress, SocketAddress], int]:
        """For each connection to port 15008 that was opened during the recording, the first byte its client sent."""
        opened: set[tuple[SocketAddress, SocketAddress]] = set()
        first: dict[tuple[SocketAddress, SocketAddress], int] = {}
        for packet in self.packets():
            ends = (packet.source, packet.destination)
            if packet.destination.port == HBONE_PORT and packet.syn:
                opened.add(ends)
            elif ends in opened and packet.payload:
                first.setdefault(ends, packet.payload[0])
        return first

    def not_tls(self) -> list[tuple[SocketAddress, SocketAddress]]:
        """Connections to port 15008 that did not begin with a TLS handshake record."""
        return [ends for ends, byte in self.first_bytes().items() if byte != _TLS_HANDSHAKE]


def _is_pod(ip: IpBytes) -> bool:
    return any(ip in network for network in _POD_RANGES)

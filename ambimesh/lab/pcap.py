"""Reads recorded packets as far as evidence needs it: addresses, ports and payload of TCP. A codec, pure.

The file format is libpcap's classic one (pcap-savefile(5)), as tcpdump writes it, with Ethernet frames.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mesh.addresses import IpBytes, SocketAddress, ip_from_packed
from mesh.errors import InvalidMessage

_ETHERNET = 1
_IPV4 = 0x0800
_IPV6 = 0x86DD
_TCP = 6
_FILE_HEADER = 24
_PACKET_HEADER = 16
_ORDERS = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\x3c\x4d": ">"}


@dataclass(frozen=True, slots=True)
class TcpPacket:
    """One TCP segment that was seen."""

    source: SocketAddress
    destination: SocketAddress
    syn: bool
    """Opens a connection: SYN without ACK."""
    payload: bytes


def frames(content: bytes) -> Iterator[bytes]:
    """The Ethernet frames of a pcap file; a last one that was cut off is left out.

    Raises:
        InvalidMessage: not a pcap file of Ethernet frames.
    """
    order = _ORDERS.get(content[:4])
    if order is None or len(content) < _FILE_HEADER:
        raise InvalidMessage("not a pcap file")
    if struct.unpack_from(f"{order}I", content, 20)[0] & 0xFFFF != _ETHERNET:
        raise InvalidMessage("not a recording of Ethernet frames")
    place = _FILE_HEADER
    while place + _PACKET_HEADER <= len(content):
        (captured,) = struct.unpack_from(f"{order}I", content, place + 8)
        place += _PACKET_HEADER
        if place + captured > len(content):
            return
        yield content[place : place + captured]
        place += captured


def tcp_packets(content: bytes) -> Iterator[TcpPacket]:
    """The TCP segments of a pcap file, IPv4 and IPv6; other frames are passed over.

    Raises:
        InvalidMessage: not a pcap file of Ethernet frames.
    """
    for frame in frames(content):
        packet = _tcp_packet(frame)
        if packet is not None:
            yield packet


def _tcp_packet(frame: bytes) -> TcpPacket | None:
    if len(frame) < 14:
        return None
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _IPV4 and len(frame) >= 34 and frame[23] == _TCP:
        start = 14 + (frame[14] & 0xF) * 4
        end = 14 + int.from_bytes(frame[16:18], "big")
        return _segment(frame[start:end], ip_from_packed(frame[26:30]), ip_from_packed(frame[30:34]))
    if kind == _IPV6 and len(frame) >= 54 and frame[20] == _TCP:
        end = 54 + int.from_bytes(frame[18:20], "big")
        return _segment(frame[54:end], ip_from_packed(frame[22:38]), ip_from_packed(frame[38:54]))
    return None


def _segment(segment: bytes, source: IpBytes, destination: IpBytes) -> TcpPacket | None:
    if len(segment) < 20:
        return None
    source_port, destination_port = struct.unpack_from("!HH", segment)
    flags = segment[13]
    return TcpPacket(
        SocketAddress(source, source_port),
        SocketAddress(destination, destination_port),
        flags & 0x12 == 0x02,
        segment[(segment[12] >> 4) * 4 :],
    )

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambimesh.lab.pcap import TcpPacket, frames, tcp_packets
from mesh.addresses import parse_socket_address
from mesh.errors import InvalidMessage

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)


def pcap(*packets: bytes) -> bytes:
    return HEADER + b"".join(struct.pack("<IIII", 0, 0, len(one), len(one)) + one for one in packets)


def tcp(source: str, destination: str, flags: int, payload: bytes, padding: bytes = b"") -> bytes:
    (source_ip, source_port), (target_ip, target_port) = (text.rsplit(":", 1) for text in (source, destination))
    segment = struct.pack("!HHIIBBHHH", int(source_port), int(target_port), 1, 0, 5 << 4, flags, 0, 0, 0) + payload
    one, two = (ipaddress.ip_address(ip.strip("[]")) for ip in (source_ip, target_ip))
    if one.version == 4:
        packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0) + one.packed + two.packed
        kind = b"\x08\x00"
    else:
        packet = struct.pack("!IHBB", 0x60000000, len(segment), 6, 64) + one.packed + two.packed
        kind = b"\x86\xdd"
    return bytes(12) + kind + packet + segment + padding


@pytest.mark.parametrize(
    ("source", "destination"), [("10.0.0.1:4000", "10.0.0.2:80"), ("[fd00::1]:4000", "[fd00::2]:80")]
)
def test_addresses_ports_and_payload_of_both_families(source: str, destination: str) -> None:
    found = list(tcp_packets(pcap(tcp(source, destination, 0x18, b"GET /", padding=bytes(6)))))
    assert found == [TcpPacket(parse_socket_address(source), parse_socket_address(destination), False, b"GET /")]


def test_only_a_bare_syn_opens() -> None:
    content = pcap(*(tcp("10.0.0.1:1", "10.0.0.2:2", flags, b"") for flags in (0x02, 0x12, 0x10, 0xC2)))
    assert [packet.syn for packet in tcp_packets(content)] == [True, False, False, True]


def test_other_frames_are_passed_over() -> None:
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    udp = bytearray(tcp("10.0.0.1:1", "10.0.0.2:2", 0, b"text"))
    udp[23] = 17
    assert list(tcp_packets(pcap(arp, bytes(udp), b"short"))) == []


def test_a_last_packet_that_was_cut_off_is_left_out() -> None:
    whole = pcap(b"a" * 60, b"b" * 60)
    assert list(frames(whole[:-1])) == [b"a" * 60]


@pytest.mark.parametrize("content", [b"", b"\xd4\xc3\xb2\xa1", b"text" * 10, HEADER[:-4] + struct.pack("<I", 113)])
def test_what_is_no_recording_of_ethernet_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidMessage):
        list(frames(content))


@given(st.lists(st.binary(max_size=120), max_size=5), st.integers(0, 50))
def test_any_frames_are_survived(packets: list[bytes], cut: int) -> None:
    content = pcap(*packets)
    for packet in tcp_packets(content[: max(24, len(content) - cut)]):
        assert len(packet.payload) <= 120

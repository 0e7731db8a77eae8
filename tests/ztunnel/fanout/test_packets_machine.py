from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidMessage
from ztunnel.fanout.packets_machine import PACKET_BYTES, Assembler, packets


@given(st.lists(st.integers(0, 3 * PACKET_BYTES), max_size=6))
def test_messages_of_any_length_arrive_whole_and_in_order(lengths: list[int]) -> None:
    sent = [bytes([number]) * length for number, length in enumerate(lengths)]
    assembler = Assembler()
    received = []
    for message in sent:
        for packet in packets(message):
            assert 1 <= len(packet) <= PACKET_BYTES
            whole = assembler.receive(packet)
            if whole is not None:
                received.append(bytes(whole))
    assert received == sent


@pytest.mark.parametrize("length", [0, 1, PACKET_BYTES - 1, PACKET_BYTES, 2 * (PACKET_BYTES - 1)])
def test_a_message_has_no_more_packets_than_it_needs(length: int) -> None:
    needed = max(1, -(-length // (PACKET_BYTES - 1)))
    assert len(list(packets(bytes(length)))) == needed


def test_a_message_beyond_the_limit_is_refused_before_it_is_kept() -> None:
    assembler = Assembler(limit=100)
    assert assembler.receive(b"\x01" + bytes(60)) is None
    with pytest.raises(InvalidMessage, match="100 bytes"):
        assembler.receive(b"\x01" + bytes(41))
    with pytest.raises(InvalidMessage, match="100 bytes"):
        Assembler(limit=100).receive(b"\x00" + bytes(101))


@given(st.binary(max_size=20).filter(lambda packet: packet[:1] not in (b"\x00", b"\x01")))
def test_what_is_no_packet_is_refused(packet: bytes) -> None:
    with pytest.raises(InvalidMessage):
        Assembler().receive(packet)

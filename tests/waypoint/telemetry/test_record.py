"""The record of a request, and the names of response flags."""

from __future__ import annotations

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.telemetry import flags
from waypoint.telemetry.flags import NAMES, flag_bits, flags_text
from waypoint.telemetry.record import NOT_REACHED, HttpVersion, RequestRecord


def test_a_record_begins_with_nothing_reached() -> None:
    client = Client(
        identity=None,
        address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 1)),
        destination=SocketAddress(parse_ip("10.0.0.2"), 80),
    )
    head = RequestHead(method=b"GET", path=b"/a?b=c", authority=b"echo")
    record = RequestRecord(client, "demo/echo", head, HttpVersion.HTTP_1_1, 5.0, 1_800_000_000.0)
    head.path = b"/rewritten"
    assert record.path == b"/a?b=c"
    assert (record.status, record.flags, record.attempts) == (0, 0, 0)
    assert {record.request_ended, record.forwarded, record.first_answered, record.ended} == {NOT_REACHED}
    assert not hasattr(record, "__dict__")


def test_every_flag_is_a_bit_of_its_own_with_a_name_of_its_own() -> None:
    constants = {value for name, value in vars(flags).items() if name.isupper() and isinstance(value, int)}
    assert constants == set(NAMES)
    assert len(set(NAMES.values())) == len(NAMES)
    assert all(bit.bit_count() == 1 for bit in NAMES)


def test_flags_are_written_as_envoy_writes_them() -> None:
    assert flags_text(0) == "-"
    assert flags_text(flags.NO_ROUTE) == "NR"
    assert flags_text(flags.UPSTREAM_CONNECTION_FAILURE | flags.RETRY_LIMIT_EXCEEDED) == "UF,URX"


def test_flags_are_read_as_they_are_written() -> None:
    everything = sum(NAMES)
    assert flag_bits(flags_text(everything)) == everything
    assert [flag_bits(text) for text in ("", "-", "no such flag", "NR")] == [0, 0, 0, flags.NO_ROUTE]

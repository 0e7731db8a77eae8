"""The façade reads what the programs write, field by field."""

from __future__ import annotations

import ctypes

from ebpf.fastpath import entry, tables, talkers
from ebpf.layout import FastConnection, FastEntry, FastFlow, FastTalker


def test_records_are_as_long_as_the_structs() -> None:
    assert ctypes.sizeof(FastConnection) == tables._CONNECTION.size
    assert ctypes.sizeof(FastFlow) == tables._FLOW.size
    assert ctypes.sizeof(FastTalker) == talkers._TALKER.size
    assert ctypes.sizeof(FastEntry) == entry._ENTRY.size - len(entry._LINK_LAYER)


def test_a_connection_is_read_field_by_field() -> None:
    value = FastConnection(source_netns=1, destination_netns=2, opened_at=3, closed_at=4, server_cookie=5, sent=6)
    value.received, value.client_end = 7, 3
    value.source.port, value.destination.port, value.dialled.port = 8, 9, 10
    read = tables._connection((11).to_bytes(8, "little"), bytes(value))
    assert (read.cookie, read.source_netns, read.destination_netns) == (11, 1, 2)
    assert (read.opened_at, read.closed_at, read.server_cookie, read.sent, read.received) == (3, 4, 5, 6, 7)
    assert (read.source.port, read.destination.port, read.dialled.port, read.failed) == (8, 9, 10, True)

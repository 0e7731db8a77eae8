"""The records that ztunnel and the programs leave with sockets."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import pytest

from ebpf.connections import Deliveries, OriginalDestinations
from mesh.addresses import SocketAddress, parse_ip
from mesh.errors import InternalError, MeshError

pytestmark = pytest.mark.root

CLIENT = SocketAddress(parse_ip("10.244.7.7"), 40000)


def test_a_socket_no_program_redirected_has_no_original_destination(node: Any) -> None:
    with (
        closing(OriginalDestinations(node.paths)) as destinations,
        closing(Deliveries(node.paths)) as deliveries,
        socket.socket() as fresh,
    ):
        assert destinations.take(fresh.fileno()) is None
        deliveries.announce(fresh.fileno(), CLIENT)
        assert destinations.take(fresh.fileno()) is None  # a delivery's record is not an original destination


def test_a_descriptor_that_is_no_socket_is_an_error(node: Any) -> None:
    with closing(OriginalDestinations(node.paths)) as destinations, closing(Deliveries(node.paths)) as deliveries:
        with pytest.raises(InternalError):
            destinations.take(100_000)
        with pytest.raises(InternalError):
            deliveries.announce(100_000, CLIENT)


def test_a_closed_table_reads_nothing(node: Any) -> None:
    destinations = OriginalDestinations(node.paths)
    destinations.close()
    destinations.close()
    with socket.socket() as fresh, pytest.raises(MeshError, match="EBADF"):
        destinations.take(fresh.fileno())

"""The ctypes mirror of ``programs/abi.h``.

The header is the truth. ``ebpf.layout_check`` compares this mirror with what the compiler made of the header.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.addresses import IpBytes

ABI_VERSION = 6

ZTUNNEL_OUTBOUND_PORT = 15001
ZTUNNEL_HBONE_PORT = 15008

POD_HAS_IPV4 = 1
POD_HAS_IPV6 = 2
POD_HAS_EXCLUDED_OUTBOUND_PORTS = 4
POD_HAS_EXCLUDED_NETWORKS = 8
POD_TAKES_NO_FAST_PATH = 16
POD_TAKES_NO_SPLICE = 32
POD_TAKES_ANY_SPLICE = 64

DIRECTION_OUTBOUND = 1
DIRECTION_INBOUND = 2

NETWORK_AS_WRITTEN = 1
NETWORK_OF_IPV6 = 2

ROLE_ZTUNNEL = 1
ROLE_KUBELET = 2

LISTENER_PLAINTEXT = 1
LISTENER_HBONE = 2
LISTENER_OUTBOUND = 3

MAX_WORKERS = 16

CONNECTION_UNTOUCHED = 0
CONNECTION_CAPTURED = 1
CONNECTION_HANDED = 2
CONNECTION_DELIVERY = 3
CONNECTION_PROBE = 4
CONNECTION_ITSELF = 5
CONNECTION_ACCEPTED = 6
CONNECTION_FAST = 7

FAST_DIAL = 1
FAST_SPLICE = 2
FAST_SLOTS = 64

FLOW_UNDECIDED = 0
FLOW_SPLICED = 1
FLOW_TCP = 2
FLOW_PAIRED = 3

ABILITY_SPLICE = 1
TALKATIVE_SEGMENTS = 64
TALKATIVE_SEGMENTS_ACCEPTED = 256
LEG_BULKY_SEGMENT = 17408
LEG_BULKY_MESSAGE = 17408
ASKED_NOT = 0
ASKED_ENTRY = 1
ASKED_NEVER = 2
ASKED_IN_VAIN = 3

ENTRY_DONE = 0
ENTRY_GONE = 1
ENTRY_UNKNOWN = 2
ENTRY_WAITS = 3
ENTRY_UNFIT = 4
ENTRY_REFUSED = 5
ENTRY_MALFORMED = 6

END_NEW = 0
END_ESTABLISHED = 1
END_CLOSED = 2
END_FAILED = 3

_Ip = ctypes.c_uint8 * 16


class Address(ctypes.Structure):
    """Key of ``pod_addresses``."""

    _fields_ = (("ip", _Ip),)


class SocketAddressLayout(ctypes.Structure):
    """An address and a port, host order."""

    _fields_ = (("ip", _Ip), ("port", ctypes.c_uint16), ("zero", ctypes.c_uint16))


class Pod(ctypes.Structure):
    """Value of ``pods``."""

    _fields_ = (("ipv4", _Ip), ("ipv6", _Ip), ("flags", ctypes.c_uint32))


class ExcludedPort(ctypes.Structure):
    """Key of ``excluded_ports``."""

    _fields_ = (
        ("netns", ctypes.c_uint64),
        ("port", ctypes.c_uint16),
        ("direction", ctypes.c_uint16),
        ("zero", ctypes.c_uint32),
    )


class ExcludedNetwork(ctypes.Structure):
    """Key of ``excluded_nets``."""

    _fields_ = (("prefix_length", ctypes.c_uint32), ("netns", ctypes.c_uint32 * 2), ("ip", _Ip))


class Connection(ctypes.Structure):
    """Value of ``connections``."""

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("address", SocketAddressLayout),
        ("chosen", SocketAddressLayout),
        ("spliced", ctypes.c_uint32),
    )


class Handoff(ctypes.Structure):
    """Value of ``handoffs``."""

    _fields_ = (("destination", SocketAddressLayout), ("chosen", SocketAddressLayout))


class HandoffKey(ctypes.Structure):
    """Key of ``handoffs``."""

    _fields_ = (("netns", ctypes.c_uint64), ("source", SocketAddressLayout), ("zero", ctypes.c_uint32))


class FourTuple(ctypes.Structure):
    """Key of ``tickets``."""

    _fields_ = (
        ("source_ip", _Ip),
        ("destination_ip", _Ip),
        ("source_port", ctypes.c_uint16),
        ("destination_port", ctypes.c_uint16),
    )


class Ticket(ctypes.Structure):
    """Value of ``tickets``."""

    _fields_ = (
        ("issued_at", ctypes.c_uint64),
        ("has_client", ctypes.c_uint32),
        ("client", SocketAddressLayout),
        ("fast_client", ctypes.c_uint64),
        ("fast_destination", ctypes.c_uint64),
    )


class ListenerKey(ctypes.Structure):
    """Key of ``listeners``."""

    _fields_ = (("ip", _Ip), ("kind", ctypes.c_uint32), ("worker", ctypes.c_uint32))


class ListenerTurns(ctypes.Structure):
    """Value of ``listener_turns``."""

    _fields_ = (
        ("workers", ctypes.c_uint32),
        ("preferred", ctypes.c_uint32),
        ("turns", ctypes.c_uint32 * 4),
        ("preferred_until", ctypes.c_uint64),
    )


class FastState(ctypes.Structure):
    """Value of ``fast_state``."""

    _fields_ = (("alive_until", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("queue_limit", ctypes.c_uint32))


class FastKey(ctypes.Structure):
    """Key of ``fast_verdicts`` and ``fast_services``."""

    _fields_ = (
        ("netns", ctypes.c_uint64),
        ("ip", _Ip),
        ("port", ctypes.c_uint16),
        ("zero", ctypes.c_uint16),
        ("also_zero", ctypes.c_uint32),
    )


class FastVerdict(ctypes.Structure):
    """Value of ``fast_verdicts``."""

    _fields_ = (("generation", ctypes.c_uint64), ("destination_netns", ctypes.c_uint64))


class FastService(ctypes.Structure):
    """Value of ``fast_services``."""

    _fields_ = (("count", ctypes.c_uint32), ("zero", ctypes.c_uint32), ("slots", ctypes.c_uint32 * (FAST_SLOTS * 5)))


class FastFlow(ctypes.Structure):
    """Value of ``fast_flows``."""

    _fields_ = (
        ("own", ctypes.c_uint64),
        ("peer", ctypes.c_uint64),
        ("peer_cookie", ctypes.c_uint64),
        ("connection", ctypes.c_uint64),
        ("spliced", ctypes.c_uint64),
        ("tcp", ctypes.c_uint64),
        ("acked_before", ctypes.c_uint64),
        ("returned_at", ctypes.c_uint64),
        ("mark", ctypes.c_uint64),
        ("mode", ctypes.c_uint32),
        ("is_client", ctypes.c_uint32),
        ("entered", ctypes.c_uint32),
        ("waiting", ctypes.c_uint32),
        ("rests", ctypes.c_uint32),
        ("messages", ctypes.c_uint32),
        ("older_messages", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
    )


class FastConnection(ctypes.Structure):
    """Value of ``fast_connections`` and ``fast_closed``."""

    _fields_ = (
        ("source_netns", ctypes.c_uint64),
        ("destination_netns", ctypes.c_uint64),
        ("opened_at", ctypes.c_uint64),
        ("closed_at", ctypes.c_uint64),
        ("server_cookie", ctypes.c_uint64),
        ("sent", ctypes.c_uint64),
        ("received", ctypes.c_uint64),
        ("source", SocketAddressLayout),
        ("destination", SocketAddressLayout),
        ("dialled", SocketAddressLayout),
        ("client_end", ctypes.c_uint16),
        ("server_end", ctypes.c_uint16),
        ("asked", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
    )


class FastTalker(ctypes.Structure):
    """What is in ``fast_talkers``."""

    _fields_ = (
        ("client", ctypes.c_uint64),
        ("netns", ctypes.c_uint64),
        ("source", SocketAddressLayout),
        ("destination", SocketAddressLayout),
    )


class FastEntry(ctypes.Structure):
    """What ``mesh_enter`` and ``mesh_enter_leg`` are given."""

    _fields_ = (("cookie", ctypes.c_uint64), ("local", SocketAddressLayout), ("remote", SocketAddressLayout))


class Metadata(ctypes.Structure):
    """Value of ``metadata``."""

    _fields_ = (
        ("abi_version", ctypes.c_uint32),
        ("abilities", ctypes.c_uint32),
        ("program_digest", ctypes.c_uint8 * 32),
    )


CData = type[ctypes.Structure] | type[ctypes.c_uint32] | type[ctypes.c_uint64] | type[ctypes.c_int]


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Types of one map's key and value."""

    key: CData
    value: CData


MAPS: Mapping[str, MapLayout] = {
    "pods": MapLayout(ctypes.c_uint64, Pod),
    "pod_addresses": MapLayout(Address, ctypes.c_uint64),
    "excluded_ports": MapLayout(ExcludedPort, ctypes.c_uint32),
    "excluded_nets": MapLayout(ExcludedNetwork, ctypes.c_uint32),
    "caller_roles": MapLayout(ctypes.c_uint64, ctypes.c_uint32),
    "connections": MapLayout(ctypes.c_int, Connection),
    "handoffs": MapLayout(HandoffKey, Handoff),
    "tickets": MapLayout(FourTuple, Ticket),
    "listeners": MapLayout(ListenerKey, ctypes.c_uint64),
    "listener_turns": MapLayout(ctypes.c_uint32, ListenerTurns),
    "fast_state": MapLayout(ctypes.c_uint32, FastState),
    "fast_generations": MapLayout(ctypes.c_uint64, ctypes.c_uint64),
    "fast_verdicts": MapLayout(FastKey, FastVerdict),
    "fast_services": MapLayout(FastKey, FastService),
    "fast_connections": MapLayout(ctypes.c_uint64, FastConnection),
    "fast_closed": MapLayout(ctypes.c_uint64, FastConnection),
    "fast_flows": MapLayout(ctypes.c_uint64, FastFlow),
    "fast_sockets": MapLayout(ctypes.c_uint64, ctypes.c_uint64),
    "fast_talkers": MapLayout(ctypes.c_int, FastTalker),
    "counters": MapLayout(ctypes.c_uint32, ctypes.c_uint64),
    "metadata": MapLayout(ctypes.c_uint32, Metadata),
}


def ip_field(ip: IpBytes) -> ctypes.Array[ctypes.c_uint8]:
    """An address as the structs hold it."""
    return _Ip.from_buffer_copy(ip)


def read_ip(field: ctypes.Array[ctypes.c_uint8]) -> IpBytes:
    """An address out of a struct."""
    return IpBytes(bytes(field))

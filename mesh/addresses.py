"""Addresses, in the one form used throughout: 16 bytes, IPv4 as mapped IPv6 (RFC 4291 section 2.5.5.2).

One form means one key in every table, in the kernel's maps as in Python's, and no second code path for IPv6. The
newtypes keep look-alike values apart: the destination an application dialled, the peer seen on a socket, and the
target named inside a tunnel must never be mixed up.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import Final, NamedTuple, NewType

from mesh.errors import InvalidAddress

IpBytes = NewType("IpBytes", bytes)
"""16 bytes, network order; IPv4 as ``::ffff:a.b.c.d``."""

_MAPPED: Final = bytes(10) + b"\xff\xff"
IPV6_LOOPBACK: Final = IpBytes(bytes(15) + b"\x01")


class SocketAddress(NamedTuple):
    """An address and a port."""

    ip: IpBytes
    port: int

    def __str__(self) -> str:
        return address_text(self)


class Cidr(NamedTuple):
    """A network; ``length`` counts bits of the 16-byte form (an IPv4 /24 is 120)."""

    ip: IpBytes
    length: int

    def __str__(self) -> str:
        if is_ipv4(self.ip) and self.length >= 96:
            return f"{format_ip(self.ip)}/{self.length - 96}"
        # Not format_ip: as IPv4 an address that was not cut to so short a network would show another network.
        return f"{socket.inet_ntop(socket.AF_INET6, self.ip)}/{self.length}"

    def __contains__(self, ip: object) -> bool:
        # In the 16-byte form ::/0 would hold every IPv4 address too, but who writes it means IPv6.
        if not isinstance(ip, bytes) or (self.length < 96 and ip.startswith(_MAPPED)):
            return False
        shift = 128 - self.length
        return int.from_bytes(ip, "big") >> shift == int.from_bytes(self.ip, "big") >> shift


OriginalDestination = NewType("OriginalDestination", SocketAddress)
"""What the application dialled, before the mesh redirected it."""

PeerAddress = NewType("PeerAddress", SocketAddress)
"""The far end of a socket as the kernel reports it."""

HboneTarget = NewType("HboneTarget", SocketAddress)
"""The address in a CONNECT request's ``:authority``."""


@lru_cache(maxsize=65536)
def parse_ip(text: str) -> IpBytes:
    """Read ``10.0.0.1`` or ``fd00::1``; remembered, for those who meet the same address again and again.

    Raises:
        InvalidAddress: the text is no IP address (zones such as ``%eth0`` are not taken).
    """
    return read_ip(text)


def read_ip(text: str) -> IpBytes:
    """As ``parse_ip``, and not remembered: for those who read every address of a cluster once. Raises as that."""
    try:
        return IpBytes(_MAPPED + socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):  # ValueError: a NUL or a lone surrogate
        pass
    try:
        return IpBytes(socket.inet_pton(socket.AF_INET6, text))
    except (OSError, ValueError) as error:
        raise InvalidAddress(f"{text[:64]!r} is not an IP address") from error


def ip_from_packed(packed: bytes) -> IpBytes:
    """Take the 4 or 16 bytes of a wire message.

    Raises:
        InvalidAddress: any other length.
    """
    if len(packed) == 4:
        return IpBytes(_MAPPED + packed)
    if len(packed) == 16:
        return IpBytes(packed)
    raise InvalidAddress(f"an IP address has 4 or 16 bytes, not {len(packed)}")


def ip_to_packed(ip: IpBytes) -> bytes:
    """The shortest form: 4 bytes for IPv4, else 16."""
    return ip[12:] if ip.startswith(_MAPPED) else bytes(ip)


@lru_cache(maxsize=65536)
def format_ip(ip: IpBytes) -> str:
    """The usual text form; mapped IPv4 is shown as IPv4. Remembered, as ``parse_ip`` is."""
    return write_ip(ip)


def write_ip(ip: IpBytes) -> str:
    """As ``format_ip``, and not remembered."""
    if ip.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, ip[12:])
    return socket.inet_ntop(socket.AF_INET6, ip)


def address_text(address: SocketAddress) -> str:
    """What ``str`` says of it, without the detour through it: ``10.0.0.1:80`` or ``[fd00::1]:80``."""
    text = format_ip(address.ip)
    return f"[{text}]:{address.port}" if ":" in text else f"{text}:{address.port}"


def is_ipv4(ip: IpBytes) -> bool:
    """Whether this is a mapped IPv4 address."""
    return ip.startswith(_MAPPED)


def is_loopback(ip: IpBytes) -> bool:
    """127.0.0.0/8 or ::1."""
    return ip == IPV6_LOOPBACK or (ip.startswith(_MAPPED) and ip[12] == 127)


def parse_socket_address(text: str) -> SocketAddress:
    """Read ``10.0.0.1:80`` or ``[fd00::1]:80``.

    Raises:
        InvalidAddress: not an address and a port of 1 to 65535.
    """
    host, separator, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidAddress(f"{text[:64]!r}: an IPv6 address needs brackets before its port")
    port = parse_port(port_text) if separator else 0
    if not port:
        raise InvalidAddress(f"{text[:64]!r} does not end in a port of 1 to 65535")
    return SocketAddress(parse_ip(host), port)


def parse_port(text: str) -> int:
    """Read a port of 1 to 65535 in at most five ASCII digits; 0 when it is none."""
    if len(text) > 5 or not text.isascii() or not text.isdigit():
        return 0
    port = int(text)
    return port if port < 65536 else 0


def parse_cidr(text: str) -> Cidr:
    """Read ``10.0.0.0/8``, ``fd00::/64`` or a single address; host bits are dropped, as Kubernetes' fields allow them.

    Raises:
        InvalidAddress: not a network.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidAddress(f"{text[:64]!r} is not a network such as 10.0.0.0/8") from error
    extra = 96 if network.version == 4 else 0
    return Cidr(ip_from_packed(network.network_address.packed), network.prefixlen + extra)


def from_sockaddr(sockaddr: tuple[object, ...]) -> SocketAddress:
    """Convert what ``accept``, ``getsockname`` and ``getpeername`` return for AF_INET and AF_INET6."""
    host, port = sockaddr[0], sockaddr[1]
    assert isinstance(host, str)
    assert isinstance(port, int)
    return SocketAddress(parse_ip(host), port)


def to_sockaddr(address: SocketAddress) -> tuple[str, int]:
    """For ``connect`` and ``bind`` of a socket of the address's own family."""
    return format_ip(address.ip), address.port

"""A table of networks that finds the most specific one holding an address.

One dictionary per prefix length: a look-up asks one dictionary per length in use, the longest first, which for the few
lengths of real tables beats any tree in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from mesh.addresses import Cidr, IpBytes, is_ipv4

Value = TypeVar("Value")

# IPv4 addresses live in ::ffff:0:0/96.
_MAPPED_PREFIX = 0xFFFF
_MAPPED = _MAPPED_PREFIX << 32


class CidrTable(Generic[Value]):
    """Networks to values; host bits of a network are ignored."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, Value]] = {}
        # (bits to drop, table), the longest prefix first; rebuilt when a length appears or goes. IPv4 addresses are
        # looked for in IPv4 networks only: in the 16-byte form ::/0 would hold them all.
        self._order: list[tuple[int, dict[int, Value]]] = []
        self._ipv4_order: list[tuple[int, dict[int, Value]]] = []

    def __len__(self) -> int:
        return sum(len(table) for table in self._by_length.values())

    def insert(self, network: Cidr, value: Value) -> None:
        """Add a network or replace its value."""
        table = self._by_length.get(network.length)
        if table is None:
            table = self._by_length[network.length] = {}
            self._reorder()
        table[_prefix(network)] = value

    def remove(self, network: Cidr) -> Value | None:
        """Take a network out; what it held, None if it was not there."""
        table = self._by_length.get(network.length)
        if table is None:
            return None
        value = table.pop(_prefix(network), None)
        if not table:
            del self._by_length[network.length]
            self._reorder()
        return value

    def exact(self, network: Cidr) -> Value | None:
        """The value of this very network."""
        return self._by_length.get(network.length, {}).get(_prefix(network))

    def lookup(self, ip: IpBytes) -> Value | None:
        """The value of the most specific network that holds ``ip``."""
        if not self._order:
            return None
        number = int.from_bytes(ip, "big")
        for shift, table in self._ipv4_order if is_ipv4(ip) else self._order:
            value = table.get(number >> shift)
            if value is not None:
                return value
        return None

    def _reorder(self) -> None:
        self._order = [(128 - length, self._by_length[length]) for length in sorted(self._by_length, reverse=True)]
        self._ipv4_order = [(shift, table) for shift, table in self._order if shift <= 32]


def _prefix(network: Cidr) -> int:
    return int.from_bytes(network.ip, "big") >> (128 - network.length)


def contained_in(networks: tuple[Cidr, ...]) -> Callable[[int], bool]:
    """A function that tells whether an address, as the number of its 16 bytes, is in any of a few networks."""
    prefixes = tuple({(128 - cidr.length, int.from_bytes(cidr.ip, "big") >> (128 - cidr.length)) for cidr in networks})
    # In the 16-byte form ::/0 would hold every IPv4 address too, but who writes it means IPv6.
    ipv6_only = frozenset((shift, prefix) for shift, prefix in prefixes if shift > 32 and _MAPPED >> shift == prefix)

    def contained(ip: int) -> bool:
        for shift, prefix in prefixes:
            if ip >> shift == prefix and not (ip >> 32 == _MAPPED_PREFIX and (shift, prefix) in ipv6_only):
                return True
        return False

    return contained

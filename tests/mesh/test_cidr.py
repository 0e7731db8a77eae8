from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.addresses import Cidr, IpBytes, format_ip, ip_from_packed, parse_cidr, parse_ip
from mesh.cidr import CidrTable


def test_the_most_specific_network_wins() -> None:
    table: CidrTable[str] = CidrTable()
    for text in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "fd00::/64", "0.0.0.0/0"):
        table.insert(parse_cidr(text), text)
    assert table.lookup(parse_ip("10.1.2.3")) == "10.1.2.3"
    assert table.lookup(parse_ip("10.1.2.4")) == "10.1.0.0/16"
    assert table.lookup(parse_ip("10.2.0.1")) == "10.0.0.0/8"
    assert table.lookup(parse_ip("11.0.0.1")) == "0.0.0.0/0"
    assert table.lookup(parse_ip("fd00::5")) == "fd00::/64"
    assert table.lookup(parse_ip("fd01::5")) is None
    assert len(table) == 5


def test_removal_uncovers_the_wider_network() -> None:
    table: CidrTable[str] = CidrTable()
    table.insert(parse_cidr("10.0.0.0/8"), "wide")
    table.insert(parse_cidr("10.1.0.0/16"), "narrow")
    assert table.remove(parse_cidr("10.1.0.0/16")) == "narrow"
    assert table.remove(parse_cidr("10.1.0.0/16")) is None
    assert table.remove(parse_cidr("10.2.0.0/8")) == "wide"  # Host bits do not count.
    assert table.lookup(parse_ip("10.1.0.1")) is None
    assert len(table) == 0


@pytest.mark.parametrize("wide", ["::/0", "::/64", "::/80"])
def test_ipv6_networks_hold_no_ipv4_address(wide: str) -> None:
    table: CidrTable[str] = CidrTable()
    table.insert(parse_cidr(wide), wide)
    assert table.lookup(parse_ip("10.0.0.1")) is None
    assert table.lookup(parse_ip("::1")) == wide


standard = st.ip_addresses() | st.sampled_from(
    ["10.0.0.1", "10.0.1.1", "10.1.0.1", "fd00::1", "fd00::1:1"]
).map(ipaddress.ip_address)
ips = standard.map(lambda address: ip_from_packed(address.packed))
networks = st.tuples(standard, st.integers(0, 128)).map(
    lambda pair: parse_cidr(f"{pair[0]}/{pair[1] % (pair[0].max_prefixlen + 1)}")
)


def naive(entries: dict[Cidr, int], ip: IpBytes) -> int | None:
    address = ipaddress.ip_address(format_ip(ip))
    holding = [(cidr.length, value) for cidr, value in entries.items() if address in ipaddress.ip_network(str(cidr))]
    return max(holding)[1] if holding else None


@given(st.lists(networks, max_size=8), st.lists(networks, max_size=3), st.lists(ips, min_size=1, max_size=5))
def test_agrees_with_the_standard_library(inserted: list[Cidr], removed: list[Cidr], asked: list[IpBytes]) -> None:
    table: CidrTable[int] = CidrTable()
    entries: dict[Cidr, int] = {}
    for number, cidr in enumerate(inserted):
        table.insert(cidr, number)
        entries[cidr] = number
    for cidr in [*removed, *inserted[::2]]:
        assert table.remove(cidr) == entries.pop(cidr, None)
    assert len(table) == len(entries)
    for ip in [*asked, *(cidr.ip for cidr in inserted)]:
        assert table.lookup(ip) == naive(entries, ip)
    for cidr, value in entries.items():
        assert table.exact(cidr) == value

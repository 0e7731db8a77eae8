from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.addresses import (
    Cidr,
    IpBytes,
    SocketAddress,
    format_ip,
    from_sockaddr,
    ip_from_packed,
    ip_to_packed,
    is_ipv4,
    is_loopback,
    parse_cidr,
    parse_ip,
    parse_socket_address,
)
from mesh.errors import InvalidAddress

standard = st.ip_addresses()
ips = standard.map(lambda address: ip_from_packed(address.packed))


@given(standard)
def test_agrees_with_the_standard_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    ip = parse_ip(str(address))
    assert len(ip) == 16
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert format_ip(ip) == str(mapped or address)
    assert is_ipv4(ip) == (address.version == 4 or mapped is not None)
    assert is_loopback(ip) == (mapped or address).is_loopback
    assert ip_from_packed(ip_to_packed(ip)) == ip


@given(ips, st.integers(1, 65535))
def test_socket_addresses_are_read_back(ip: IpBytes, port: int) -> None:
    address = SocketAddress(ip, port)
    assert parse_socket_address(str(address)) == address
    assert from_sockaddr((format_ip(ip), port)) == address
    assert from_sockaddr((format_ip(ip), port, 0, 0)) == address


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "256.0.0.1", "01.2.3.4", "fd00::1::2", "fe80::1%eth0", "localhost", " 1.2.3.4"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidAddress):
        parse_ip(text)


@pytest.mark.parametrize(
    "text",
    ["", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:8o", "1.2.3.4:-1", "1.2.3.4:+1", "fd00::1:80",
     "[fd00::1]", "[fd00::1]80", ":80", "1.2.3.4:\u0661", "1.2.3.4:" + "9" * 5000, "1.2.3.4: 80"],
)
def test_what_is_no_socket_address(text: str) -> None:
    with pytest.raises(InvalidAddress):
        parse_socket_address(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    for parse in (parse_ip, parse_socket_address, parse_cidr):
        try:
            parse(text)
        except InvalidAddress:
            pass


@pytest.mark.parametrize("length", [0, 1, 3, 5, 15, 17])
def test_only_4_and_16_bytes_are_addresses(length: int) -> None:
    with pytest.raises(InvalidAddress):
        ip_from_packed(bytes(length))


@given(standard, st.integers(0, 128), ips)
def test_networks_agree_with_the_standard_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int, asked: IpBytes
) -> None:
    text = f"{address}/{length % (address.max_prefixlen + 1)}"
    cidr = parse_cidr(text)
    network = ipaddress.ip_network(text, strict=False)
    assert parse_cidr(str(cidr)) == cidr
    if isinstance(network, ipaddress.IPv4Network):
        assert str(cidr) == str(network)
    for ip in (asked, ip_from_packed(network.broadcast_address.packed), ip_from_packed(address.packed)):
        assert (ip in cidr) == (ipaddress.ip_address(format_ip(ip)) in ipaddress.ip_network(str(cidr)))


def test_a_short_network_is_shown_as_the_ipv6_network_it_is() -> None:
    cidr = Cidr(parse_ip("10.0.0.1"), 64)
    assert str(cidr) == "::ffff:10.0.0.1/64"
    assert parse_ip("::1") in cidr
    assert parse_ip("::1") in parse_cidr(str(cidr))


def test_ipv6_networks_hold_no_ipv4_address() -> None:
    assert parse_ip("10.0.0.1") not in parse_cidr("::/0")
    assert parse_ip("::1") in parse_cidr("::/0")
    assert parse_ip("::1") not in parse_cidr("0.0.0.0/0")
    assert object() not in parse_cidr("10.0.0.0/8")

"""Listening inside a network namespace."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ebpf.listeners import ListenerKind
from mesh import ports
from mesh.addresses import IpBytes, parse_ip
from mesh.errors import EnvironmentLacks
from mesh.netns import NetworkNamespace
from ztunnel.inpod.listeners import PodListeners

pytestmark = pytest.mark.root

BOTH = ("10.0.0.1", "fd00::1")


@pytest.fixture
def namespace(resource_prefix: str) -> Iterator[NetworkNamespace]:
    subprocess.run(["ip", "netns", "add", resource_prefix], check=True)
    try:
        subprocess.run(["ip", "-n", resource_prefix, "link", "set", "lo", "up"], check=True)
        with NetworkNamespace.open(Path("/run/netns") / resource_prefix) as opened:
            yield opened
    finally:
        subprocess.run(["ip", "netns", "del", resource_prefix], check=True)


class Table:
    """Remembers what was registered."""

    def __init__(self) -> None:
        self.registered: list[tuple[ListenerKind, int, int]] = []
        self.failure: Exception | None = None

    def register(self, addresses: Any, kind: ListenerKind, listener: int, family: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.registered.append((kind, socket.socket(fileno=listener).detach(), family))


def pod(namespace: NetworkNamespace, *addresses: str) -> Any:
    parsed = tuple(map(parse_ip, addresses))

    def address(*, ipv4: bool) -> IpBytes | None:
        return next((ip for ip in parsed if ip.startswith(bytes(10) + b"\xff\xff") == ipv4), None)

    return SimpleNamespace(
        namespace=namespace, addresses=parsed, address=address, name="demo/web", mesh_ports=ports.IN_POD
    )


@pytest.mark.parametrize(("addresses", "families"), [(BOTH, 2), (BOTH[:1], 1), (BOTH[1:], 1)])
def test_every_family_of_the_pod(namespace: NetworkNamespace, addresses: tuple[str, ...], families: int) -> None:
    table: Any = Table()
    listeners = PodListeners(pod(namespace, *addresses), table)
    found = [sorted(sock.getsockname()[:2] for sock in kind) for kind in (listeners.outbound, listeners.plaintext)]
    assert all(host in ("127.0.0.1", "::1") and port == ports.OUTBOUND for host, port in found[0])
    assert all(host in ("0.0.0.0", "::") and port == ports.PLAINTEXT for host, port in found[1])
    assert [len(kind) for kind in (listeners.outbound, listeners.plaintext, listeners.hbone)] == [families] * 3
    assert len(table.registered) == 3 * families
    for sock in listeners.plaintext + listeners.hbone + listeners.outbound:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    listeners.close()
    listeners.close()


def test_a_new_ztunnel_may_listen_beside_the_old_one(namespace: NetworkNamespace) -> None:
    table: Any = Table()
    first, second = (PodListeners(pod(namespace, *BOTH), table) for _ in range(2))
    first.close()
    second.close()


def test_a_port_that_a_process_of_the_pod_holds(namespace: NetworkNamespace) -> None:
    """Another one will do, since arrivals are led to the socket; but nobody may be delivered to it."""
    table: Any = Table()
    served = pod(namespace, *BOTH)
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("0.0.0.0", ports.PLAINTEXT))
        taken.listen()
        listeners = PodListeners(served, table)
    ours = {sock.getsockname()[1] for sock in listeners.plaintext + listeners.hbone + listeners.outbound}
    listeners.close()
    assert ports.PLAINTEXT in ours  # IPv6 was free
    assert len(ours) == 4
    assert ours <= served.mesh_ports


def test_a_full_table_leaves_nothing_open(namespace: NetworkNamespace) -> None:
    table: Any = Table()
    table.failure = EnvironmentLacks("full")
    with pytest.raises(EnvironmentLacks, match="full"):
        PodListeners(pod(namespace, *BOTH), table)
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as free:
        free.bind(("0.0.0.0", ports.HBONE))
        free.listen()

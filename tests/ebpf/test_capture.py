"""Outbound capture with real sockets: what is taken, what is left alone, what both applications see."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from typing import Any

import pytest

from ebpf.counters import Counters
from ebpf.pods import Exclusions, PodEntry, PodTable
from ebpf.reasons import Reason
from mesh.addresses import parse_cidr, parse_ip

pytestmark = pytest.mark.root

IPPROTO_MPTCP = 262
SO_BINDTODEVICE = 25


def counted(node: Any, reason: Reason) -> int:
    with Counters(node.paths) as counters:
        return counters.read()[reason]


def test_ipv4_between_two_pods(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080)
    seen = mesh.places["a"].run(kit.call, "10.244.1.3", 8080)
    assert seen.peer == ("10.244.1.3", 8080)
    assert seen.local[0] == "10.244.1.2"
    client = f"::ffff:10.244.1.2 {seen.local[1]}"
    assert seen.answer == f"{client} {client}\n"


def test_ipv6_between_two_pods(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080)
    seen = mesh.places["a"].run(kit.call, "fd00:10:244:1::3", 8080, socket.AF_INET6)
    assert seen.peer == ("fd00:10:244:1::3", 8080)
    assert seen.local[0] == "fd00:10:244:1::2"
    client = f"fd00:10:244:1::2 {seen.local[1]}"
    assert seen.answer == f"{client} {client}\n"


def test_mapped_ipv4_on_an_ipv6_socket(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    seen = mesh.places["a"].run(kit.call, "::ffff:10.244.1.3", 8080, socket.AF_INET6)
    assert seen.peer == ("::ffff:10.244.1.3", 8080)
    assert seen.local[0] == "::ffff:10.244.1.2"
    client = f"10.244.1.2 {seen.local[1]}"
    assert seen.answer == f"{client} {client}\n"


def test_what_leaves_for_the_world_leaves_through_ztunnel(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["c"], 8080, socket.AF_INET, "0.0.0.0")
    seen = mesh.places["a"].run(kit.call, "10.244.1.4", 8080)
    assert seen.peer == ("10.244.1.4", 8080)
    address, port = seen.answer.split()[:2]
    assert address == "10.244.1.2"
    assert int(port) != seen.local[1]  # the second leg is ztunnel's


@pytest.mark.parametrize("host", ["10.244.1.2", "0.0.0.0"])
def test_a_pod_reaches_itself_untouched(mesh: Any, kit: Any, host: str) -> None:
    kit.start_server(mesh.places["a"], 8080, socket.AF_INET, "0.0.0.0")
    before = counted(mesh, Reason.TICKET_ITSELF)
    seen = mesh.places["a"].run(kit.call, host, 8080, socket.AF_INET, ("10.244.1.2", 0))
    client = f"10.244.1.2 {seen.local[1]}"
    assert seen.answer == f"{client} {client}\n"
    assert counted(mesh, Reason.TICKET_ITSELF) == before + 1


def test_a_pod_reaches_itself_by_ipv6(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["a"], 8080)
    seen = mesh.places["a"].run(kit.call, "fd00:10:244:1::2", 8080, socket.AF_INET6)
    client = f"fd00:10:244:1::2 {seen.local[1]}"
    assert seen.answer == f"{client} {client}\n"


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_loopback_is_untouched(mesh: Any, kit: Any, host: str, family: int) -> None:
    kit.start_server(mesh.places["a"], 8080, family, host)
    before = counted(mesh, Reason.OUTBOUND_CAPTURED)
    seen = mesh.places["a"].run(kit.call, host, 8080, family)
    assert seen.peer == (host, 8080)
    assert seen.answer == f"{host} {seen.local[1]} {host} {seen.local[1]}\n"
    assert counted(mesh, Reason.OUTBOUND_CAPTURED) == before


@pytest.mark.parametrize(
    ("exclusions", "reason"),
    [
        (Exclusions(outbound_ports=frozenset({8080})), Reason.OUTBOUND_EXCLUDED_PORT),
        (Exclusions(outbound_cidrs=frozenset({parse_cidr("10.244.1.4/31")})), Reason.OUTBOUND_EXCLUDED_NETWORK),
    ],
)
def test_excluded_destinations_are_dialled_directly(
    mesh: Any, kit: Any, exclusions: Exclusions, reason: Reason
) -> None:
    mesh.enrol("a", exclusions)
    kit.start_server(mesh.places["c"], 8080, socket.AF_INET, "0.0.0.0")
    kit.start_server(mesh.places["c"], 8081, socket.AF_INET, "0.0.0.0")
    before = counted(mesh, reason)
    seen = mesh.places["a"].run(kit.call, "10.244.1.4", 8080)
    assert seen.answer.split()[:2] == ["10.244.1.2", str(seen.local[1])]
    assert counted(mesh, reason) == before + 1
    if exclusions.outbound_ports:
        other = mesh.places["a"].run(kit.call, "10.244.1.4", 8081)
        assert other.answer.split()[1] != str(other.local[1])
    else:
        kit.start_server(mesh.places["b"], 8082, socket.AF_INET, "0.0.0.0")
        captured = counted(mesh, Reason.OUTBOUND_CAPTURED)
        mesh.places["a"].run(kit.call, "10.244.1.3", 8082)
        assert counted(mesh, Reason.OUTBOUND_CAPTURED) == captured + 1


def test_all_of_ipv6_excluded_leaves_ipv4_captured(mesh: Any, kit: Any) -> None:
    everything, documentation = parse_cidr("::/0"), parse_cidr("198.51.100.0/24")
    mesh.enrol("a", Exclusions(outbound_cidrs=frozenset({everything, documentation})))
    with PodTable(mesh.paths) as table:
        assert everything in table.enrolled()[mesh.places["a"].uid].entry.exclusions.outbound_cidrs
    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    kit.start_server(mesh.places["b"], 8081, socket.AF_INET6, "::")
    excluded, captured = counted(mesh, Reason.OUTBOUND_EXCLUDED_NETWORK), counted(mesh, Reason.OUTBOUND_CAPTURED)
    mesh.places["a"].run(kit.call, "10.244.1.3", 8080)
    assert counted(mesh, Reason.OUTBOUND_CAPTURED) == captured + 1
    assert counted(mesh, Reason.OUTBOUND_EXCLUDED_NETWORK) == excluded
    mesh.places["a"].run(kit.call, mesh.places["b"].ipv6, 8081, socket.AF_INET6)
    assert counted(mesh, Reason.OUTBOUND_CAPTURED) == captured + 1
    assert counted(mesh, Reason.OUTBOUND_EXCLUDED_NETWORK) == excluded + 1


def test_another_pods_exclusions_are_not_mine(mesh: Any, kit: Any) -> None:
    mesh.enrol("b", Exclusions(frozenset({8080}), frozenset({8080}), frozenset({parse_cidr("0.0.0.0/0")})))
    kit.start_server(mesh.places["c"], 8080, socket.AF_INET, "0.0.0.0")
    seen = mesh.places["a"].run(kit.call, "10.244.1.4", 8080)
    assert seen.answer.split()[1] != str(seen.local[1])


def test_a_mark_does_not_make_a_ztunnel(mesh: Any, kit: Any) -> None:
    def call_marked() -> str:
        with socket.socket() as client:
            client.settimeout(10)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1337)
            client.connect(("10.244.1.4", 8080))
            return client.makefile().read().split()[1] + f" {client.getsockname()[1]}"

    kit.start_server(mesh.places["c"], 8080, socket.AF_INET, "0.0.0.0")
    port, local = mesh.places["a"].run(call_marked).split()
    assert port != local


def test_an_application_that_dials_ztunnels_port_is_told_apart(mesh: Any, kit: Any) -> None:
    before = counted(mesh, Reason.HANDOFF_MISSING)
    assert mesh.places["a"].run(kit.call, "127.0.0.1", 15001).answer == "no original destination\n"
    assert counted(mesh, Reason.HANDOFF_MISSING) == before + 1


def test_a_nonblocking_connect(mesh: Any, kit: Any) -> None:
    def call_nonblocking() -> tuple[int, int, tuple[str, int], str]:
        with socket.socket() as client:
            client.setblocking(False)
            begun = client.connect_ex(("10.244.1.3", 8080))
            select.select([], [client], [], 10)
            done = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            client.setblocking(True)
            return begun, done, client.getpeername(), client.makefile().read()

    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    begun, done, peer, answer = mesh.places["a"].run(call_nonblocking)
    assert begun in (0, errno.EINPROGRESS)
    assert (done, peer) == (0, ("10.244.1.3", 8080))
    assert answer.startswith("10.244.1.2 ")


def test_a_socket_bound_to_a_device_is_captured(mesh: Any, kit: Any) -> None:
    def call_by_device() -> tuple[tuple[str, int], str]:
        with socket.socket() as client:
            client.settimeout(10)
            client.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0")
            client.connect(("10.244.1.3", 8080))
            return client.getpeername(), client.makefile().read()

    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    before = counted(mesh, Reason.OUTBOUND_CAPTURED)
    peer, answer = mesh.places["a"].run(call_by_device)
    assert peer == ("10.244.1.3", 8080)
    assert answer.startswith("10.244.1.2 ")
    assert counted(mesh, Reason.OUTBOUND_CAPTURED) == before + 1


@pytest.mark.parametrize("bind", [("10.244.1.2", 0), ("10.244.1.2", 40404), ("0.0.0.0", 40405)])
def test_a_socket_the_application_bound_is_captured(mesh: Any, kit: Any, bind: tuple[str, int]) -> None:
    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    before = counted(mesh, Reason.OUTBOUND_CAPTURED)
    seen = mesh.places["a"].run(kit.call, "10.244.1.3", 8080, socket.AF_INET, bind)
    assert seen.peer == ("10.244.1.3", 8080)
    assert seen.local[0] == "10.244.1.2"
    assert bind[1] in (0, seen.local[1])
    assert seen.answer.split()[:2] == ["10.244.1.2", str(seen.local[1])]
    assert counted(mesh, Reason.OUTBOUND_CAPTURED) == before + 1


def test_an_ipv6_socket_with_a_bound_port_is_captured(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080)
    for host, own in (("fd00:10:244:1::3", "fd00:10:244:1::2"), ("::ffff:10.244.1.3", "::ffff:10.244.1.2")):
        seen = mesh.places["a"].run(kit.call, host, 8080, socket.AF_INET6, ("::", 40406))
        assert (seen.peer, seen.local) == ((host, 8080), (own, 40406))
        assert seen.answer.split()[:2] == [own, "40406"]


def test_a_second_connect_of_a_socket_forgets_the_first(mesh: Any, kit: Any) -> None:
    def call_twice() -> tuple[tuple[str, int], tuple[str, int]]:
        with socket.socket() as client:
            client.settimeout(10)
            client.connect(("10.244.1.3", 8080))
            first = client.getpeername()
            unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
            disconnect(client.fileno(), unspecified)
            client.connect(("127.0.0.1", 8081))
            return first, client.getpeername()

    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    kit.start_server(mesh.places["a"], 8081, socket.AF_INET, "127.0.0.1")
    assert mesh.places["a"].run(call_twice) == (("10.244.1.3", 8080), ("127.0.0.1", 8081))


def disconnect(fd: int, address: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(fd, address, len(address)) == 0, os.strerror(ctypes.get_errno())


def test_fast_open_is_captured(mesh: Any, kit: Any) -> None:
    def call_with_data() -> tuple[str, int]:
        with socket.socket() as client:
            client.sendto(b"hello", socket.MSG_FASTOPEN, ("10.244.1.3", 8080))
            peer: tuple[str, int] = client.getpeername()
            return peer

    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    before = counted(mesh, Reason.OUTBOUND_CAPTURED)
    assert mesh.places["a"].run(call_with_data) == ("10.244.1.3", 8080)
    assert counted(mesh, Reason.OUTBOUND_CAPTURED) == before + 1


def test_multipath_tcp_does_not_slip_by(mesh: Any, kit: Any) -> None:
    """Captured as any other; only getpeername still shows ztunnel, for the kernel asks about another socket there."""

    def call_multipath() -> tuple[int, str] | None:
        try:
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        except OSError:
            return None  # a kernel without it
        with client:
            client.settimeout(10)
            client.connect(("10.244.1.4", 8080))
            return client.getsockname()[1], client.makefile().read()

    kit.start_server(mesh.places["c"], 8080, socket.AF_INET, "0.0.0.0")
    before = counted(mesh, Reason.OUTBOUND_CAPTURED)
    seen = mesh.places["a"].run(call_multipath)
    if seen is not None:
        local, answer = seen
        assert answer.split()[1] != str(local)
        assert counted(mesh, Reason.OUTBOUND_CAPTURED) == before + 1


def test_a_server_that_listens_with_multipath_tcp_sees_the_true_client(mesh: Any, kit: Any) -> None:
    def accept_once(tell: int) -> str:
        try:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        except OSError:
            listener = socket.socket()  # a kernel without it
        with listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("0.0.0.0", 8080))
            listener.listen()
            os.write(tell, b"r")
            accepted, peer = listener.accept()
            with accepted:
                return f"{peer} {accepted.getpeername()}"

    ready, tell = os.pipe()
    server = mesh.places["b"].start(accept_once, tell)
    os.close(tell)
    assert os.read(ready, 1) == b"r"
    os.close(ready)
    client = ("10.244.1.2", mesh.places["a"].run(kit.call, "10.244.1.3", 8080).local[1])
    assert server.join() == f"{client} {client}"


def test_a_family_the_pod_lacks_is_unreachable(mesh: Any, kit: Any) -> None:
    pod = mesh.places["a"]
    with PodTable(mesh.paths) as table:
        table.enrol(pod.namespace.cookie(), PodEntry((parse_ip(pod.ipv4),)), pod.namespace, pod.uid)
    with pytest.raises(OSError, match="unreachable") as caught:
        pod.run(kit.call, "fd00:10:244:1::3", 8080, socket.AF_INET6)
    assert caught.value.errno == errno.ENETUNREACH


def test_link_local_destinations_are_refused_unless_excluded(mesh: Any, kit: Any) -> None:
    def connect_link_local() -> int:
        with socket.socket(socket.AF_INET6) as client:
            client.settimeout(3)
            return client.connect_ex(("fe80::1234", 9, 0, socket.if_nametoindex("eth0")))

    assert mesh.places["a"].run(connect_link_local) == errno.ENETUNREACH
    before = counted(mesh, Reason.OUTBOUND_EXCLUDED_NETWORK)
    mesh.enrol("a", Exclusions(outbound_cidrs=frozenset({parse_cidr("fe80::/10")})))
    assert mesh.places["a"].run(connect_link_local) != errno.ENETUNREACH
    assert counted(mesh, Reason.OUTBOUND_EXCLUDED_NETWORK) == before + 1


def test_udp_is_untouched(mesh: Any) -> None:
    def answer_once() -> tuple[str, int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("0.0.0.0", 5300))
            server.settimeout(10)
            data, peer = server.recvfrom(100)
            server.sendto(data.upper(), peer)
            return str(peer[0]), int(peer[1])

    def ask() -> tuple[bytes, tuple[str, int], tuple[str, int]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("10.244.1.3", 5300))
            client.settimeout(0.2)
            for _ in range(50):
                client.send(b"ping")
                try:
                    return client.recv(100), client.getpeername(), client.getsockname()
                except (TimeoutError, ConnectionRefusedError):
                    continue
            raise TimeoutError

    server = mesh.places["b"].start(answer_once)
    answer, peer, local = mesh.places["a"].run(ask)
    assert (answer, peer) == (b"PING", ("10.244.1.3", 5300))
    assert server.join() == local

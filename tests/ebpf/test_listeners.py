"""ztunnel's listeners in the map that sk_lookup reads."""

from __future__ import annotations

import select
import socket
from typing import Any

import pytest

from ebpf.listeners import ListenerKind, ListenerTable, socket_cookie
from mesh.errors import InternalError

pytestmark = pytest.mark.root


def test_a_listener_serves_the_families_it_can(mesh: Any, kit: Any) -> None:
    """One dual-stack listener for all of a pod's addresses; forgetting it leaves what another registered."""
    pod = mesh.places["b"]
    mesh.stop_ztunnel()

    def listen() -> socket.socket:
        made: socket.socket = pod.namespace.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::", 0))
        made.listen()
        made.settimeout(10)
        return made

    def accepts(listener: socket.socket, host: str, family: int) -> bool:
        client = mesh.places["c"].start(kit.call, host, 8080, family)
        accepted, _ = listener.accept()
        with accepted:
            local = accepted.getsockname()
        client.join()
        return bool(local[1] == 8080 and local[0].removeprefix("::ffff:") == host)

    with listen() as first, listen() as second, ListenerTable(mesh.paths) as table:
        table.register(pod.addresses, ListenerKind.PLAINTEXT, first.fileno(), socket.AF_INET6)
        assert accepts(first, "10.244.1.3", socket.AF_INET)
        assert accepts(first, "fd00:10:244:1::3", socket.AF_INET6)
        table.register(pod.addresses, ListenerKind.PLAINTEXT, second.fileno(), socket.AF_INET6)
        table.forget(pod.addresses, ListenerKind.PLAINTEXT, first.fileno())
        assert accepts(second, "10.244.1.3", socket.AF_INET)
        table.forget(pod.addresses, ListenerKind.PLAINTEXT, second.fileno())
        with pytest.raises(ConnectionRefusedError):
            mesh.places["c"].run(kit.call, "10.244.1.3", 8080)


def test_workers_take_turns_and_those_that_are_gone_are_passed_over(mesh: Any, kit: Any) -> None:
    pod = mesh.places["b"]
    mesh.stop_ztunnel()

    def listen() -> socket.socket:
        made: socket.socket = pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        made.bind(("0.0.0.0", 0))
        made.listen()
        return made

    def arrivals(calls: int, listeners: list[socket.socket]) -> list[int]:
        """How many connections each listener is given."""
        counts = [0] * len(listeners)
        for _ in range(calls):
            client = mesh.places["c"].start(kit.call, "10.244.1.3", 8080)
            ready, _, _ = select.select(listeners, [], [], 10)
            assert len(ready) == 1
            accepted, _ = ready[0].accept()
            accepted.close()
            client.join()
            counts[listeners.index(ready[0])] += 1
        return counts

    tables = [ListenerTable(mesh.paths, worker) for worker in range(3)]
    listeners = [listen() for _ in tables]
    try:
        for table, listener in zip(tables, listeners, strict=True):
            table.register(pod.addresses, ListenerKind.PLAINTEXT, listener.fileno(), socket.AF_INET)
        assert arrivals(2, listeners) == [2, 0, 0]  # one worker, until told otherwise
        tables[0].share_among(3)
        assert arrivals(6, listeners) == [2, 2, 2]
        listeners.pop(1).close()  # as if its process had died: the map forgets the socket by itself
        counts = arrivals(6, listeners)
        assert sum(counts) == 6
        assert min(counts) >= 2
        listeners.pop(0).close()
        assert arrivals(3, listeners) == [3]
        listeners.pop().close()
        with pytest.raises(ConnectionRefusedError):
            mesh.places["c"].run(kit.call, "10.244.1.3", 8080)
    finally:
        for listener in listeners:
            listener.close()
        for table in tables:
            table.close()


def test_a_worker_may_ask_for_what_applications_dial(mesh: Any, kit: Any) -> None:
    pod = mesh.places["a"]
    mesh.stop_ztunnel()
    tables = [ListenerTable(mesh.paths, worker) for worker in range(2)]
    outbound: list[socket.socket] = []
    plaintext: list[socket.socket] = []
    try:
        for kind, listeners, address in (
            (ListenerKind.OUTBOUND, outbound, ("127.0.0.1", 15001)),
            (ListenerKind.PLAINTEXT, plaintext, ("0.0.0.0", 0)),
        ):
            for table in tables:
                made = pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                listeners.append(made)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                made.bind(address)
                made.listen()
                table.register(pod.addresses, kind, made.fileno(), socket.AF_INET)

        def arrivals(place: str, address: str, listeners: list[socket.socket]) -> list[int]:
            counts = [0, 0]
            for _ in range(4):
                client = mesh.places[place].start(kit.call, address, 8080)
                ready, _, _ = select.select(listeners, [], [], 10)
                assert len(ready) == 1
                ready[0].accept()[0].close()
                client.join()
                counts[listeners.index(ready[0])] += 1
            return counts

        tables[0].share_among(2)
        assert arrivals("a", "10.244.1.3", outbound) == [2, 2]
        tables[1].prefer(3600)
        assert arrivals("a", "10.244.1.3", outbound) == [0, 4]
        assert arrivals("c", "10.244.1.2", plaintext) == [2, 2]
        outbound.pop().close()  # as if its process had died
        assert arrivals("a", "10.244.1.3", outbound) == [4, 0]
    finally:
        for listener in (*outbound, *plaintext):
            listener.close()
        for table in tables:
            table.close()


def test_workers_are_numbered(node: Any) -> None:
    for number in (-1, 16):
        with pytest.raises(InternalError, match="worker"):
            ListenerTable(node.paths, number)


def test_what_cannot_be_a_listener(node: Any) -> None:
    pod = node.places["b"]
    with ListenerTable(node.paths) as table, socket.socket() as unconnected:
        with pytest.raises(InternalError, match="family"):
            table.register(pod.addresses, ListenerKind.HBONE, unconnected.fileno(), socket.AF_UNIX)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, pytest.raises(InternalError):
            table.register(pod.addresses, ListenerKind.HBONE, datagram.fileno() + 1000, socket.AF_INET)


def test_cookies_tell_sockets_apart() -> None:
    with socket.socket() as one, socket.socket() as other:
        assert socket_cookie(one.fileno()) == socket_cookie(one.fileno()) != socket_cookie(other.fileno())

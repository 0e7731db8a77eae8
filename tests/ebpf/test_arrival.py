"""What arrives at an enrolled pod: tickets, ztunnel's listeners, and refusal of everything else."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from typing import Any

import pytest
import trio

from ebpf.counters import Counters
from ebpf.pods import Exclusions
from ebpf.reasons import Reason

pytestmark = pytest.mark.root


def counted(node: Any, reason: Reason) -> int:
    with Counters(node.paths) as counters:
        return counters.read()[reason]


@pytest.mark.parametrize(
    ("host", "family", "client"),
    [("10.244.1.3", socket.AF_INET, "::ffff:10.244.1.4"), ("fd00:10:244:1::3", socket.AF_INET6, "fd00:10:244:1::4")],
)
def test_a_foreign_client_meets_the_plaintext_listener(
    mesh: Any, kit: Any, host: str, family: int, client: str
) -> None:
    kit.start_server(mesh.places["b"], 8080)
    seen = mesh.places["c"].run(kit.call, host, 8080, family)
    # The first line is ztunnel's; what it then delivers shows the true client to the application.
    assert seen.answer == f"plaintext\n{client} {seen.local[1]} {client} {seen.local[1]}\n"


def test_port_15008_is_ztunnels_whatever_listens_there(mesh: Any, kit: Any) -> None:
    assert mesh.places["c"].run(kit.call, "10.244.1.3", 15008).answer == "hbone 15008\n"
    assert mesh.places["c"].run(kit.call, "fd00:10:244:1::3", 15008, socket.AF_INET6).answer == "hbone 15008\n"


def test_kubelet_reaches_the_application(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    node = mesh.places["c"]
    before = counted(mesh, Reason.TICKET_PROBE)
    seen = node.run(kit.call, "10.244.1.3", 8080, cgroup=mesh.cgroup / "kubelet")
    assert seen.answer == f"10.244.1.4 {seen.local[1]} 10.244.1.4 {seen.local[1]}\n"
    assert counted(mesh, Reason.TICKET_PROBE) == before + 1


def test_an_excluded_inbound_port_is_the_applications(mesh: Any, kit: Any) -> None:
    mesh.enrol("b", Exclusions(inbound_ports=frozenset({8080})))
    kit.start_server(mesh.places["b"], 8080)
    kit.start_server(mesh.places["b"], 8081)
    seen = mesh.places["c"].run(kit.call, "10.244.1.3", 8080)
    assert seen.answer.startswith(f"::ffff:10.244.1.4 {seen.local[1]} ")
    assert mesh.places["c"].run(kit.call, "10.244.1.3", 8081).answer.startswith("plaintext\n")


def test_a_delivery_to_a_closed_port_is_refused(mesh: Any, kit: Any) -> None:
    assert mesh.places["c"].run(kit.call, "10.244.1.3", 9).answer == "plaintext\n"


def test_without_ztunnel_nothing_is_delivered_and_nothing_leaves(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080)
    kit.start_server(mesh.places["c"], 8080)
    mesh.stop_ztunnel()
    dropped = counted(mesh, Reason.INBOUND_REFUSED_NO_LISTENER)
    for host, family in (("10.244.1.3", socket.AF_INET), ("fd00:10:244:1::3", socket.AF_INET6)):
        with pytest.raises(ConnectionRefusedError):
            mesh.places["c"].run(kit.call, host, 8080, family)
    assert counted(mesh, Reason.INBOUND_REFUSED_NO_LISTENER) == dropped + 2
    for host, family in (("10.244.1.4", socket.AF_INET), ("fd00:10:244:1::4", socket.AF_INET6)):
        with pytest.raises(ConnectionRefusedError):
            mesh.places["a"].run(kit.call, host, 8080, family)
    probe = mesh.places["c"].run(kit.call, "10.244.1.3", 8080, cgroup=mesh.cgroup / "kubelet")
    assert probe.answer.startswith("::ffff:10.244.1.4 ")
    mesh.start_ztunnel()
    assert mesh.places["a"].run(kit.call, "10.244.1.3", 8080).answer.startswith("::ffff:10.244.1.2 ")


def test_an_address_that_is_not_the_pods_is_refused(mesh: Any, kit: Any) -> None:
    name = f"{mesh.name}-b"
    subprocess.run(["ip", "-n", name, "addr", "add", "10.244.1.77/24", "dev", "eth0"], check=True)
    try:
        kit.start_server(mesh.places["b"], 8080)
        before = counted(mesh, Reason.INBOUND_REFUSED_FOREIGN_ADDRESS)
        with pytest.raises(ConnectionRefusedError):
            mesh.places["c"].run(kit.call, "10.244.1.77", 8080)
        assert counted(mesh, Reason.INBOUND_REFUSED_FOREIGN_ADDRESS) == before + 1
    finally:
        subprocess.run(["ip", "-n", name, "addr", "del", "10.244.1.77/24", "dev", "eth0"], check=True)


def test_ztunnels_connection_without_announcement_gets_no_ticket(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080)
    seen = mesh.places["b"].run(kit.call, "10.244.1.3", 8080, cgroup=mesh.cgroup / "ztunnel")
    assert seen.answer.startswith("plaintext\n")


def test_a_ticket_serves_one_connection(mesh: Any, kit: Any) -> None:
    """The four-tuple of a probe that was established admits nobody else afterwards."""

    def probe_then_foreign() -> str:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME_WAIT
            client.bind(("10.244.1.4", 41000))
            client.connect(("10.244.1.3", 8080))
        (mesh.cgroup / "pods" / "c" / "cgroup.procs").write_text(str(os.getpid()))
        with socket.socket() as client:
            client.settimeout(10)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("10.244.1.4", 41000))
            client.connect(("10.244.1.3", 8080))
            return client.makefile().read()

    kit.start_server(mesh.places["b"], 8080)
    assert mesh.places["c"].run(probe_then_foreign, cgroup=mesh.cgroup / "kubelet").startswith("plaintext\n")


def test_a_ticket_ends_after_a_few_seconds(mesh: Any, kit: Any) -> None:
    """A probe that was refused leaves its ticket behind; late, its four-tuple admits nobody."""

    def refused_then_foreign() -> str:
        with socket.socket() as client:
            client.bind(("10.244.1.4", 41001))
            assert client.connect_ex(("10.244.1.3", 8080)) == errno.ECONNREFUSED
        (mesh.cgroup / "pods" / "c" / "cgroup.procs").write_text(str(os.getpid()))
        time.sleep(5.2)
        with socket.socket() as client:
            client.settimeout(10)
            client.bind(("10.244.1.4", 41001))
            client.connect(("10.244.1.3", 8080))
            return client.makefile().read()

    before = counted(mesh, Reason.INBOUND_TICKET_EXPIRED)
    client = mesh.places["c"].start(refused_then_foreign, cgroup=mesh.cgroup / "kubelet")
    time.sleep(1)
    kit.start_server(mesh.places["b"], 8080)
    assert client.join().startswith("plaintext\n")
    assert counted(mesh, Reason.INBOUND_TICKET_EXPIRED) == before + 1


def test_a_full_accept_queue_delays_and_loses_nothing(mesh: Any, kit: Any) -> None:
    """An application that is slow to accept: SYNs are dropped and come again, with tickets that are issued again."""

    def accept_late(tell: int, connections: int) -> list[str]:
        with socket.socket() as listener:
            listener.bind(("0.0.0.0", 8090))
            listener.listen(1)
            os.write(tell, b"r")
            time.sleep(2.5)
            seen = []
            listener.settimeout(20)
            for _ in range(connections):
                accepted, peer = listener.accept()
                seen.append(f"{peer[0]} {peer[1]}")
                accepted.recv(1)
                accepted.sendall(b"late\n")
                accepted.close()
            return seen

    def call_many(connections: int) -> list[str]:
        clients = []
        for _ in range(connections):
            clients.append(socket.create_connection(("10.244.1.3", 8090)))
            clients[-1].sendall(b"?")
        names = []
        for client in clients:
            client.settimeout(20)
            assert client.makefile().read() == "late\n"
            names.append(f"10.244.1.2 {client.getsockname()[1]}")
            client.close()
        return names

    ready, tell = os.pipe()
    server = mesh.places["b"].start(accept_late, tell, 6)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        assert pipe.read(1) == b"r"
    before = counted(mesh, Reason.TICKET_RENEWED)
    clients = mesh.places["a"].run(call_many, 6)
    assert sorted(server.join()) == sorted(clients)
    assert counted(mesh, Reason.TICKET_RENEWED) > before


def test_two_thousand_connections_at_once_are_not_mixed_up(mesh: Any, kit: Any) -> None:
    """Every client dials one of forty ports and must be answered by that port, which must see that very client."""
    connections, ports = 2000, range(9000, 9040)

    def serve_ports(tell: int) -> None:
        async def serve(port: int, task_status: Any) -> None:
            listener = socket.socket()
            listener.bind(("0.0.0.0", port))
            listener.listen(1024)
            wrapped = trio.socket.from_stdlib_socket(listener)
            task_status.started()
            while True:
                accepted, peer = await wrapped.accept()
                with accepted:
                    await accepted.send(f"{port} {peer[0]} {peer[1]}\n".encode())

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for port in ports:
                    await nursery.start(lambda task_status, port=port: serve(port, task_status))
                os.write(tell, b"r")

        trio.run(main)

    def call_at_once() -> list[str]:
        wrong: list[str] = []

        async def one(port: int) -> None:
            with trio.socket.socket() as client:
                await client.connect(("10.244.1.3", port))
                answer = b""
                while data := await client.recv(100):
                    answer += data
                expected = f"{port} 10.244.1.2 {client.getsockname()[1]}\n"
                if answer.decode() != expected or client.getpeername() != ("10.244.1.3", port):
                    wrong.append(f"expected {expected!r}, got {answer!r} from {client.getpeername()}")

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(connections):
                    nursery.start_soon(one, ports[number % len(ports)])

        trio.run(main)
        return wrong

    ready, tell = os.pipe()
    mesh.places["b"].start(serve_ports, tell)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        assert pipe.read(1) == b"r"
    assert mesh.places["a"].run(call_at_once) == []


def _steal(host: str, port: int, seconds: float) -> int:
    """A process of the pod listens beside ztunnel; how many connections it gets."""
    with socket.socket(socket.AF_INET) as beside:
        beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        beside.bind((host, port))
        beside.listen(64)
        beside.settimeout(seconds)
        got = 0
        try:
            while True:
                beside.accept()[0].close()
                got += 1
        except TimeoutError:
            return got


@pytest.mark.parametrize("port", [15006, 15008])
def test_a_listener_beside_ztunnels_gets_no_share(mesh: Any, kit: Any, port: int) -> None:
    kit.start_server(mesh.places["b"], 8080)
    thief = mesh.places["b"].start(_steal, "0.0.0.0", port, 3.0)
    time.sleep(0.5)
    target = 15008 if port == 15008 else 8080
    expected = "hbone" if port == 15008 else "plaintext"
    for _ in range(40):
        assert mesh.places["c"].run(kit.call, "10.244.1.3", target).answer.startswith(expected)
    assert thief.join() == 0


def test_a_listener_beside_ztunnels_gets_no_outgoing_connection(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080)
    thief = mesh.places["a"].start(_steal, "127.0.0.1", 15001, 3.0)
    time.sleep(0.5)
    for _ in range(40):
        assert mesh.places["a"].run(kit.call, "10.244.1.3", 8080).peer == ("10.244.1.3", 8080)
    assert thief.join() == 0

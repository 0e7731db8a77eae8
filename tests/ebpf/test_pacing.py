"""Congestion control that paces is replaced on the node and in tunnels to near nodes, and kept everywhere else."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.root

PACES = b"bbr"
HBONE_PORT = 15008


def control_of(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def make(control: bytes = PACES) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control)
    return sock


def serve(tell: int, port: int) -> None:
    """Tells each client the congestion control of the accepted socket."""
    with make() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen()
        os.write(tell, b"r")
        while True:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(control_of(accepted).encode())


def call(host: str, port: int, control: bytes = PACES) -> tuple[str, str]:
    """The congestion control of both ends of a connection, the dialling one first."""
    with make(control) as sock:
        sock.settimeout(20)
        sock.connect((host, port))
        answer = b""
        while data := sock.recv(64):
            answer += data
        return control_of(sock), answer.decode()


def start(place: Any, port: int) -> None:
    ready, tell = os.pipe()
    actor = place.start(serve, tell, port)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        if pipe.read(1) != b"r":
            actor.join()


def test_legs_between_applications_and_their_ztunnels(mesh: Any) -> None:
    start(mesh.places["b"], 8080)
    assert mesh.places["a"].run(call, "10.244.1.3", 8080) == ("cubic", "cubic")


def test_a_control_that_does_not_pace_is_kept(mesh: Any) -> None:
    start(mesh.places["b"], 8080)
    assert mesh.places["a"].run(call, "10.244.1.3", 8080, b"reno") == ("reno", "cubic")


def test_connections_that_are_not_the_meshs(mesh: Any) -> None:
    start(mesh.places["c"], 8080)
    assert mesh.places["c"].run(call, "10.244.1.4", 8080) == ("bbr", "bbr")


def test_a_tunnel_to_a_near_node(mesh: Any) -> None:
    start(mesh.places["c"], HBONE_PORT)
    dialled = mesh.places["a"].run(call, "10.244.1.4", HBONE_PORT, cgroup=mesh.cgroup / "ztunnel")
    assert dialled == ("cubic", "cubic")


@pytest.fixture
def slow_link(mesh: Any) -> Iterator[None]:
    """What leaves pod c waits some milliseconds behind what has left before."""
    link = ["-n", f"{mesh.name}-c", "qdisc"]
    slow = ["root", "tbf", "rate", "1mbit", "burst", "1600", "limit", "100000"]
    subprocess.run(["tc", *link, "add", "dev", "eth0", *slow], check=True)
    yield
    subprocess.run(["tc", *link, "del", "dev", "eth0", "root"], check=True)


def call_behind_others(host: str, port: int) -> tuple[str, str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(20):
            sock.sendto(bytes(1000), (host, 9))  # nobody's: it is to take time on the link
    return call(host, port)


@pytest.mark.usefixtures("slow_link")
def test_a_tunnel_to_a_distant_node(mesh: Any) -> None:
    own, _ = mesh.places["c"].run(call_behind_others, "10.244.1.2", HBONE_PORT)
    assert own == "bbr"

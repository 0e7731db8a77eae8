"""A node of its own for every test module: bpffs, cgroups, network namespaces, applications, a small ztunnel."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ebpf.bpffs import mount_bpffs, unmount_bpffs
from ebpf.connections import Deliveries, OriginalDestinations
from ebpf.listeners import ListenerKind, ListenerTable
from ebpf.paths import PinPaths
from ebpf.pods import Exclusions, PodEntry, PodTable
from ebpf.programs_driver import detach_all, load_programs
from ebpf.settings import MapSizes, NodeSettings
from mesh.addresses import IpBytes, SocketAddress, from_sockaddr, parse_ip
from mesh.netns import NetworkNamespace
from mesh.testing.actors import Actor

HIERARCHY = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").exists() else Path("/sys/fs/cgroup")
SMALL = MapSizes(
    pods=64,
    pod_addresses=128,
    excluded_ports=128,
    excluded_networks=128,
    caller_roles=8,
    handoffs=8192,
    tickets=8192,
    listeners=256,
    fast_verdicts=256,
    fast_services=64,
    fast_connections=16384,
    fast_closed=16384,
    fast_talkers=4096,
    fast_sockets=32768,
)


@dataclass
class Place:
    """A network namespace with addresses and a cgroup to act in."""

    name: str
    ipv4: str
    ipv6: str
    cgroup: Path
    namespace: NetworkNamespace
    actors: list[Actor] = field(default_factory=list)

    @property
    def addresses(self) -> tuple[IpBytes, ...]:
        return parse_ip(self.ipv4), parse_ip(self.ipv6)

    @property
    def uid(self) -> str:
        return f"uid-{self.name}"

    def start(self, function: Callable[..., Any], *args: Any, cgroup: Path | None = None) -> Actor:
        actor = Actor(cgroup or self.cgroup, self.namespace, function, *args)
        self.actors.append(actor)
        return actor

    def run(self, function: Callable[..., Any], *args: Any, cgroup: Path | None = None) -> Any:
        with Actor(cgroup or self.cgroup, self.namespace, function, *args) as actor:
            return actor.join()

    def stop_actors(self) -> None:
        while self.actors:
            self.actors.pop().close()


class Node:
    """One node: two enrolled-to-be pods a and b, and c, which never is enrolled (it plays the rest of the world)."""

    def __init__(self) -> None:
        self.name = f"ambt{os.getpid()}x{time.monotonic_ns() % 100000}"
        self.folder = Path(tempfile.mkdtemp(prefix=self.name))
        self.bpffs = self.folder / "bpf"
        self.cgroup = HIERARCHY / self.name
        self.fabric = f"{self.name}-f"
        self.places: dict[str, Place] = {}
        self.ztunnel: Actor | None = None

    def set_up(self) -> None:
        mount_bpffs(self.bpffs)
        for part in ("ztunnel", "kubelet", "pods/a", "pods/b", "pods/c"):
            (self.cgroup / part).mkdir(parents=True)
        _ip(f"netns add {self.fabric}")
        _ip(f"-n {self.fabric} link add br0 type bridge")
        _ip(f"-n {self.fabric} link set br0 up")
        for number, letter in enumerate("abc", start=2):
            name = f"{self.name}-{letter}"
            _ip(f"netns add {name}")
            _ip(f"-n {name} link add eth0 type veth peer name p{letter} netns {self.fabric}")
            _ip(f"-n {self.fabric} link set p{letter} master br0 up")
            _ip(f"-n {name} addr add 10.244.1.{number}/24 dev eth0")
            _ip(f"-n {name} addr add fd00:10:244:1::{number}/64 dev eth0 nodad")
            _ip(f"-n {name} link set lo up")
            _ip(f"-n {name} link set eth0 up")
            self.places[letter] = Place(
                letter,
                f"10.244.1.{number}",
                f"fd00:10:244:1::{number}",
                self.cgroup / "pods" / letter,
                NetworkNamespace.open(f"/run/netns/{name}"),
            )

    def tear_down(self) -> None:
        self.stop_ztunnel()
        for place in self.places.values():
            place.stop_actors()
            place.namespace.close()
        with contextlib.suppress(Exception):
            detach_all(self.paths)
        unmount_bpffs(self.bpffs)
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in [self.fabric, *(f"{self.name}-{letter}" for letter in "abc")]:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        for folder in sorted(self.cgroup.glob("**/"), key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()

    @property
    def paths(self) -> PinPaths:
        return PinPaths(self.bpffs, self.name)

    @property
    def settings(self) -> NodeSettings:
        return NodeSettings(
            node=self.name,
            bpffs=self.bpffs,
            cgroup=self.cgroup,
            ztunnel_cgroups=(self.cgroup / "ztunnel",),
            kubelet_cgroups=(self.cgroup / "kubelet",),
            map_sizes=SMALL,
        )

    def load(self) -> None:
        load_programs(self.settings)

    def enrol(self, letter: str, exclusions: Exclusions | None = None) -> None:
        place = self.places[letter]
        with PodTable(self.paths) as table:
            entry = PodEntry(place.addresses, exclusions or Exclusions())
            table.enrol(place.namespace.cookie(), entry, place.namespace, place.uid)

    def unenrol(self, letter: str) -> None:
        with PodTable(self.paths) as table:
            table.unenrol(self.places[letter].uid)

    def start_ztunnel(self) -> None:
        pods = [self.places["a"], self.places["b"]]
        ready, tell = os.pipe()
        self.ztunnel = Actor(self.cgroup / "ztunnel", None, run_fake_ztunnel, self.paths, pods, tell)
        os.close(tell)
        with os.fdopen(ready, "rb") as pipe:
            if pipe.read(1) != b"r":
                self.ztunnel.join()

    def stop_ztunnel(self) -> None:
        if self.ztunnel is not None:
            self.ztunnel.close()
            self.ztunnel = None


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)


# -- a small ztunnel: every pod's three listeners; what leaves one pod is dialled from inside it ---------------------


DELIVERY_SOURCE = re.compile(r"127\.1[6-9]\.([1-5]?[0-9]|6[0-3])\.6|::1")
"""What the programs bind a delivery to."""


class FakeZtunnel:
    """Relays outbound connections to what was dialled, and delivers inbound ones, naming the true client.

    The tunnel between two ztunnels is replaced by a dictionary: source address of the second leg -> true client.
    """

    def __init__(self, paths: PinPaths) -> None:
        self.destinations = OriginalDestinations(paths)
        self.deliveries = Deliveries(paths)
        self.listeners = ListenerTable(paths)
        self.clients: dict[SocketAddress, SocketAddress] = {}

    async def serve(self, pods: list[Place], tell: int) -> None:
        async with trio.open_nursery() as nursery:
            for pod in pods:
                for family, loopback, wildcard in (
                    (socket.AF_INET, "127.0.0.1", "0.0.0.0"),
                    (socket.AF_INET6, "::1", "::"),
                ):
                    outbound = _listen(pod.namespace, family, loopback, 15001)
                    plaintext = _listen(pod.namespace, family, wildcard, 15006)
                    hbone = _listen(pod.namespace, family, wildcard, 15008)
                    self.listeners.register(pod.addresses, ListenerKind.OUTBOUND, outbound.fileno(), family)
                    self.listeners.register(pod.addresses, ListenerKind.PLAINTEXT, plaintext.fileno(), family)
                    self.listeners.register(pod.addresses, ListenerKind.HBONE, hbone.fileno(), family)
                    nursery.start_soon(self.accept, nursery, outbound, self.outbound, pod)
                    nursery.start_soon(self.accept, nursery, plaintext, self.inbound, pod)
                    nursery.start_soon(self.accept, nursery, hbone, self.hbone, pod)
            os.write(tell, b"r")
            os.close(tell)

    async def accept(self, nursery: trio.Nursery, listener: trio.socket.SocketType, handler: Any, pod: Place) -> None:
        while True:
            accepted, peer = await listener.accept()
            nursery.start_soon(self.guard, handler, accepted, from_sockaddr(peer), pod)

    async def guard(self, handler: Any, accepted: trio.socket.SocketType, peer: SocketAddress, pod: Place) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError), accepted:
            await handler(accepted, peer, pod)

    async def outbound(self, accepted: trio.socket.SocketType, peer: SocketAddress, pod: Place) -> None:
        destination = self.destinations.take(accepted.fileno())
        if destination is None:
            await accepted.send(b"no original destination\n")
            return
        leg = _socket_for(pod.namespace, destination)
        with leg:
            await leg.bind((pod.ipv4 if leg.family == socket.AF_INET else pod.ipv6, 0))
            self.clients[from_sockaddr(leg.getsockname())] = peer
            await leg.connect(_sockaddr(destination))
            await _relay(accepted, leg)

    async def inbound(self, accepted: trio.socket.SocketType, peer: SocketAddress, pod: Place) -> None:
        local = from_sockaddr(accepted.getsockname())
        client = self.clients.get(peer)
        leg = _socket_for(pod.namespace, local)
        with leg:
            if client is None:  # not from a ztunnel: say so, and pass it on as PERMISSIVE would
                await accepted.send(b"plaintext\n")
            self.deliveries.announce(leg.fileno(), client or peer)
            await leg.connect(_sockaddr(local))
            source = leg.getsockname()[0]
            if not DELIVERY_SOURCE.fullmatch(source):  # no test's answer begins like this
                await accepted.send(f"delivered from {source}\n".encode())
            await _relay(accepted, leg)

    async def hbone(self, accepted: trio.socket.SocketType, peer: SocketAddress, pod: Place) -> None:
        await accepted.send(f"hbone {accepted.getsockname()[1]}\n".encode())


def run_fake_ztunnel(paths: PinPaths, pods: list[Place], tell: int) -> None:
    trio.run(FakeZtunnel(paths).serve, pods, tell)


def _listen(namespace: NetworkNamespace, family: int, host: str, port: int) -> trio.socket.SocketType:
    listener = namespace.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the real one, for its successor
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host, port))
    listener.listen(4096)
    return trio.socket.from_stdlib_socket(listener)


def _sockaddr(address: SocketAddress) -> tuple[str, int]:
    text = str(address).rpartition(":")[0].strip("[]")
    return text, address.port


def _socket_for(namespace: NetworkNamespace, address: SocketAddress) -> trio.socket.SocketType:
    family = socket.AF_INET6 if str(address).startswith("[") else socket.AF_INET
    return trio.socket.from_stdlib_socket(namespace.socket(family, socket.SOCK_STREAM))


async def _relay(one: trio.socket.SocketType, other: trio.socket.SocketType) -> None:
    async def pump(source: trio.socket.SocketType, sink: trio.socket.SocketType) -> None:
        stream = trio.SocketStream(sink)
        while data := await source.recv(65536):
            await stream.send_all(data)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, one, other)
        nursery.start_soon(pump, other, one)


# -- what applications do ----------------------------------------------------------------------------------------------


def serve_report(tell: int, family: int, host: str, port: int, backlog: int = 4096) -> None:
    """An application: tells every client, in one line, the peer that accept and getpeername show."""

    async def handle(accepted: trio.socket.SocketType, peer: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError), accepted:
            line = f"{peer[0]} {peer[1]} {accepted.getpeername()[0]} {accepted.getpeername()[1]}\n"
            await trio.SocketStream(accepted).send_all(line.encode())

    async def main() -> None:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(backlog)
        os.write(tell, b"r")
        async with trio.open_nursery() as nursery:
            wrapped = trio.socket.from_stdlib_socket(listener)
            while True:
                accepted, peer = await wrapped.accept()
                nursery.start_soon(handle, accepted, peer)

    trio.run(main)


def start_server(place: Place, port: int, family: int = socket.AF_INET6, host: str = "::") -> Actor:
    ready, tell = os.pipe()
    actor = place.start(serve_report, tell, family, host, port)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        if pipe.read(1) != b"r":
            actor.join()
    return actor


@dataclass(frozen=True)
class Call:
    """What a client saw."""

    peer: tuple[str, int]
    local: tuple[str, int]
    answer: str


def call(host: str, port: int, family: int = socket.AF_INET, bind: tuple[str, int] | None = None) -> Call:
    """A client: connects, reads all, says what getpeername and getsockname showed."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        if bind is not None:
            client.bind(bind)
        client.connect((host, port))
        peer, local = client.getpeername()[:2], client.getsockname()[:2]
        with client.makefile("rb") as stream:
            return Call(peer, local, stream.read().decode())


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    made = Node()
    try:
        made.set_up()
        made.load()
        yield made
    finally:
        made.tear_down()


@pytest.fixture
def mesh(node: Node) -> Iterator[Node]:
    """The node with pods a and b enrolled and a ztunnel running; everything is ended after the test."""
    try:
        node.enrol("a")
        node.enrol("b")
        node.start_ztunnel()
        yield node
    finally:
        node.stop_ztunnel()
        for letter, place in node.places.items():
            place.stop_actors()
            if letter != "c":
                node.unenrol(letter)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers of this folder: test folders are no packages, so they cannot be imported."""
    return SimpleNamespace(call=call, start_server=start_server)

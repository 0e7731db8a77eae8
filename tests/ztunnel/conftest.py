"""A lab for the tests of whole ztunnels, and hostile peers to put in it."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from ambimesh.demo.stage import MODE_LABEL, NAMESPACE, REDIRECTION, Stage
from ambimesh.lab import manifests, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.cgroups import processes_in
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.mesh_processes import ztunnel_name
from ambimesh.lab.take_down import take_down
from ambimesh.lab.ztunnel_admin import fetch
from controlplane.ca.authority import load_or_create
from ebpf.fastpath.abilities import Abilities
from ebpf.paths import PinPaths
from mesh.closing import Closing
from mesh.errors import EnvironmentLacks, TlsFailure
from mesh.netns import NetworkNamespace
from mesh.testing.ca import TestAuthority
from mesh.tls.context import client_context
from mesh.tls.credentials import Credentials
from resources.folder_store import FolderStore
from resources.objects import Namespace, Pod
from ztunnel import kernel_maps

SHIPPED = Path(manifests.__file__).parents[1] / "manifests" / "demo"
_numbers = itertools.count(1)

Headers = Sequence[tuple[str, str]]


@dataclass
class Scene:
    """A running lab, and what tests do to it."""

    stage: Stage
    authority: TestAuthority
    """Issues in the name of the lab's own authority."""

    @property
    def lab(self) -> Any:
        return self.stage.lab

    def identity(self, account: str, namespace: str = NAMESPACE) -> Credentials:
        """Credentials the lab's authority vouches for."""
        return self.authority.issue(self.authority.identity(namespace, account))

    def node_netns(self, node: str) -> Path:
        found: Path = self.lab.node(node).netns
        return found

    def pod_netns(self, pod: str, namespace: str = NAMESPACE) -> Path:
        found: Path = self.lab.layout.pod_netns(namespace, pod)
        return found

    async def enrol(self, *, on: bool = True) -> None:
        """Label the namespace, or take the label away, and wait until all pods follow."""
        self.stage.store.patch_metadata(Namespace, "", NAMESPACE, labels={MODE_LABEL: "ambient" if on else None})
        wanted = "enabled" if on else None

        async def followed() -> bool:
            pods = [pod for pod in self.stage.store.of_kind(Pod) if pod.metadata.namespace == NAMESPACE]
            if any(pod.metadata.annotations.get(REDIRECTION) != wanted for pod in pods):
                return False
            return all([await self.knows(pods, node.name, on=on) for node in self.lab.nodes])

        await self.until(followed, 20, lambda: "the pods do not follow the label")

    async def knows(self, pods: Sequence[Pod], node: str, *, on: bool) -> bool:
        """Whether a node's ztunnel has heard that these pods do, or do not, speak HBONE."""
        protocols = {one["name"]: one["protocol"] for one in (await fetch(self.lab, node))["workloads"]}
        return all(protocols.get(pod.metadata.name) == ("HBONE" if on else "TCP") for pod in pods)

    async def dump(self, node: str) -> dict[str, Any]:
        """What a node's ztunnel works from."""
        return await fetch(self.lab, node)

    async def connections(self, node: str) -> list[dict[str, Any]]:
        """What its table of connections holds."""
        found: list[dict[str, Any]] = (await fetch(self.lab, node))["connections"]
        return found

    async def quiet(self, node: str) -> bool:
        """Whether no connection is left, in the table and in the metrics."""
        gauges = [line for line in await self.stage.metrics(node) if line.startswith("istio_tcp_sockets_open{")]
        return not await self.connections(node) and all(float(line.rpartition(" ")[2]) == 0 for line in gauges)

    def descriptors(self, node: str) -> int:
        """How many descriptors the processes of a node's ztunnel hold."""
        pids = processes_in(self.lab.node_cgroup(self.lab.node(node)) / "ztunnel")
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)

    def records(self, node: str, since: int = 0) -> list[str]:
        """Access records of a node's ztunnel, from a position in its log on."""
        return [line for line in self.log(node)[since:].splitlines() if " access connection " in line]

    def log(self, node: str) -> str:
        return self.stage.access_log(node)

    def position(self, node: str) -> int:
        """The end of a node's log now."""
        return len(self.log(node))

    async def until(self, holds: Callable[[], Any], seconds: float, otherwise: Callable[[], Any]) -> None:
        """Wait until something, or what it awaits, is true."""

        def asked() -> Any:
            result = holds()
            return result if inspect.isawaitable(result) else bool(result)

        await self.stage.until(asked, seconds, lambda: str(otherwise()))

    async def recorded(self, node: str, since: int, *parts: str) -> str:
        """Wait for the access record that holds all these."""

        def found() -> str | None:
            lines = self.records(node, since)
            return next((line for line in lines if all(part in line for part in parts)), None)

        await self.until(
            lambda: found() is not None, 5, lambda: f"no record with {parts} in {self.records(node, since)}"
        )
        return found() or ""

    async def failures(self, node: str, flag: str) -> int:
        """``istio_tcp_connections_failed_total`` of a flag, over all labels."""
        lines = await self.stage.metrics(node)
        family = "istio_tcp_connections_failed_total{"
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in lines
            if line.startswith(family) and f'response_flags="{flag}"' in line
        )

    async def script(
        self, pod: str, text: str, *arguments: str, namespace: str = NAMESPACE, timeout: float = 30
    ) -> Any:
        """Run a Python program in a pod; what it prints is JSON."""
        status, output = await self.stage.execute(
            pod, "python3", "-c", text, *arguments, namespace=namespace, timeout=timeout
        )
        assert status == 0, output
        return json.loads(output)

    @asynccontextmanager
    async def dial(self, netns: Path, host: str, port: int) -> AsyncIterator[trio.SocketStream]:
        """A TCP connection from a namespace, by nobody the mesh knows."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with NetworkNamespace.open(netns) as namespace:
            plain = namespace.socket(family, socket.SOCK_STREAM)
        sock = trio.socket.from_stdlib_socket(plain)
        try:
            with trio.fail_after(10):
                await sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        async with trio.SocketStream(sock) as stream:
            yield stream

    @asynccontextmanager
    async def tunnel(self, netns: Path, host: str, credentials: Credentials) -> AsyncIterator[RawTunnel]:
        """A TLS connection to port 15008, by whoever the credentials say."""
        async with self.dial(netns, host, 15008) as stream:
            secure: trio.SSLStream[trio.SocketStream] = trio.SSLStream(stream, client_context(credentials))
            tunnel = RawTunnel(secure)
            await tunnel.begin()
            yield tunnel


class RawTunnel:
    """HTTP/2 by the h2 library, which sends whatever headers it is given."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        configuration = h2.config.H2Configuration(
            client_side=True, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.http = h2.connection.H2Connection(configuration)

    async def begin(self) -> None:
        """Shake hands, and wait for the server's SETTINGS: with TLS 1.3 a refusal comes only after our side is done.

        Raises:
            TlsFailure: the server refused.
        """
        try:
            with trio.fail_after(10):
                await self.stream.do_handshake()
                self.http.initiate_connection()
                await self.stream.send_all(self.http.data_to_send())
                await self._events()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            raise TlsFailure(str(cause.reason if isinstance(cause, ssl.SSLError) else cause)) from error

    async def _events(self) -> list[h2.events.Event]:
        data = await self.stream.receive_some(65536)
        if not data:
            raise TlsFailure("closed")
        events: list[h2.events.Event] = self.http.receive_data(bytes(data))
        await self.stream.send_all(self.http.data_to_send())
        return events

    async def request(self, headers: Headers) -> tuple[int, int]:
        """Ask for something: the stream's number and the status of the answer."""
        number = self.http.get_next_available_stream_id()
        self.http.send_headers(number, list(headers))
        await self.stream.send_all(self.http.data_to_send())
        with trio.fail_after(10):
            while True:
                for event in await self._events():
                    if isinstance(event, h2.events.ResponseReceived) and event.stream_id == number:
                        fields = dict(event.headers or [])
                        return number, int(fields[b":status"])

    async def connect(self, authority: str) -> tuple[int, int]:
        """CONNECT."""
        return await self.request([(":method", "CONNECT"), (":authority", authority)])

    async def exchange(self, number: int, text: bytes) -> bytes:
        """Send into a tunnel, and what comes back first."""
        self.http.send_data(number, text)
        await self.stream.send_all(self.http.data_to_send())
        with trio.fail_after(10):
            while True:
                for event in await self._events():
                    if isinstance(event, h2.events.DataReceived) and event.stream_id == number:
                        return bytes(event.data or b"")
                    assert not isinstance(event, h2.events.StreamReset), "reset"


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """One lab per module, its pods ready, nothing enrolled yet; a module's ``WISH`` says what is special about its own,
    and ``AMBIMESH_TEST_WORKERS`` how many workers the ztunnels of all others have.
    """
    layout = LabLayout.named(f"tz{os.getpid():x}{next(_numbers):x}")
    workers = os.environ.get("AMBIMESH_TEST_WORKERS")
    wish = getattr(request.module, "WISH", {"workers": int(workers)} if workers else {})
    lab = trio.run(bring_up, Wish(layout=layout, **wish), lambda _: None)
    try:
        report = manifests.apply(FolderStore(layout.cluster), [SHIPPED])
        assert not report.problems
        assert trio.run(readiness.wait_for_pods, lab, 30.0) == []
        held = load_or_create(layout.certificates, "cluster.local")
        assert isinstance(held.key, ec.EllipticCurvePrivateKey)
        yield Scene(Stage(lab), TestAuthority.holding(held.key, held.certificate, "cluster.local"))
        for node in lab.nodes:
            _no_tracebacks(Stage(lab).processes.log_file(ztunnel_name(node.name)))
    finally:
        trio.run(take_down, lab, lambda _: None)


def _no_tracebacks(log: Path) -> None:
    text = log.read_text(errors="replace")
    at = text.find("Traceback")
    assert at < 0, text[max(0, at - 500) : at + 2000]
    assert not re.search(r"(relay handler|flush|connecting|closing|task) failed|unexpectedly", text)


class FakeMap(Closing):
    """Opens like a pinned map does, or not."""

    opened: list[FakeMap]
    missing: type[FakeMap] | None = None

    def __init__(self, _paths: PinPaths, _worker: int = 0) -> None:
        if type(self) is FakeMap.missing:
            raise EnvironmentLacks("the node's programs are not loaded")
        self.closed = False
        self.opened.append(self)

    def close(self) -> None:
        self.closed = True

    def stop(self, *, splice: bool) -> None:
        """Of the fast path's, when it is switched off."""

    def share_among(self, workers: int) -> None:
        """Of the listeners."""


@dataclass
class FakeMaps:
    """Stand-ins for all pinned maps of a node."""

    kinds: list[type[FakeMap]]

    @property
    def opened(self) -> list[FakeMap]:
        return FakeMap.opened

    def take_away(self, kind: type[FakeMap] | None) -> None:
        """From now on this one cannot be opened."""
        FakeMap.missing = kind


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> FakeMaps:
    kinds: list[type[FakeMap]] = []
    FakeMap.opened, FakeMap.missing = [], None
    for name in ("OriginalDestinations", "Deliveries", "ListenerTable", "PodTable", "FastPathMaps"):
        kind = type(name, (FakeMap,), {})
        monkeypatch.setattr(kernel_maps, name, kind)
        kinds.append(kind)
    monkeypatch.setattr(kernel_maps, "read_abilities", lambda _: Abilities(splice=False))
    return FakeMaps(kinds)

"""Which connections are entered, and what becomes of those of which only one end can be."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from ebpf.fastpath.entry import EntryOutcome
from ebpf.fastpath.tables import FastPathConnection
from ebpf.fastpath.talkers import Talker
from mesh.addresses import SocketAddress, parse_ip
from mesh.errors import EnvironmentLacks
from ztunnel.fastpath.splicer import Splicer

CLIENT, SERVER = 11, 12


class Places:
    """Two pods, and where the calling thread is."""

    def __init__(self) -> None:
        self.inside: int | None = None

    def pod(self, cookie: int) -> Any:
        if cookie not in (CLIENT, SERVER):
            return None
        return SimpleNamespace(namespace=SimpleNamespace(entered=lambda: self.enter(cookie)))

    @contextlib.contextmanager
    def enter(self, cookie: int) -> Iterator[None]:
        assert self.inside is None
        self.inside = cookie
        try:
            yield
        finally:
            self.inside = None


POD, OTHER = SocketAddress(parse_ip("10.244.1.2"), 40000), SocketAddress(parse_ip("127.0.0.1"), 15001)


def talker(client: int, netns: int = CLIENT) -> Talker:
    return Talker(client, netns, POD, OTHER)


class Pipe:
    """A ring, played by a pipe."""

    def __init__(self) -> None:
        self.fd, self.end = os.pipe()

    def name(self, *cookies: int) -> None:
        os.write(self.end, struct.pack(f"={len(cookies)}Q", *cookies))

    def take(self) -> list[Talker]:
        data = os.read(self.fd, 4096)
        return [talker(cookie) for cookie in struct.unpack(f"={len(data) // 8}Q", data)]


class Kernel:
    """The maps, played: what is entered, and what the programs answer."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.talkers = Pipe()
        self.connections: dict[int, FastPathConnection] = {}
        self.answers: dict[int, EntryOutcome | Exception] = {}
        self.entered: list[int] = []

    def find(self, cookie: int) -> FastPathConnection | None:
        return self.connections.get(cookie)

    def enter_client(self, connection: FastPathConnection) -> EntryOutcome:
        assert self.places.inside == CLIENT
        return self._enter(connection.cookie)

    def enter_server(self, connection: FastPathConnection) -> EntryOutcome:
        assert self.places.inside == SERVER
        return self._enter(connection.server_cookie)

    def _enter(self, cookie: int) -> EntryOutcome:
        answer = self.answers.get(cookie, EntryOutcome.DONE)
        if isinstance(answer, Exception):
            raise answer
        if answer is EntryOutcome.DONE:
            self.entered.append(cookie)
        return answer

    def enter_leg(self, named: Talker) -> EntryOutcome:
        assert self.places.inside == named.netns
        assert (named.source, named.destination) == (POD, OTHER)
        return self._enter(0)

    def leave(self, cookie: int) -> None:
        self.entered.remove(cookie)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel(Places())
    yield made
    os.close(made.talkers.fd)
    os.close(made.talkers.end)


@pytest.fixture
def splicer(kernel: Kernel) -> Splicer:
    return Splicer(kernel, kernel.places.pod)  # type: ignore[arg-type]


def test_both_ends_each_from_inside_its_pod(kernel: Kernel, splicer: Splicer, connection: Any) -> None:
    kernel.connections[1] = connection(1)
    assert splicer.enter(talker(1))
    assert kernel.entered == [1, 2]


@pytest.mark.parametrize("outcome", [outcome for outcome in EntryOutcome if outcome is not EntryOutcome.DONE])
@pytest.mark.parametrize("end", [1, 2])
def test_one_end_alone_does_not_stay(
    kernel: Kernel, splicer: Splicer, connection: Any, end: int, outcome: EntryOutcome
) -> None:
    kernel.connections[1] = connection(1)
    kernel.answers[end] = outcome
    assert not splicer.enter(talker(1))
    assert kernel.entered == []


@pytest.mark.parametrize("fields", [{"source_netns": 13}, {"destination_netns": 13}, {"server_cookie": 0}])
def test_only_established_connections_of_served_pods(
    kernel: Kernel, splicer: Splicer, connection: Any, fields: dict[str, int]
) -> None:
    kernel.connections[1] = connection(1, **fields)
    assert not splicer.enter(talker(1))
    assert not splicer.enter(talker(99))
    assert kernel.entered == []


@pytest.mark.parametrize("outcome", list(EntryOutcome))
def test_a_leg_is_entered_from_inside_its_pod(kernel: Kernel, splicer: Splicer, outcome: EntryOutcome) -> None:
    kernel.answers[0] = outcome
    assert splicer.enter(talker(0)) == (outcome is EntryOutcome.DONE)
    assert not splicer.enter(talker(0, netns=13))  # of a pod that is not served


async def test_what_the_programs_name_is_entered_and_a_failure_costs_one_connection(
    kernel: Kernel, splicer: Splicer, connection: Any
) -> None:
    for cookie in range(1, 401, 2):
        kernel.connections[cookie] = connection(cookie)
    kernel.answers[3] = EnvironmentLacks("not now")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(splicer.run)
        kernel.talkers.name(*range(1, 201, 2))
        with trio.fail_after(10):
            while len(kernel.entered) < 198:
                await trio.testing.wait_all_tasks_blocked(0.001)
        kernel.talkers.name(*range(201, 401, 2))
        with trio.fail_after(10):
            while len(kernel.entered) < 398:
                await trio.testing.wait_all_tasks_blocked(0.001)
        splicer.stop()
        kernel.talkers.name(1)
        await trio.testing.wait_all_tasks_blocked()
        assert kernel.talkers.take() == [talker(1)]  # left to the next ztunnel
        nursery.cancel_scope.cancel()
    assert sorted(kernel.entered) == [cookie for cookie in range(1, 401) if cookie not in (3, 4)]

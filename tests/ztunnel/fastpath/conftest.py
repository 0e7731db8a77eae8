"""The kernel's maps, played."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ebpf.fastpath.tables import FastPathConnection
from mesh.addresses import SocketAddress, parse_ip


class PlayedMaps:
    """Keeps what ztunnel wrote and offers what a test says the programs wrote."""

    def __init__(self) -> None:
        self.generations: dict[int, int] = {}
        self.verdicts: dict[tuple[int, SocketAddress], tuple[int, int]] = {}
        self.services: dict[tuple[int, SocketAddress], list[SocketAddress]] = {}
        self.alive = 0
        self.now_live: list[FastPathConnection] = []
        self.ended: list[FastPathConnection] = []
        self.dropped: list[int] = []
        self.room = True
        fd, self._end = os.pipe()
        self.talkers = SimpleNamespace(fd=fd, take=list)  # nobody talks enough

    def close(self) -> None:
        os.close(self.talkers.fd)
        os.close(self._end)

    def stay_alive(self, seconds: float, *, splice: bool = True) -> None:
        self.alive += 1

    def stop(self, *, splice: bool = True) -> None:
        self.alive = 0

    def clear(self) -> None:
        self.verdicts.clear()
        self.services.clear()
        self.generations.clear()

    def set_generation(self, destination_netns: int, generation: int) -> None:
        self.generations[destination_netns] = generation

    def forget_generation(self, destination_netns: int) -> None:
        self.generations.pop(destination_netns, None)

    def admit(self, source_netns: int, to: SocketAddress, destination_netns: int, generation: int) -> bool:
        if self.room:
            self.verdicts[source_netns, to] = (destination_netns, generation)
        return self.room

    def revoke(self, source_netns: int, to: SocketAddress) -> None:
        self.verdicts.pop((source_netns, to), None)

    def set_service(self, source_netns: int, dialled: SocketAddress, slots: Sequence[SocketAddress]) -> bool:
        self.services[source_netns, dialled] = list(slots)
        return True

    def remove_service(self, source_netns: int, dialled: SocketAddress) -> None:
        self.services.pop((source_netns, dialled), None)

    def live(self) -> list[FastPathConnection]:
        return list(self.now_live)

    def take_closed(self) -> list[FastPathConnection]:
        taken, self.ended = self.ended, []
        return taken

    def drop(self, cookie: int) -> None:
        self.dropped.append(cookie)

    def valid(self, source_netns: int, to: SocketAddress) -> bool:
        """Whether the programs would dial it directly."""
        verdict = self.verdicts.get((source_netns, to))
        return verdict is not None and self.generations.get(verdict[0]) == verdict[1]


def make_connection(cookie: int = 1, **fields: object) -> FastPathConnection:
    made = FastPathConnection(
        cookie=cookie,
        source_netns=11,
        destination_netns=12,
        opened_at=1_000_000_000,
        closed_at=0,
        server_cookie=cookie + 1,
        sent=0,
        received=0,
        source=SocketAddress(parse_ip("10.244.1.2"), 40000),
        destination=SocketAddress(parse_ip("10.244.1.3"), 8080),
        dialled=SocketAddress(parse_ip("10.244.1.3"), 8080),
        failed=False,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.fixture
def maps() -> Iterator[PlayedMaps]:
    made = PlayedMaps()
    yield made
    made.close()


@pytest.fixture
def connection() -> object:
    """Makes connections: test folders are no packages, so they cannot be imported."""
    return make_connection

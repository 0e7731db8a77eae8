"""Applications that do anything in any order: every connection ends once, and leaves nothing in relay or tunnel."""

from __future__ import annotations

import random
import socket
import struct
from typing import Any

import pytest
import trio

from mesh.errors import PolicyDenied
from mesh.hbone.contract import HboneSettings
from mesh.relay.engine import Engine
from mesh.relay.plain_pair import PlainPair
from mesh.relay.stream_end import StreamEnd

RESET = struct.pack("ii", 1, 0)
CONNECTIONS = 24
SMALL = HboneSettings(initial_stream_window=65536, max_stream_window=131072, connection_window=1 << 20)


async def behave(stream: trio.SocketStream, chance: random.Random) -> None:
    """One application's life, never longer than a moment."""
    try:
        for _ in range(chance.randrange(1, 7)):
            match chance.choice(["send", "send much", "read", "read", "pause", "end", "reset", "close"]):
                case "send":
                    await stream.send_all(bytes(chance.randrange(1, 2000)))
                case "send much":
                    with trio.move_on_after(0.05):
                        await stream.send_all(bytes(chance.randrange(1, 500_000)))
                case "read":
                    with trio.move_on_after(0.02):
                        await stream.receive_some()
                case "pause":
                    await trio.sleep(0.005)
                case "end":
                    await stream.send_eof()
                case "reset":
                    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    return
                case "close":
                    return
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
        pass
    finally:
        stream.socket.close()


def over(relays: Any) -> bool:
    """Both tunnels know it, too: a reset of one's arrives at the other a moment later."""
    return (
        len(relays.closed) == CONNECTIONS
        and all(end.closed for end in relays.server_owner.ends)
        and not any(tunnel.machine.streams or tunnel._ends for tunnel in (relays.client, relays.server))
    )


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_applications_do(open_relays: Any, seed: int) -> None:
    chance = random.Random(seed)

    async def serve(stream: trio.SocketStream) -> None:
        await behave(stream, random.Random(chance.random()))

    async with open_relays(serve, SMALL if seed % 2 else None) as relays:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(CONNECTIONS):
                    stream = await relays.connect()
                    nursery.start_soon(behave, stream, random.Random(chance.random()))
                    if number % 6 == 5:  # a policy changes
                        for end in [*relays.server_owner.ends[-2:], *list(relays.client._ends)[:1]]:
                            assert isinstance(end, StreamEnd)
                            end.cut(PolicyDenied("no longer"))
            while not over(relays):  # noqa: ASYNC110 -- the relay has no events to wait for
                await trio.sleep(0.01)
        assert len(set(relays.closed)) == len(relays.closed) == CONNECTIONS
        for tunnel, engine in ((relays.client, relays.client_engine), (relays.server, relays.server_engine)):
            assert not tunnel.closed
            assert not tunnel.machine.streams
            assert not tunnel._ends
            assert engine.watched == 1
        for end in [*relays.closed, *relays.server_owner.ends]:
            assert end.sock.fileno() == -1
            assert end.backlog is None


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_applications_do_to_a_plain_pair(seed: int) -> None:
    chance = random.Random(seed)
    engine = Engine()
    reports: list[PlainPair] = []
    pairs: list[PlainPair] = []
    with socket.create_server(("127.0.0.1", 0)) as gate, socket.create_server(("127.0.0.1", 0)) as application:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            with trio.fail_after(20):
                async with trio.open_nursery() as applications:
                    for number in range(CONNECTIONS):
                        client = socket.create_connection(gate.getsockname())
                        accepted, dialled = gate.accept()[0], socket.socket()
                        for sock in (accepted, dialled):
                            sock.setblocking(False)
                        pair = PlainPair(engine, accepted, dialled, reports.append)
                        pairs.append(pair)
                        pair.dial(application.getsockname(), lambda _end: None)
                        for sock in (client, application.accept()[0]):
                            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                            applications.start_soon(behave, stream, random.Random(chance.random()))
                        await trio.lowlevel.checkpoint()
                        if number % 6 == 5:
                            pairs[-2].cut(PolicyDenied("no longer"))
                while len(reports) < CONNECTIONS:  # noqa: ASYNC110 -- the relay has no events to wait for
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert len(set(reports)) == len(reports) == CONNECTIONS
    assert engine.watched == 0
    assert all(end.sock.fileno() == -1 for pair in pairs for end in (pair.accepted, pair.dialled))
    engine.close()

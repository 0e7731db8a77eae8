"""A tunnel's own life: PINGs, drains, violations, failures in the middle of things."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mesh.errors import ConnectionLost, InternalError, TlsFailure
from mesh.hbone.codec import ErrorCode, encode_connect, frame
from mesh.hbone.contract import Http2Violation
from mesh.relay.tunnel import PING_EVERY, PING_TIMEOUT
from tests.mesh.relay.applications import echo, reset, says, talking, until


async def test_a_peer_that_answers_pings_is_kept(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        await talking(relays)
        now = relays.client_engine.now
        for _ in range(5):
            now += PING_EVERY + 1
            relays.client.tick(now)
            await until(lambda: relays.client._pinged_at is None)
        assert not relays.client.closed


async def test_a_peer_that_does_not_is_given_up(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        relays.server_engine.unregister(relays.server._fd)  # it hangs
        now = relays.client_engine.now + PING_EVERY + 1
        relays.client.tick(now)
        relays.client.tick(now + PING_TIMEOUT - 1)
        assert not relays.client.closed
        relays.client.tick(now + PING_TIMEOUT + 1)
        assert relays.client.closed
        await reset(client)
        (error,) = relays.client_owner.lost_with
        assert isinstance(error, ConnectionLost)
        assert "PING" in str(error)
        assert [end.error for end in relays.closed] == [error]


@pytest.mark.parametrize(
    "attack",
    [
        frame(6, 0, 1, b"garbage!"),  # PING on a stream
        frame(0, 0, 99, b"x"),  # DATA for a stream that never was
        frame(5, 4, 1, bytes(8)),  # PUSH_PROMISE
        frame(4, 0, 0, b"\0\4\xff\xff\xff\xff"),  # a window beyond 2 GiB
    ],
)
async def test_a_violation_ends_the_tunnel_with_its_reason(open_relays: Any, attack: bytes) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        relays.client.machine.outgoing += attack
        relays.client_engine.mark_dirty(relays.client)
        relays.client.flush()
        await until(lambda: relays.server.closed)
        assert isinstance(relays.server_owner.lost_with[0], Http2Violation)
        await until(lambda: relays.client.closed)
        assert relays.client_owner.went_away == 1  # the GOAWAY got through
        await reset(client)


@pytest.mark.parametrize("open_relays", ["openssl"], indirect=True)
async def test_bytes_that_are_no_tls_records(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        relays.client.sock.send(b"this is not TLS, at all")
        await until(lambda: relays.server.closed)
        assert isinstance(relays.server_owner.lost_with[0], TlsFailure)
        await reset(client)


async def test_a_bug_while_receiving_ends_the_tunnel(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        relays.server_owner.requested = lambda *_: 1 // 0
        relays.client.machine.open_stream(encode_connect("10.0.0.1:1"), Silent())
        await until(lambda: relays.server.closed)
        assert isinstance(relays.server_owner.lost_with[0], InternalError)
        assert not relays.server._ends
        await reset(client)


@pytest.mark.pure_form
async def test_a_bug_while_flushing_ends_the_tunnel(open_relays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)

        def fail(_self: Any) -> None:
            raise RuntimeError("surprise")

        with monkeypatch.context() as patch:
            patch.setattr(type(relays.client), "_send_outgoing", fail)
            await client.send_all(b"x")
            await until(lambda: relays.client.closed)
        assert isinstance(relays.client_owner.lost_with[0], InternalError)
        await reset(client)


async def test_a_stream_opened_while_the_tunnel_breaks_is_told(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        await until(lambda: not relays.client._dirty)
        relays.client_engine.unregister(relays.client._fd)  # so that writing is what finds out
        relays.client.sock.shutdown(2)
        relays.client._dirty = True  # something waits already, and it is long: the request makes it leave at once
        relays.client.machine.outgoing += bytes(300 * 1024)
        client = await relays.connect()
        await until(lambda: relays.client.closed)
        await until(lambda: relays.closed)
        assert isinstance(relays.closed[0].error, ConnectionLost)
        assert not relays.client._ends
        await reset(client)


async def test_a_drain_lets_streams_finish(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        relays.server.ask_to_leave()
        await until(lambda: relays.client_owner.went_away)
        assert relays.client.machine.free_streams == 0
        relays.server.drain()
        relays.server.drain()
        await until(lambda: relays.client_owner.went_away == 2)  # said once, not twice
        await says(client, b"still here")
        await client.send_eof()
        with trio.fail_after(5):
            assert await client.receive_some() == b""
        await until(lambda: relays.closed)
        assert relays.closed[0].error is None
        relays.server.close(None)
        await until(lambda: relays.client.closed)
        assert relays.client_owner.lost_with == [None]


async def test_closing_while_receiving_waits_for_the_bytes_at_hand(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        requested = relays.server_owner.requested

        def close_instead(tunnel: Any, stream: Any, headers: Any) -> None:
            tunnel.close(None)
            assert not tunnel.closed
            requested(tunnel, stream, headers)

        relays.server_owner.requested = close_instead
        relays.client.machine.open_stream(encode_connect("10.0.0.1:1"), Silent())
        await until(lambda: relays.server.closed)
        assert not relays.server._ends
        assert relays.server_engine.watched == 0
        await reset(client)


class Silent:
    """A stream's owner that takes note of nothing."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: None


async def test_goaway_with_an_error_closes_an_idle_tunnel(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        relays.server.machine.go_away(ErrorCode.ENHANCE_YOUR_CALM)
        await until(lambda: relays.client.closed)
        assert "code 11" in str(relays.client_owner.lost_with[0])


async def test_an_answer_that_is_a_reset_is_a_failure(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        relays.server_owner.requested = lambda tunnel, stream, _headers: tunnel.machine.reset_stream(
            stream, ErrorCode.CANCEL
        )
        client = await relays.connect()
        await reset(client)
        await until(lambda: relays.closed)
        assert isinstance(relays.closed[0].error, ConnectionLost)
        assert not relays.client.machine.streams


@pytest.mark.pure_form
async def test_a_failing_end_costs_its_connection_only(open_relays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_relays(echo) as relays:
        client, other = await talking(relays), await talking(relays)
        with monkeypatch.context() as patch:
            patch.setattr(type(relays.server_owner.ends[0]), "read_input", lambda _self: 1 // 0)
            await client.send_all(b"x")
            await reset(client)
        await says(other, b"and you?")
        assert not relays.client.closed
        assert len(relays.client.machine.streams) == len(relays.server.machine.streams) == 1

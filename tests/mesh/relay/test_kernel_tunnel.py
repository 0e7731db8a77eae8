"""What is different where the kernel has a tunnel's TLS: records of other kinds, its errors, how it ends."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import trio

from mesh.errors import ConnectionLost, MeshError, TlsFailure
from mesh.relay.kernel_tunnel import MAX_CONTROLS
from mesh.relay.tunnel import PING_EVERY
from mesh.tls.kernel_codec import ALERT, APPLICATION_DATA, BAD_RECORD, CLOSE_NOTIFY, HANDSHAKE
from tests.mesh.relay.applications import echo, reset, says, until

pytestmark = pytest.mark.parametrize("open_relays", ["kernel"], indirect=True)
TICKET = b"\x04\0\0\x08" + bytes(8)
KEY_UPDATE = b"\x18\0\0\1\0"


async def lost(relays: Any, client: trio.SocketStream) -> MeshError | None:
    """Why the client's tunnel ended, which its application was told by a reset."""
    await until(lambda: relays.client.closed)
    await reset(client)
    (error,) = relays.client_owner.lost_with
    assert [end.error for end in relays.closed] == [error]
    return error  # type: ignore[no-any-return]


async def test_tickets_do_not_disturb(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await says(client, b"before")
        relays.client.sock.records += [(HANDSHAKE, TICKET + TICKET), (HANDSHAKE, TICKET)]
        await says(client, b"after")
        assert relays.client.sock.records == []
        assert not relays.client.closed


async def test_records_that_carry_nothing_are_not_taken_for_ever(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await says(client, b"before")
        relays.client.sock.records += [(HANDSHAKE, TICKET)] * (MAX_CONTROLS + 1)
        await client.send_all(b"after")
        error = await lost(relays, client)
        assert isinstance(error, TlsFailure)
        assert str(MAX_CONTROLS) in str(error)


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        (HANDSHAKE, KEY_UPDATE, "changes its TLS keys"),
        (ALERT, b"\x02\x30", "does not trust our certificate"),
        (ALERT, b"", "0 bytes"),
        (20, b"\1", "kind 20"),
        (APPLICATION_DATA, b"words", "would not give out"),
    ],
)
async def test_records_that_end_a_tunnel(open_relays: Any, kind: int, content: bytes, words: str) -> None:
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await says(client, b"before")
        relays.client.sock.records.append((kind, content))
        await client.send_all(b"after")
        error = await lost(relays, client)
        assert isinstance(error, TlsFailure)
        assert words in str(error)


async def test_a_client_has_no_tickets_to_give(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await says(client, b"before")
        relays.server.sock.records.append((HANDSHAKE, TICKET))
        await client.send_all(b"after")
        await until(lambda: relays.server.closed)
        assert isinstance(relays.server_owner.lost_with[0], TlsFailure)


async def test_a_peer_that_says_good_bye(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await says(client, b"before")
        relays.client.sock.records.append((ALERT, CLOSE_NOTIFY))
        await client.send_all(b"after")
        error = await lost(relays, client)
        assert isinstance(error, ConnectionLost)
        assert "closed the tunnel" in str(error)


async def test_one_says_good_bye_oneself_after_all_that_was_to_be_said(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        # An answered PING leaves nothing unread, for which TCP would reset.
        relays.client.tick(relays.client_engine.now + PING_EVERY + 1)
        await until(lambda: relays.client._pinged_at is None)
        client_socket = relays.client.sock
        relays.client.drain()
        relays.client.close(None)
        assert client_socket.alerts == [CLOSE_NOTIFY]
        await until(lambda: relays.server.closed)
        assert relays.server_owner.went_away == 1
        assert relays.server_owner.lost_with == [None]


async def test_nothing_is_put_behind_half_of_what_was_to_be_said(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        await until(lambda: not relays.client._dirty)
        client_socket = relays.client.sock
        relays.server_engine.unregister(relays.server._fd)  # the peer reads no more
        relays.client.send_now(memoryview(bytes(64 * 1024 * 1024)))
        assert relays.client.blocked
        relays.client.close(None)
        assert client_socket.alerts == []


async def lost_by(relays: Any, client: trio.SocketStream, call: str, number: int) -> MeshError | None:
    """Why the client's tunnel ended, whose socket failed in this call with this ``errno``."""

    def fail(*_: Any) -> Any:
        raise OSError(number, "so says the kernel")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(relays.client.sock), call, fail)
        await client.send_all(b"after")
        return await lost(relays, client)


@pytest.mark.parametrize(
    ("number", "kind", "alert"),
    [
        (errno.EBADMSG, TlsFailure, BAD_RECORD),
        (errno.EMSGSIZE, TlsFailure, BAD_RECORD),
        (errno.ECONNRESET, ConnectionLost, CLOSE_NOTIFY),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
async def test_errors_of_the_socket(
    open_relays: Any, number: int, kind: type[MeshError], alert: bytes, behind: bool
) -> None:
    """Met in reading, or when a record of another kind is fetched."""
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await says(client, b"before")
        sock = relays.client.sock
        if behind:
            sock.records.append((HANDSHAKE, TICKET))
        error = await lost_by(relays, client, "recvmsg" if behind else "recv_into", number)
        assert isinstance(error, kind)
        assert sock.alerts == [alert]


async def test_what_is_wrong_with_a_record_may_be_told_when_something_is_sent(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await says(client, b"before")
        assert isinstance(await lost_by(relays, client, "send", errno.EMSGSIZE), TlsFailure)


async def test_a_record_that_is_gone_when_it_is_fetched(open_relays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await says(client, b"before")
        sock = relays.client.sock
        sock.records.append((HANDSHAKE, TICKET))

        def away(*_: Any) -> Any:
            sock.records.clear()
            raise BlockingIOError

        with monkeypatch.context() as patch:
            patch.setattr(type(sock), "recvmsg", away)
            await says(client, b"after")

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from trio.testing import MockClock

from mesh.errors import MeshError, TlsFailure
from mesh.testing.ca import TestAuthority
from mesh.tls.context import client_context, control_plane_context, control_plane_server_context, server_context
from mesh.tls.credentials import Credentials
from mesh.tls.failures import translate_ssl_error
from mesh.tls.handshake_driver import EstablishedTls, handshake
from mesh.tls.peer import peer_identity
from mesh.tls.suites import ALLOWED_SUITES

authority = TestAuthority()
CLIENT = authority.identity("default", "client")
SERVER = authority.identity("default", "server")
client_credentials = authority.issue(CLIENT)
server_credentials = authority.issue(SERVER)
Outcome = EstablishedTls | TlsFailure


def pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    left, right = trio.socket.socketpair()
    return left, right


async def attempt(sock: trio.socket.SocketType, context: ssl.SSLContext, server_side: bool) -> Outcome:
    """One side to its end, as a value; a failing side closes, as every caller does."""
    try:
        return await handshake(sock, context, server_side=server_side, deadline=trio.current_time() + 5)
    except TlsFailure as failure:
        sock.close()
        return failure


async def both(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[Outcome, Outcome]:
    """Run both sides; in TLS 1.3 the server's verdict on the client comes with the client's first read."""
    outcomes: dict[bool, Outcome] = {}
    left, right = pair()

    async def run(sock: trio.socket.SocketType, context: ssl.SSLContext, server_side: bool) -> None:
        outcomes[server_side] = await attempt(sock, context, server_side)

    with left, right:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, left, client, False)
            nursery.start_soon(run, right, server, True)
        first = outcomes[False]
        if isinstance(outcomes[True], TlsFailure) and isinstance(first, EstablishedTls):
            first.incoming.write(await left.recv(16384))
            try:
                first.ssl_object.read(1)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                outcomes[False] = translate_ssl_error(error, server_side=False)
    return outcomes[False], outcomes[True]


async def test_both_sides_learn_who_the_other_is() -> None:
    client, server = await both(client_context(client_credentials), server_context(server_credentials))
    assert isinstance(client, EstablishedTls)
    assert isinstance(server, EstablishedTls)
    assert peer_identity(client.peer_identity_der) == SERVER
    assert peer_identity(server.peer_identity_der) == CLIENT
    assert client.ssl_object.version() == "TLSv1.3"
    assert client.outgoing.pending == 0
    assert server.outgoing.pending == 0
    cipher = client.ssl_object.cipher()
    assert cipher is not None
    assert cipher[0] in ALLOWED_SUITES


async def test_a_chain_with_an_intermediate_is_followed() -> None:
    deep = TestAuthority(intermediate=True)
    client, server = await both(client_context(deep.issue(CLIENT)), server_context(deep.issue(SERVER)))
    assert isinstance(client, EstablishedTls)
    assert isinstance(server, EstablishedTls)


async def test_nothing_is_resumed_and_no_ticket_is_sent() -> None:
    client, _ = await both(client_context(client_credentials), server_context(server_credentials))
    assert isinstance(client, EstablishedTls)
    assert not client.ssl_object.session_reused
    session = client.ssl_object.session
    assert session is None or not session.has_ticket


async def test_bytes_sent_with_the_last_flight_are_kept_for_the_new_owner() -> None:
    left, right = pair()

    async def eager_client() -> None:
        """Sends its last flight and its first words in one piece."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context(client_credentials).wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        await left.send(outgoing.read())
        incoming.write(await left.recv(65536))
        client.do_handshake()
        client.write(b"early words")
        await left.send(outgoing.read())

    with left, right:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(eager_client)
            tls = await handshake(
                right, server_context(server_credentials), server_side=True, deadline=trio.current_time() + 5
            )
        assert tls.incoming.pending > 0
        assert tls.ssl_object.read(100) == b"early words"


def expired(identity_credentials: Credentials) -> Credentials:
    return authority.issue(identity_credentials.identity, lifetime=timedelta(seconds=-5))


foreign = TestAuthority("cluster.local")

REFUSED_BY_SERVER = {
    "another root": (replace(foreign.issue(CLIENT), roots=authority.roots), "issuer", "root"),
    "expired": (expired(client_credentials), "has expired", "expired"),
    "not for clients": (
        authority.issue(CLIENT, usages=[ExtendedKeyUsageOID.SERVER_AUTH]), "key usage", "refused|key usage",
    ),
}


@pytest.mark.parametrize("name", REFUSED_BY_SERVER)
async def test_the_server_refuses_and_both_sides_can_say_why(name: str) -> None:
    credentials, server_says, client_says = REFUSED_BY_SERVER[name]
    client, server = await both(client_context(credentials), server_context(server_credentials))
    assert isinstance(server, TlsFailure)
    assert isinstance(client, TlsFailure)
    assert server.__cause__ is not None
    with pytest.raises(TlsFailure, match=server_says):
        raise server
    with pytest.raises(TlsFailure, match=client_says):
        raise client


REFUSED_BY_CLIENT = {
    "another root": (replace(foreign.issue(SERVER), roots=authority.roots), "issuer"),
    "expired": (expired(server_credentials), "has expired"),
    "not for servers": (authority.issue(SERVER, usages=[ExtendedKeyUsageOID.CLIENT_AUTH]), "key usage"),
}


@pytest.mark.parametrize("name", REFUSED_BY_CLIENT)
async def test_the_client_refuses_and_the_server_is_told(name: str) -> None:
    credentials, client_says = REFUSED_BY_CLIENT[name]
    client, server = await both(client_context(client_credentials), server_context(credentials))
    assert isinstance(server, TlsFailure)
    with pytest.raises(TlsFailure, match=client_says):
        raise client if isinstance(client, TlsFailure) else AssertionError(client)


async def test_a_client_without_certificate_is_refused() -> None:
    bare = control_plane_context(authority.roots)
    bare.check_hostname = False
    client, server = await both(bare, server_context(server_credentials))
    with pytest.raises(TlsFailure, match="showed no certificate"):
        raise server if isinstance(server, TlsFailure) else AssertionError(server)
    with pytest.raises(TlsFailure, match="wants a client certificate"):
        raise client if isinstance(client, TlsFailure) else AssertionError(client)


async def test_a_peer_without_h2_is_refused() -> None:
    plain = client_context(client_credentials)
    plain.set_alpn_protocols(["http/1.1"])
    _, server = await both(plain, server_context(server_credentials))
    with pytest.raises(TlsFailure, match="no application protocol"):
        raise server if isinstance(server, TlsFailure) else AssertionError(server)


async def test_an_old_tls_is_refused() -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_verify_locations(cadata=authority.roots.decode())
    _, server = await both(old, server_context(server_credentials))
    with pytest.raises(TlsFailure, match=r"TLS 1\.3 only"):
        raise server if isinstance(server, TlsFailure) else AssertionError(server)


@asynccontextmanager
async def server_failure(match: str) -> AsyncIterator[trio.socket.SocketType]:
    """The raw client end; the server must fail with ``match`` by the end of the block."""
    left, right = pair()
    with left, right:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def serve() -> None:
                with pytest.raises(TlsFailure, match=match):
                    await handshake(
                        right, server_context(server_credentials), server_side=True, deadline=trio.current_time() + 5
                    )
                right.close()

            yield left


async def test_plain_http_is_named() -> None:
    async with server_failure("plain HTTP") as raw:
        await raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_garbage_is_named() -> None:
    async with server_failure("does not speak TLS|broke TLS") as raw:
        await raw.send(bytes(range(256)) * 4)


async def test_a_port_check_is_named() -> None:
    async with server_failure("without a byte") as raw:
        raw.shutdown(socket.SHUT_WR)


async def test_a_peer_that_gives_up_is_named() -> None:
    async with server_failure("after 5 bytes") as raw:
        await raw.send(b"\x16\x03\x01\x02\x00")
        raw.shutdown(socket.SHUT_WR)


async def test_a_reset_is_a_tls_failure() -> None:
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    raw = trio.socket.socket()
    with listener, raw:
        await raw.connect(listener.getsockname())
        accepted, _ = await listener.accept()
        with accepted:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            raw.close()
            with pytest.raises(TlsFailure, match="connection broke"):
                await handshake(accepted, server_context(server_credentials), server_side=True, deadline=1e9)


async def test_an_endless_handshake_is_cut() -> None:
    async def send_for_ever(raw: trio.socket.SocketType) -> None:
        # Records of 16 KiB that claim to be parts of one handshake message of 16 MiB.
        while True:
            await raw.send(b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" + bytes(16380))

    async with server_failure("more than|broke TLS|does not speak") as raw:
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            await send_for_ever(raw)


async def test_a_silent_peer_costs_no_more_than_the_deadline(autojump_clock: MockClock) -> None:
    left, right = pair()
    with left, right:
        start = trio.current_time()
        with pytest.raises(TlsFailure, match="no TLS handshake in time"):
            await handshake(right, server_context(server_credentials), server_side=True, deadline=start + 10)
        assert trio.current_time() - start == pytest.approx(10)


async def test_cancellation_from_outside_is_not_turned_into_a_failure(autojump_clock: MockClock) -> None:
    left, right = pair()
    with left, right:
        with trio.move_on_after(1) as scope:
            await handshake(right, server_context(server_credentials), server_side=True, deadline=1e9)
        assert scope.cancelled_caught


async def test_control_plane_contexts_meet() -> None:
    operator = authority.issue_server("operator.test")
    client = control_plane_context(authority.roots)
    client.check_hostname = False  # The driver dials without a name; grpc's own client sets it.
    ours, theirs = await both(client, control_plane_server_context(operator.certificate_chain, operator.key))
    assert isinstance(ours, EstablishedTls)
    assert isinstance(theirs, EstablishedTls)
    assert theirs.peer_identity_der == b""


# -- an independent peer: the openssl command --------------------------------------------------------------------------


def write_chain(folder: Path, credentials: Credentials) -> Path:
    """A throwaway test key for the openssl command, which reads files only."""
    key = credentials.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "chain.pem"
    path.write_bytes(key + b"".join(credentials.certificate_chain))
    (folder / "roots.pem").write_bytes(credentials.roots)
    return path


async def openssl_client(tmp_path: Path, *options: str) -> tuple[Outcome, str]:
    """Our server against ``openssl s_client``; its combined output."""
    listener = trio.socket.socket()
    with listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(tmp_path / "roots.pem"),
                   "-verify_return_error", "-noservername", *options]
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "OPENSSL_CONF": "/dev/null"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.fail_after(20):
            accepted, _ = await listener.accept()
            with accepted:
                outcome = await attempt(accepted, server_context(server_credentials), True)
                if isinstance(outcome, EstablishedTls):
                    outcome.ssl_object.write(b"hello from ambimesh\n")
                    await accepted.send(outcome.outgoing.read())
                    with pytest.raises(ssl.SSLWantReadError):
                        outcome.ssl_object.unwrap()
                    await accepted.send(outcome.outgoing.read())
            await process.stdin.aclose()
            text = b"".join([chunk async for chunk in process.stdout]).decode(errors="replace")
            await process.wait()
    return outcome, text


async def test_openssl_client_connects(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, client_credentials)
    outcome, text = await openssl_client(tmp_path, "-cert", str(chain), "-key", str(chain), "-alpn", "h2")
    assert isinstance(outcome, EstablishedTls), text
    assert peer_identity(outcome.peer_identity_der) == CLIENT
    assert "hello from ambimesh" in text
    assert "TLSv1.3" in text
    assert "ALPN protocol: h2" in text
    assert "New Session Ticket" not in text


async def test_openssl_client_is_refused_for_each_thing_it_lacks(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, client_credentials)
    certificate = ("-cert", str(chain), "-key", str(chain))
    for options, match in [
        (("-alpn", "h2"), "showed no certificate"),
        (certificate, "no application protocol"),
        ((*certificate, "-alpn", "h2", "-tls1_2"), r"TLS 1\.3 only"),
        ((*certificate, "-alpn", "h2", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"), "AES"),
    ]:
        outcome, text = await openssl_client(tmp_path, *options)
        assert isinstance(outcome, TlsFailure), (options, text)
        with pytest.raises(MeshError, match=match):
            raise outcome


async def test_openssl_server_is_reached_without_server_name(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, server_credentials)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(chain), "-key", str(chain),
               "-CAfile", str(tmp_path / "roots.pem"), "-Verify", "2", "-verify_return_error", "-alpn", "h2",
               "-naccept", "1", "-tlsextdebug"]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OPENSSL_CONF": "/dev/null"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(20):
            text = b""
            while b"ACCEPT" not in text:
                text += await process.stdout.receive_some()
            sock = trio.socket.socket()
            with sock:
                await sock.connect(("127.0.0.1", port))
                tls = await handshake(
                    sock, client_context(client_credentials), server_side=False, deadline=trio.current_time() + 5
                )
                assert peer_identity(tls.peer_identity_der) == SERVER
                tls.ssl_object.write(b"words for openssl\n")
                await sock.send(tls.outgoing.read())
                while b"words for openssl" not in text:
                    text += await process.stdout.receive_some()
    finally:
        process.kill()
        await process.wait()
    assert b'TLS client extension "supported versions"' in text  # What is said of the client is complete.
    assert b'TLS client extension "server name"' not in text
    assert b"ALPN protocols selected: h2" in text

"""Handshakes whose keys are given away: whose secrets they are, and what is left in the socket."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog.testing
import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.certificates.contexts import ContextCache
from mesh.errors import TlsFailure
from mesh.testing.ca import TestAuthority
from mesh.tls.context import client_context
from mesh.tls.handshake_driver import EstablishedTls, KernelHasTls, handshake
from mesh.tls.kernel_driver import AnySocket, KernelTls
from mesh.tls.key_log_driver import KeyLog
from mesh.tls.key_schedule_codec import Suite, TrafficSecrets, record_keys
from mesh.tls.peer import peer_identity

authority = TestAuthority()
CLIENT = authority.identity("default", "client")
SERVER = authority.identity("default", "server")
client_credentials = authority.issue(CLIENT)
server_credentials = authority.issue(SERVER)


class Recording(KernelTls):
    """Takes note instead of giving anything to the kernel."""

    def __init__(self) -> None:
        super().__init__(KeyLog())
        self.willing = True
        self.took: dict[bool, list[tuple[Suite, TrafficSecrets]]] = {False: [], True: []}
        """By ``server_side``."""

    def give(self, sock: AnySocket, suite: Suite, secrets: TrafficSecrets, *, server_side: bool) -> bool:
        self.took[server_side].append((suite, secrets))
        return self.willing


@pytest.fixture
def kernel() -> Iterator[Recording]:
    recording = Recording()
    yield recording
    recording.key_log.close()


@pytest.fixture
def contexts(kernel: Recording) -> ContextCache:
    return ContextCache(kernel.key_log)


async def give(sock: trio.socket.SocketType, context: ssl.SSLContext, kernel: KernelTls, server_side: bool) -> object:
    deadline = trio.current_time() + 5
    return await handshake(sock, context, server_side=server_side, deadline=deadline, kernel=kernel)


async def both(contexts: ContextCache, kernel: Recording) -> tuple[object, object]:
    """What the client's side and the server's come to."""
    results: dict[bool, object] = {}
    left, right = trio.socket.socketpair()

    async def run(sock: trio.socket.SocketType, context: ssl.SSLContext, server_side: bool) -> None:
        results[server_side] = await give(sock, context, kernel, server_side)

    with left, right:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, left, contexts.client(client_credentials), False)
            nursery.start_soon(run, right, contexts.server(server_credentials), True)
    return results[False], results[True]


async def test_both_sides_give_the_same_secrets_and_know_who_the_other_is(
    contexts: ContextCache, kernel: Recording
) -> None:
    client, server = await both(contexts, kernel)
    assert isinstance(client, KernelHasTls)
    assert isinstance(server, KernelHasTls)
    assert peer_identity(client.peer_identity_der) == SERVER
    assert peer_identity(server.peer_identity_der) == CLIENT
    assert kernel.took[False] == kernel.took[True]
    (suite, secrets), = kernel.took[False]
    assert secrets.client != secrets.server
    assert {len(secret) for secret in secrets} == {suite.digest.digest_size}


async def test_handshakes_at_the_same_time_on_shared_contexts_keep_apart(
    contexts: ContextCache, kernel: Recording
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(both, contexts, kernel)
    assert len(kernel.took[False]) == 40
    assert len({secrets for _, secrets in kernel.took[False]}) == 40
    assert {secrets for _, secrets in kernel.took[False]} == {secrets for _, secrets in kernel.took[True]}


async def test_nothing_of_a_handshake_stays_in_the_log(contexts: ContextCache, kernel: Recording) -> None:
    await both(contexts, kernel)
    assert kernel.key_log.take() == b""


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_the_peer_sends_with_its_last_flight_stays_in_the_socket(
    contexts: ContextCache, kernel: Recording, at_once: bool
) -> None:
    """And is record number 0, which is what the kernel is told."""
    left, right = trio.socket.socketpair()

    async def eager_client() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context(client_credentials).wrap_bio(incoming, outgoing)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                await left.send(outgoing.read())
                incoming.write(await left.recv(65536))
        client.write(b"early words")
        words = outgoing.read()
        for piece in [words] if at_once else [bytes([byte]) for byte in words]:
            await left.send(piece)

    with left, right:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(eager_client)
            tls = await give(right, contexts.server(server_credentials), kernel, True)
        assert isinstance(tls, KernelHasTls)
        (suite, secrets), = kernel.took[True]
        keys = record_keys(suite, secrets.client)
        record = await right.recv(65536)
        assert AESGCM(keys.key).decrypt(keys.iv, record[5:], record[:5]) == b"early words\x17"


async def test_a_kernel_that_declines_leaves_a_connection_that_openssl_goes_on_with(
    contexts: ContextCache, kernel: Recording
) -> None:
    kernel.willing = False
    client, server = await both(contexts, kernel)
    assert isinstance(client, EstablishedTls)
    assert isinstance(server, EstablishedTls)
    client.ssl_object.write(b"as before")
    server.incoming.write(client.outgoing.read())
    assert server.ssl_object.read(100) == b"as before"


async def test_a_context_that_tells_nothing_leaves_it_to_openssl(kernel: Recording) -> None:
    with structlog.testing.capture_logs() as logs:
        results = await both(ContextCache(), kernel)
    assert all(isinstance(result, EstablishedTls) for result in results)
    assert kernel.took == {False: [], True: []}
    assert kernel.declined == 2
    assert "lacks a traffic secret" in logs[0]["error"]


async def test_lines_that_were_written_between_steps_are_somebody_elses(
    contexts: ContextCache, kernel: Recording
) -> None:
    """Whatever random they begin with."""

    async def others() -> None:
        with open(f"/proc/self/fd/{kernel.key_log._fd}", "ab", buffering=0) as log:  # noqa: ASYNC230 -- in memory
            while True:
                log.write(b"CLIENT_TRAFFIC_SECRET_0 " + b"ab" * 32 + b" " + b"00" * 48 + b"\n")
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        results = await both(contexts, kernel)
        nursery.cancel_scope.cancel()
    assert all(isinstance(result, KernelHasTls) for result in results)
    assert kernel.took[False] == kernel.took[True]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "plain HTTP"),
        (b"hello, who is there?", "does not speak TLS"),
        (b"\x16\x03\x01\xff", "after 4 bytes"),
        (b"\x16\x03\x01\x40\x00" + bytes(100), "after 105 bytes"),
        (b"", "without a byte"),
    ],
)
async def test_peers_that_do_not_speak_tls_are_told_apart_as_ever(
    contexts: ContextCache, kernel: Recording, said: bytes, words: str
) -> None:
    left, right = trio.socket.socketpair()
    with left, right:
        if said:
            await left.send(said)
        left.shutdown(socket.SHUT_WR)
        with pytest.raises(TlsFailure, match=words):
            await give(right, contexts.server(server_credentials), kernel, True)


async def test_a_stranger_is_refused_before_anything_is_given(contexts: ContextCache, kernel: Recording) -> None:
    other = TestAuthority()
    stranger = replace(other.issue(other.identity("a", "b")), roots=client_credentials.roots)
    left, right = trio.socket.socketpair()

    async def server() -> None:
        with pytest.raises(TlsFailure, match="not acceptable"):
            await give(right, contexts.server(server_credentials), kernel, True)

    with left, right:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server)
            await handshake(left, client_context(stranger), server_side=False, deadline=trio.current_time() + 5)
    assert kernel.took == {False: [], True: []}


async def test_what_either_side_sends_first_is_record_number_zero(contexts: ContextCache, kernel: Recording) -> None:
    """Of a server that sent tickets it would not be."""
    kernel.willing = False
    ends = await both(contexts, kernel)
    (suite, secrets), = kernel.took[True]
    for end, secret in zip(ends, secrets, strict=True):
        assert isinstance(end, EstablishedTls)
        end.ssl_object.write(b"first")
        keys, record = record_keys(suite, secret), end.outgoing.read()
        assert AESGCM(keys.key).decrypt(keys.iv, record[5:], record[:5]) == b"first\x17"

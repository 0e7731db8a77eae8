"""TLS in the kernel, by a kernel that has it, against OpenSSL and against itself: what it carries."""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization

from mesh.certificates.contexts import ContextCache
from mesh.errors import TlsFailure
from mesh.hbone.contract import Role
from mesh.relay.engine import Engine
from mesh.relay.tunnels import make_tunnel
from mesh.tls import kernel_driver
from mesh.tls.credentials import Credentials
from mesh.tls.handshake_driver import EstablishedTls, KernelHasTls, handshake
from mesh.tls.kernel_driver import KernelTls
from mesh.tls.key_schedule_codec import SUITES
from tests.mesh.relay.applications import echo, talking, until
from tests.vm.kernel_tls import CLIENT, SERVER, SIDES, Owner, relays_between, shaken

pytestmark = [pytest.mark.vm, pytest.mark.root]

BULK = 50 * 1024 * 1024
TRIAL = """
from mesh.tls.kernel_driver import describe, find_kernel_tls
print(describe(find_kernel_tls("auto")))
"""
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--")


# -- whether it is there -----------------------------------------------------------------------------------------------


def tried_by_another_process(*before: str) -> str:
    done = subprocess.run([*before, sys.executable, "-c", TRIAL], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def module_is_loaded() -> bool:
    with open("/proc/modules") as modules:
        return any(line.startswith("tls ") for line in modules)


def test_a_process_without_privileges_has_it_only_when_the_module_is_there() -> None:
    subprocess.run(["modprobe", "--remove", "tls"], check=True)
    assert "modprobe tls" in tried_by_another_process(*UNPRIVILEGED)
    assert not module_is_loaded()
    subprocess.run(["modprobe", "tls"], check=True)
    assert tried_by_another_process(*UNPRIVILEGED) == "on: 0 connections, 0 declined"


def test_a_process_with_privileges_has_the_kernel_load_the_module() -> None:
    subprocess.run(["modprobe", "--remove", "tls"], check=True)
    assert tried_by_another_process() == "on: 0 connections, 0 declined"
    assert module_is_loaded()


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_both_suites_stand_the_trial(suite: Any) -> None:
    kernel_driver._try_out(suite)


# -- what it carries ---------------------------------------------------------------------------------------------------


@SIDES
async def test_bulk_arrives_whole_in_both_directions_at_once(
    kernel: KernelTls, of_client: bool, of_server: bool
) -> None:
    bulk = random.Random(1).randbytes(BULK)
    wanted = hashlib.sha256(bulk).digest()
    served: list[bytes] = []

    async def take(stream: trio.SocketStream) -> bytes:
        digest, size = hashlib.sha256(), 0
        async for chunk in stream:
            digest.update(chunk)
            size += len(chunk)
        assert size == BULK
        return digest.digest()

    async def give(stream: trio.SocketStream) -> None:
        view = memoryview(bulk)
        sizes = random.Random(2)
        while view:
            size = sizes.choice((1, 100, 16384, 16385, 300_000, 1 << 20))
            await stream.send_all(view[:size])
            view = view[size:]
        await stream.send_eof()

    async def both(stream: trio.SocketStream, seen: list[bytes]) -> None:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(give, stream)
            seen.append(await take(stream))

    seen: list[bytes] = []
    client, server = await shaken(kernel, of_client, of_server)
    async with relays_between(client, server, lambda stream: both(stream, served)) as relays:
        with trio.fail_after(600):
            await both(await relays.connect(), seen)
        await until(lambda: served)
        assert seen == served == [wanted]
        assert relays.client_owner.lost_with == relays.server_owner.lost_with == []


@SIDES
async def test_many_streams_of_small_messages(kernel: KernelTls, of_client: bool, of_server: bool) -> None:
    client, server = await shaken(kernel, of_client, of_server)
    async with relays_between(client, server, echo) as relays:

        async def talk(number: int) -> None:
            sizes = random.Random(number)
            async with await relays.connect() as stream:
                for _ in range(20):
                    words = os.urandom(sizes.randint(1, 200))
                    await stream.send_all(words)
                    heard = b""
                    while len(heard) < len(words):
                        heard += await stream.receive_some()
                    assert heard == words

        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(talk, number)


@SIDES
async def test_what_a_full_socket_does_not_take_waits_and_goes_out(
    kernel: KernelTls, of_client: bool, of_server: bool
) -> None:
    client, server = await shaken(kernel, of_client, of_server)
    client[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    server[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    bulk = random.Random(3).randbytes(1 << 20)
    heard = bytearray()
    async with relays_between(client, server, echo) as relays:
        stream = await talking(relays)
        relays.server.engine.modify(server[0].fileno(), 0)  # it reads no more

        async def listen() -> None:
            while len(heard) < len(bulk):
                heard.extend(await stream.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bulk)
            nursery.start_soon(listen)
            await until(lambda: relays.client.blocked)
            relays.server.engine.modify(server[0].fileno(), select.EPOLLIN)
            await until(lambda: len(heard) == len(bulk), 300)
    assert heard == bulk


@pytest.mark.parametrize("suite", SUITES)
async def test_openssls_own_program_is_understood(kernel: KernelTls, suite: str, tmp_path: Path) -> None:
    """Whichever suite it offers. In the end it changes its keys, as a line `K` has it do."""
    for name, pem in (("chain", b"".join(CLIENT.certificate_chain)), ("key", key_pem(CLIENT)), ("roots", CLIENT.roots)):
        (tmp_path / name).write_bytes(pem)
    contexts = ContextCache(kernel.key_log)
    engine = Engine()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-alpn", "h2"]
        command += ["-cert", "chain", "-key", "key", "-CAfile", "roots", "-tls1_3", "-ciphersuites", suite]
        client = started(command, tmp_path)
        listener.settimeout(60)
        accepted = trio.socket.from_stdlib_socket(listener.accept()[0])
    with client:
        assert client.stdin is not None
        assert client.stdout is not None
        tls = await handshake(
            accepted, contexts.server(SERVER), server_side=True, deadline=trio.current_time() + 60, kernel=kernel
        )
        assert isinstance(tls, KernelHasTls)
        sock = socket.socket(fileno=accepted.detach())
        sock.settimeout(60)
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        assert sock.recv(100) == b"hello\n"
        sock.send(b"and an answer\n")
        client.stdin.write(b"K\n")
        client.stdin.flush()
        sock.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            owner = Owner(engine)
            tunnel = make_tunnel(engine, sock, tls, Role.SERVER, owner, "peer")
            tunnel.start()
            await until(lambda: tunnel.closed)
            nursery.cancel_scope.cancel()
        said, _ = client.communicate(timeout=60)
    engine.close()
    assert suite.encode() in said
    assert b"and an answer\n" in said
    (error,) = owner.lost_with
    assert isinstance(error, TlsFailure)
    assert "changes its TLS keys" in str(error)


def started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def key_pem(credentials: Credentials) -> bytes:
    return credentials.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


async def test_nothing_is_readable_on_the_wire_and_nothing_is_kept(kernel: KernelTls) -> None:
    """What one end sends is no plain text to whoever reads the socket below TLS, and the log is empty."""
    (sock, _), (peer_socket, peer) = await shaken(kernel, True, False)
    assert isinstance(peer, EstablishedTls)
    with sock, peer_socket:
        sock.send(b"words that nobody else may read")
        peer_socket.setblocking(True)
        record = peer_socket.recv(65536)
        assert record[:3] == b"\x17\x03\x03"
        assert b"words" not in record
        peer.incoming.write(record)
        assert peer.ssl_object.read(100) == b"words that nobody else may read"
    assert kernel.key_log.take() == b""

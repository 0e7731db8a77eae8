"""What strangers, liars and broken peers send to a pod's gate: refused, recorded, counted; nobody else is harmed."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import trio

from ambimesh.demo.stage import NAMESPACE, REDIRECTION
from mesh.errors import TlsFailure
from mesh.identity import SpiffeId
from mesh.netns import NetworkNamespace
from mesh.testing.ca import TestAuthority
from mesh.tls.context import server_context
from mesh.tls.handshake_driver import handshake
from resources.objects import Pod
from ztunnel.cores import number_of_workers

pytestmark = pytest.mark.lab

NODE = "node2"
"""Where the attacked pod, tcp-echo, runs."""
PORT = 9000


@pytest.fixture(scope="module", autouse=True)
def _enrolled(scene: Any) -> None:
    trio.run(scene.enrol)


@asynccontextmanager
async def bystander(scene: Any) -> AsyncIterator[None]:
    """Live traffic of a well-behaved client to the same pod, which must not notice anything."""
    address = scene.stage.address("tcp-echo")
    async with (
        scene.stage.client("client-a", address, PORT, "--every", "0.02") as kept,
        scene.stage.client("client-b", address, PORT, "--every", "0.05", "--reconnect") as short,
    ):
        await scene.until(lambda: kept.count("echoed") and short.count("good") > 1, 5, lambda: "no traffic")
        yield
        before = short.count("good")
        await scene.until(lambda: short.count("good") > before + 2, 5, lambda: "new connections suffer")
        assert kept.process.returncode is None
        assert not short.count("failed"), short.events


async def ended(stream: trio.SocketStream, seconds: float = 5) -> bytes:
    """What still comes until the other side ends the connection."""
    received = b""
    with trio.fail_after(seconds):
        try:
            while data := await stream.receive_some():
                received += data
        except trio.BrokenResourceError:
            pass
    return received


async def test_bytes_that_are_no_tls(scene: Any) -> None:
    host = scene.stage.address("tcp-echo")
    start, failed = scene.position(NODE), await scene.failures(NODE, "TLS_FAILURE")
    record = b"\x16\x03\x01\x40\x00"
    attacks = {
        "garbage": random.Random(7).randbytes(5000),
        "plain http": b"GET / HTTP/1.1\r\nHost: tcp-echo\r\n\r\n",
        "plain http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        "half a record": b"\x16\x03\x01\x40\x00" + bytes(100),
        "endless hello": record + b"\x01\x03\xff\xff" + bytes(16380) + (record + bytes(16384)) * 16,
        "nothing": b"",
    }
    async with bystander(scene):
        for name, attack in attacks.items():
            async with scene.dial(scene.node_netns("node1"), host, 15008) as stream:
                try:
                    await stream.send_all(attack)
                    await stream.send_eof()
                except trio.BrokenResourceError:
                    pass
                answer = await ended(stream)
            assert b"HTTP" not in answer, name
    for _ in attacks:
        await scene.recorded(NODE, start, "error=", "TLS")
    assert await scene.failures(NODE, "TLS_FAILURE") == failed + len(attacks)
    assert len([line for line in scene.records(NODE, start) if "TLS" in line]) == len(attacks)


async def test_certificates_that_do_not_count(scene: Any) -> None:
    host = scene.stage.address("tcp-echo")
    start, failed = scene.position(NODE), await scene.failures(NODE, "TLS_FAILURE")
    friend = scene.authority.identity(NAMESPACE, "client-a")
    stranger = TestAuthority()
    hostile = {
        "of an authority nobody knows": stranger.issue(stranger.identity(NAMESPACE, "client-a")),
        "of a foreign trust domain": scene.authority.issue(SpiffeId("elsewhere.example", NAMESPACE, "client-a")),
        "expired": scene.authority.issue(friend, lifetime=timedelta(seconds=-5)),
        "without a name": scene.authority.issue(friend, uris=[]),
        "with two names": scene.authority.issue(friend, uris=[str(friend), "spiffe://cluster.local/ns/a/sa/b"]),
        "with a name of another form": scene.authority.issue(friend, uris=["spiffe://cluster.local/client-a"]),
    }
    async with bystander(scene):
        for name, credentials in hostile.items():
            # Without the roots, such a client would not even believe the server.
            trusting = type(credentials)(**{
                field: getattr(credentials, field) for field in credentials.__dataclass_fields__
            } | {"roots": scene.authority.roots})
            with pytest.raises(TlsFailure):
                async with scene.tunnel(scene.node_netns("node1"), host, trusting):
                    pytest.fail(f"a certificate {name} was accepted")
    for part in ("trust domain", "expired"):
        await scene.recorded(NODE, start, "error=", part)
    await scene.until(
        lambda: len([line for line in scene.records(NODE, start) if "error=" in line]) == len(hostile),
        5,
        lambda: scene.records(NODE, start),
    )
    assert await scene.failures(NODE, "TLS_FAILURE") == failed + len(hostile)


async def test_no_certificate_at_all(scene: Any) -> None:
    host = scene.stage.address("tcp-echo")
    start = scene.position(NODE)
    status, output = await scene.stage.execute(
        "visitor", "curl", "-sk", "--http2", "--max-time", "5", f"https://{host}:15008/", namespace="outside"
    )
    assert status != 0, output
    await scene.recorded(NODE, start, "certificate", "error=")


REQUESTS = [
    # method, authority with HOST for the pod's address, other fields; status; a part of the reason
    ("CONNECT", "HOST:9000", [], 200, ""),
    ("CONNECT", "[::ffff:HOST]:9000", [], 200, ""),
    ("CONNECT", "OTHER:8080", [], 400, "not an address of pod"),
    ("CONNECT", "127.0.0.1:9000", [], 400, "not an address of pod"),
    ("CONNECT", "[::1]:9000", [], 400, "not an address of pod"),
    ("CONNECT", "0.0.0.0:9000", [], 400, "not an address of pod"),
    ("CONNECT", "tcp-echo.demo.svc.cluster.local:9000", [], 400, "no gateway"),
    ("CONNECT", "HOST:15001", [], 503, "the mesh's own"),
    ("CONNECT", "HOST:15006", [], 503, "the mesh's own"),
    ("CONNECT", "HOST:15008", [], 503, "the mesh's own"),
    ("CONNECT", "[::ffff:HOST]:15006", [], 503, "the mesh's own"),
    ("CONNECT", "HOST:9", [], 503, "cannot connect"),
    ("CONNECT", "HOST:0", [], 400, "authority"),
    ("CONNECT", "HOST:99999", [], 400, "authority"),
    ("CONNECT", "HOST", [], 400, "authority"),
    ("CONNECT", "", [], 400, "authority"),
    ("CONNECT", "x" * 2000 + ":80", [], 400, "authority"),
    ("CONNECT", 'a" direction="inbound\n:80', [], 400, "authority"),
    ("CONNECT", "HOST:9000", [(":path", "/"), (":scheme", "https")], 400, ":path"),
    ("GET", "HOST:9000", [(":path", "/"), (":scheme", "https")], 400, "method 'GET'"),
    ("connect", "HOST:9000", [], 400, "method 'connect'"),
    ("CONNECT", "HOST:9000", [("forwarded", 'for="10.244.1.77:4711"'), ("baggage", "=" * 3000)], 200, ""),
]


@pytest.mark.parametrize("place", ["client-b", "node1"])
async def test_requests_that_are_not_ours_to_serve(scene: Any, place: str) -> None:
    """Through a tunnel whose client is known: status, record, and the tunnel goes on serving."""
    host, other = scene.stage.address("tcp-echo"), scene.stage.address("echo-2")
    netns = scene.node_netns(place) if place == "node1" else scene.pod_netns(place)
    start = scene.position(NODE)
    async with bystander(scene), scene.tunnel(netns, host, scene.identity("client-b")) as tunnel:
        for method, pattern, fields, expected, reason in REQUESTS:
            authority = pattern.replace("HOST", host).replace("OTHER", other)
            number, status = await tunnel.request([(":method", method), (":authority", authority), *fields])
            assert status == expected, (method, authority[:60], fields)
            if status == 200:
                assert await tunnel.exchange(number, b"hello") == b"hello"
                tunnel.http.reset_stream(number)
                await tunnel.stream.send_all(tunnel.http.data_to_send())
            else:
                record = await scene.recorded(NODE, start, "error=", reason)
                assert "src.identity" in record
    await scene.until(
        lambda: len([one for one in scene.records(NODE, start) if "client-b" in one]) >= len(REQUESTS),
        5,
        lambda: scene.records(NODE, start),
    )
    # A client's word about where it comes from counts only as long as its tunnel comes from there, too.
    assert not any("10.244.1.77" in line for line in scene.records(NODE, start))


async def test_policy_denies_with_401_and_nothing_a_client_says_changes_that(scene: Any) -> None:
    host = scene.stage.address("tcp-echo")
    allowed = scene.stage.address("client-a")
    start, denied = scene.position(NODE), await scene.failures(NODE, "DENY")
    claims = [
        [],
        [("forwarded", f'for="{allowed}:1"')],
        [("baggage", "k8s.namespace.name=demo,service.name=client-a")],
        [("x-forwarded-network", "elsewhere")],
    ]
    scene.stage.apply("allow-client-a.yaml")
    try:
        await scene.until(
            lambda: _is_refused(scene), 10, lambda: "the policy does not arrive"
        )
        before = await scene.failures(NODE, "DENY")
        netns = scene.node_netns("node1")
        async with scene.tunnel(netns, host, scene.identity("client-b")) as tunnel:
            for claim in claims:
                _, status = await tunnel.request([(":method", "CONNECT"), (":authority", f"{host}:9000"), *claim])
                assert status == 401
        async with scene.tunnel(netns, host, scene.identity("client-a")) as tunnel:
            number, status = await tunnel.connect(f"{host}:9000")
            assert status == 200
            assert await tunnel.exchange(number, b"hello") == b"hello"
        assert await scene.failures(NODE, "DENY") >= before + len(claims) > denied
        await scene.recorded(NODE, start, "error=", "sa/client-b")
    finally:
        scene.stage.delete("allow-client-a.yaml")
        await scene.until(
            lambda: _is_admitted(scene), 10, lambda: "the policy does not go"
        )


async def _is_admitted(scene: Any) -> bool:
    async with scene.tunnel(
        scene.node_netns("node1"), scene.stage.address("tcp-echo"), scene.identity("client-b")
    ) as tunnel:
        _, status = await tunnel.connect(f"{scene.stage.address('tcp-echo')}:9000")
    return bool(status == 200)


async def _is_refused(scene: Any) -> bool:
    return not await _is_admitted(scene)


async def test_a_peer_that_breaks_http2_loses_its_tunnel_only(scene: Any) -> None:
    host = scene.stage.address("tcp-echo")
    async with bystander(scene), scene.tunnel(scene.node_netns("node1"), host, scene.identity("client-b")) as tunnel:
        number, status = await tunnel.connect(f"{host}:9000")
        assert (number, status) == (1, 200)
        await tunnel.stream.send_all(b"\x00\x00\x08\x06\x00\x00\x00\x00\x05garbage!")  # a PING on a stream
        with trio.fail_after(5):
            try:
                while await tunnel.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
    await scene.until(
        lambda: "PING on a stream" in scene.log(NODE), 5, lambda: scene.log(NODE)[-2000:]
    )


async def test_unfinished_handshakes_do_not_take_the_place_of_others(scene: Any) -> None:
    host = scene.stage.address("tcp-echo")
    start = scene.position(NODE)
    workers = number_of_workers(scene.lab.record.workers or "auto")
    kept = workers * -(-32 // min(workers, 4))  # they take turns, and share the bound
    async with bystander(scene), trio.open_nursery() as nursery:
        over: list[float] = []

        async def stall() -> None:
            try:
                async with scene.dial(scene.node_netns("node1"), host, 15008) as stream:
                    await ended(stream, 30)
            except ConnectionResetError:
                pass
            over.append(trio.current_time())

        for _ in range(300):
            nursery.start_soon(stall)
        # Most are turned away at once, the rest are kept waiting without harm to anybody.
        await scene.until(lambda: len(over) >= 300 - kept, 8, lambda: f"{len(over)} turned away")
        # From elsewhere new tunnels are still made in the meantime.
        async with scene.tunnel(scene.pod_netns("visitor", "outside"), host, scene.identity("client-a")) as tunnel:
            assert (await tunnel.connect(f"{host}:9000"))[1] == 200
    await scene.until(
        lambda: sum("unfinished TLS handshakes" in one for one in scene.records(NODE, start)) == 300 - kept,
        5,
        lambda: scene.records(NODE, start)[-5:],
    )
    # The others were given up when their time was over.
    assert sum("no TLS handshake in time" in one for one in scene.records(NODE, start)) == kept


async def test_an_impostor_at_the_destination_is_not_talked_to(scene: Any) -> None:
    """What the control plane says speaks HBONE proves another identity: the client's ztunnel sends it nothing."""
    stage = scene.stage
    address = stage.address("visitor", "outside")
    impostor = scene.identity("client-b")
    failed = await scene.failures("node1", "TLS_FAILURE")
    start = scene.position("node1")
    seen: list[bytes] = []
    await stage.processes.stop("agent-node1")  # it would put the annotation right
    try:
        stage.store.patch_metadata(Pod, "outside", "visitor", annotations={REDIRECTION: "enabled"})
        await scene.until(
            lambda: scene.knows([stage.pod("visitor", "outside")], "node1", on=True), 10, lambda: "not believed"
        )
        with NetworkNamespace.open(scene.pod_netns("visitor", "outside")) as namespace:
            listener = trio.socket.from_stdlib_socket(namespace.socket(2, 1))
        with listener:
            listener.setsockopt(1, 2, 1)  # SO_REUSEADDR
            await listener.bind((address, 15008))
            listener.listen(5)

            async def pose() -> None:
                while True:
                    sock, _ = await listener.accept()
                    with sock:
                        try:
                            await handshake(
                                sock, server_context(impostor), server_side=True, deadline=trio.current_time() + 5
                            )
                            seen.append(await sock.recv(65536))
                        except (TlsFailure, OSError):
                            seen.append(b"")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pose)
                status, _ = await stage.curl("client-a", f"http://{address}:8080/secret")
                assert status != 0
                await scene.until(lambda: bool(seen), 5, lambda: "the impostor was not called")
                nursery.cancel_scope.cancel()
    finally:
        stage.store.patch_metadata(Pod, "outside", "visitor", annotations={REDIRECTION: None})
        await stage.processes.start(stage.processes.spec("agent-node1"))
    record = await scene.recorded("node1", start, "error=", "expected spiffe://cluster.local/ns/outside/sa/default")
    assert 'src.workload="client-a"' in record
    assert await scene.failures("node1", "TLS_FAILURE") == failed + 1

"""Baggage, deliveries, dials, and contexts: each too small for a file of its own."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from mesh.addresses import parse_socket_address, to_sockaddr
from mesh.certificates.contexts import ContextCache
from mesh.certificates.tls_contexts import TlsContexts
from mesh.errors import ConnectFailed, EnvironmentLacks, MeshError
from mesh.hbone.codec import Baggage
from mesh.relay.dialing_end import DialingEnd
from mesh.relay.engine import Engine
from mesh.testing.ca import TestAuthority
from mesh.tls.kernel_driver import KernelTls, NoKernelTls
from mesh.tls.key_log_driver import KeyLog
from tests.mesh.relay.applications import unanswered
from ztunnel.proxy.admission import check_destination
from ztunnel.proxy.baggage import BaggageCache
from ztunnel.proxy.delivery import Deliverer
from ztunnel.proxy.dials import CONNECT_SECONDS, Dials

CLIENT = parse_socket_address("10.0.0.9:4711")


async def test_baggage_follows_the_workload(kit: Any) -> None:
    cache = BaggageCache()
    assert cache.text(kit.server) == ""
    kit.describe(kit.server, workload_name="web", canonical_name="shop", canonical_revision="v1")
    text = cache.text(kit.server)
    assert Baggage.decode(text).service_name == "shop"
    assert cache.text(kit.server) is text
    kit.tell(kit.workload(kit.server, canonical_revision="v2"))
    assert Baggage.decode(cache.text(kit.server)).revision == "v2"
    cache.forget(kit.server)


async def test_a_delivery_socket_is_of_its_destinations_family(kit: Any) -> None:
    deliverer = kit.deliverer
    for text, family in (
        ("127.0.0.2:80", socket.AF_INET),
        ("[::ffff:127.0.0.2]:80", socket.AF_INET),
        ("[::1]:80", socket.AF_INET6),
    ):
        with deliverer.socket_for(kit.server, parse_socket_address(text), CLIENT) as sock:
            assert sock.family == family
            assert not sock.getblocking()
    deliverer.forget(kit.server)
    assert kit.deliveries.announced == [CLIENT] * 3
    assert to_sockaddr(parse_socket_address("[::ffff:127.0.0.2]:80")) == ("127.0.0.2", 80)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(EnvironmentLacks("no"), EnvironmentLacks), (KeyError(), KeyError)],
)
async def test_a_delivery_that_fails_keeps_no_socket(
    kit: Any, failure: Exception, raised: type[Exception]
) -> None:
    kit.deliveries.failure = failure
    deliverer = Deliverer(kit.deliveries)
    with pytest.raises(raised):
        deliverer.socket_for(kit.server, parse_socket_address("127.0.0.2:80"), CLIENT)
    deliverer.forget(kit.server)
    assert kit.server.namespace.made
    assert {sock.fileno() for sock in kit.server.namespace.made} == {-1}


async def test_delivery_sockets_are_made_in_batches_and_not_kept_for_long(kit: Any) -> None:
    deliverer = Deliverer(kit.deliveries)
    made = kit.server.namespace.made
    deliverer.socket_for(kit.server, parse_socket_address("127.0.0.2:80"), CLIENT).close()
    batch = len(made)
    for _ in range(batch - 1):
        deliverer.socket_for(kit.server, parse_socket_address("127.0.0.2:80"), CLIENT).close()
    assert len(made) == batch
    deliverer.socket_for(kit.server, parse_socket_address("127.0.0.2:80"), CLIENT).close()
    assert len(made) == 2 * batch
    deliverer.tick()  # it was used since the last one
    assert any(sock.fileno() != -1 for sock in made)
    deliverer.tick()
    assert all(sock.fileno() == -1 for sock in made)


async def test_sockets_kept_for_later_are_of_the_very_namespace(kit: Any) -> None:
    """A pod whose sandbox was replaced has the same uid: what was made for the old one must not deliver to the new."""
    again = kit.pod("server", "127.0.0.2")
    assert again.uid == kit.server.uid
    for pod in (kit.server, again, kit.server, again):
        with kit.deliverer.socket_for(pod, parse_socket_address("127.0.0.2:80"), CLIENT) as sock:
            assert any(sock is made for made in pod.namespace.made)
    assert kit.nothing_open(again)
    assert kit.nothing_open(kit.server)


async def test_the_pods_gate(kit: Any) -> None:
    check_destination(kit.server, parse_socket_address("127.0.0.2:80"), "CONNECT")
    check_destination(kit.server, parse_socket_address("[::ffff:127.0.0.2]:80"), "CONNECT")
    for text, status in (("127.0.0.3:80", 400), ("127.0.0.2:15001", 503), ("127.0.0.2:15053", 503), ("[::]:80", 400)):
        with pytest.raises(MeshError) as caught:
            check_destination(kit.server, parse_socket_address(text), "CONNECT")
        assert caught.value.http_status == status


def test_dials_that_take_too_long_are_ended() -> None:
    engine = Engine()
    dials = Dials(engine)
    reports: list[MeshError | None] = []
    with unanswered() as address:
        ends = []
        for _ in range(2):
            sock = socket.socket()
            sock.setblocking(False)
            end = DialingEnd(engine, sock)
            end.expect_dial()
            end.dial(address, reports.append)
            assert end.connecting
            dials.watch(end)
            ends.append(end)
        dials.tick(engine.now + CONNECT_SECONDS - 1)
        assert not reports
        ends[1].abort(None)
        dials.tick(engine.now + CONNECT_SECONDS + 1)
        (error,) = reports
        assert isinstance(error, ConnectFailed)
        assert "timed out" in str(error)
        dials.tick(engine.now + CONNECT_SECONDS + 2)
        assert len(reports) == 1
        ends[0].abort(error)
    assert engine.watched == 0
    engine.close()


async def test_contexts_are_of_the_newest_certificate() -> None:
    authority = TestAuthority()
    identity = authority.identity("demo", "a")

    class Identities:
        credentials = authority.issue(identity)

        async def get(self, _identity: object) -> Any:
            return self.credentials

    identities: Any = Identities()
    contexts = TlsContexts(identities, ContextCache())
    client, server = await contexts.client(identity), await contexts.server(identity)
    assert await contexts.client(identity) is client
    assert await contexts.server(identity) is server
    identities.credentials = authority.issue(identity)
    assert await contexts.client(identity) is not client
    assert await contexts.server(identity) is not server


async def test_contexts_tell_their_secrets_only_where_the_kernel_is_given_keys() -> None:
    authority = TestAuthority()
    identity = authority.identity("demo", "a")

    class Identities:
        credentials = authority.issue(identity)

        async def get(self, _identity: object) -> Any:
            return self.credentials

    identities: Any = Identities()
    kernel = KernelTls(KeyLog())
    for tls, logs in ((NoKernelTls("not wished for"), False), (kernel, True)):
        contexts = TlsContexts.of(identities, tls)
        assert contexts.kernel is (tls if logs else None)
        for context in (await contexts.client(identity), await contexts.server(identity)):
            assert (context.keylog_filename is not None) == logs
    kernel.key_log.close()

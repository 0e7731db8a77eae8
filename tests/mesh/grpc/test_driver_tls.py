"""Our client against our server, over TLS."""

import dataclasses
import ssl

import trio

from mesh.errors import ConnectionLost, TlsFailure
from mesh.grpc.driver import CallContext, open_channel, unary
from mesh.testing.ca import TestAuthority
from mesh.testing.grpc import serving
from mesh.tls.context import client_context, control_plane_context, control_plane_server_context, server_context


async def echo(context: CallContext, request: bytes) -> bytes:
    return request


HANDLERS = {"/t/Echo": unary(echo)}


async def call_over_tls(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """The answer, or why TLS failed."""
    async with serving(HANDLERS, ssl_context=server) as port:
        try:
            with trio.fail_after(10):
                async with open_channel("127.0.0.1", port, client, name) as channel:
                    return (await channel.unary("/t/Echo", b"private", timeout=5)).decode()
        except (TlsFailure, ConnectionLost) as error:
            return str(error)


async def test_over_tls() -> None:
    authority = TestAuthority()
    operator = authority.issue_server("operator.test")
    server = control_plane_server_context(operator.certificate_chain, operator.key)
    client = control_plane_context(authority.roots)
    assert await call_over_tls(server, client, "operator.test") == "private"
    assert "Hostname mismatch" in await call_over_tls(server, client, "another.test")
    stranger = control_plane_context(TestAuthority().roots)
    assert "certificate verify failed" in await call_over_tls(server, stranger, "operator.test")


async def test_a_server_that_does_not_offer_http2_is_refused() -> None:
    authority = TestAuthority()
    operator = authority.issue_server("operator.test")
    client = control_plane_context(authority.roots)
    server = control_plane_server_context(operator.certificate_chain, operator.key)
    server.set_alpn_protocols(["http/1.1"])
    assert "ALPN" in await call_over_tls(server, client, "operator.test")


async def test_a_client_that_does_not_offer_http2_is_refused() -> None:
    authority = TestAuthority()
    operator = authority.issue_server("operator.test")
    server = control_plane_server_context(operator.certificate_chain, operator.key)
    context = ssl.create_default_context(cadata=authority.roots.decode())
    async with serving(HANDLERS, ssl_context=server) as port:
        raw = await trio.open_tcp_stream("127.0.0.1", port)
        stream = trio.SSLStream(raw, context, server_hostname="operator.test", https_compatible=True)
        async with stream:
            with trio.fail_after(5):
                await stream.do_handshake()
                assert await stream.receive_some() == b""


async def test_a_certificate_the_server_does_not_take_ends_the_connection() -> None:
    ours, theirs = TestAuthority(), TestAuthority()
    server = server_context(ours.issue(ours.identity("default", "server")))
    stranger = theirs.issue(theirs.identity("default", "client"))
    client = client_context(dataclasses.replace(stranger, roots=ours.roots))
    # In TLS 1.3 the client's handshake is done before the server has looked at its certificate.
    assert "closed the connection" in await call_over_tls(server, client, "ignored")

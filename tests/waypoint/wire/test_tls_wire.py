"""TLS to applications: what it carries, whom it trusts, and how it ends."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from mesh.errors import ConfigurationError, ConnectionLost, MeshError, TlsFailure
from mesh.identity import SpiffeId
from mesh.model.upstream_policy import UpstreamTls
from mesh.testing.ca import TestAuthority
from waypoint.testing.wires import MemoryConnector, MemoryWire
from waypoint.wire.contract import Buffer, Wire, WireOwner
from waypoint.wire.tls_wire import TlsConnector, TlsTerms, TlsWire, terms_of

AUTHORITY = TestAuthority()
ROOTS = AUTHORITY.roots.decode()


class Owner(WireOwner):
    def __init__(self) -> None:
        self.data = bytearray()
        self.events: list[object] = []

    def wire_data(self, data: Buffer) -> None:
        self.data += data

    def wire_ended(self) -> None:
        self.events.append("ended")

    def wire_lost(self, error: MeshError | None) -> None:
        self.events.append(error)

    def wire_writable(self) -> None:
        self.events.append("writable")


class Application:
    """The far end of a memory wire: an application that speaks TLS."""

    def __init__(self, folder: Path, name: str = "web.example", alpn: list[str] | None = None) -> None:
        issued = AUTHORITY.issue_server(name)
        key = issued.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = folder / "chain.pem"
        file.write_bytes(key + b"".join(issued.certificate_chain))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        if alpn:
            context.set_alpn_protocols(alpn)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.established = False

    def pump(self, wire: MemoryWire) -> None:
        """Move flights both ways until nobody has anything to say."""
        for _ in range(10):
            self.incoming.write(wire.take())
            if not self.established:
                try:
                    self.session.do_handshake()
                    self.established = True
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    return
            self.deliver(wire)

    def deliver(self, wire: MemoryWire) -> None:
        data = self.outgoing.read()
        if data and not wire.closed:
            wire.feed(data)

    def say(self, wire: MemoryWire, text: bytes) -> None:
        self.session.write(text)
        self.deliver(wire)

    def heard(self, wire: MemoryWire) -> bytes:
        self.incoming.write(wire.take())
        try:
            return self.session.read(1 << 20)
        except ssl.SSLWantReadError:
            return b""


class Dialled:
    """A connection in TLS, as a pool asks for it."""

    def __init__(self, application: Application, tls: UpstreamTls | None = None, *, http2: bool = False) -> None:
        self.application = application
        self.inner = MemoryConnector()
        self.inner.peer_identity = SpiffeId("td", "ns", "web")
        self.told: list[tuple[Wire | None, MeshError | None]] = []
        self.owner = Owner()
        terms = TlsTerms(tls or UpstreamTls(server_name="web.example", ca_certificates=ROOTS), http2=http2)
        self.connector = TlsConnector(self.inner, terms)
        self.dial = self.connector.connect(self._report)
        self.memory = self.inner.wires[0]
        application.pump(self.memory)

    def _report(self, wire: Wire | None, error: MeshError | None) -> None:
        self.told.append((wire, error))
        if wire is not None:
            wire.attach(self.owner)

    @property
    def wire(self) -> TlsWire:
        [(wire, error)] = self.told
        assert error is None
        assert isinstance(wire, TlsWire)
        return wire

    @property
    def error(self) -> str:
        [(wire, error)] = self.told
        assert wire is None
        assert isinstance(error, TlsFailure)
        assert self.memory.closed
        return str(error)


def test_bytes_pass_both_ways_encrypted(tmp_path: Path) -> None:
    application = Application(tmp_path)
    dialled = Dialled(application)
    wire = dialled.wire
    assert dialled.connector.peer_identity == SpiffeId("td", "ns", "web"), "the tunnel's, which carries it"
    wire.write(b"GET / secret")
    raw = bytes(dialled.memory.written)
    assert b"secret" not in raw
    assert application.heard(dialled.memory) == b"GET / secret"
    large = bytes(range(256)) * 2000
    application.say(dialled.memory, large)
    assert dialled.owner.data == large
    wire.write(large)
    heard = b""
    while part := application.heard(dialled.memory):
        heard += part
    assert heard == large


@pytest.mark.parametrize(
    ("tls", "text"),
    [
        (UpstreamTls(server_name="other.example", ca_certificates=ROOTS), "not acceptable"),
        (UpstreamTls(server_name="web.example", ca_certificates=TestAuthority().roots.decode()), "not acceptable"),
        (UpstreamTls(server_name="web.example", ca_certificates=""), "not acceptable"),
        (UpstreamTls(server_name="web.example"), "not acceptable"),
        (
            UpstreamTls(server_name="web.example", subject_alt_names=("a.example",), ca_certificates=ROOTS),
            "is for web.example, not for any of a.example",
        ),
    ],
)
def test_whom_it_does_not_trust(tmp_path: Path, tls: UpstreamTls, text: str) -> None:
    assert text in Dialled(Application(tmp_path), tls).error


@pytest.mark.parametrize(
    ("name", "wanted", "good"),
    [
        ("web.example", ("other", "web.example"), True),
        ("WEB.example", ("web.EXAMPLE",), True),
        ("*.example", ("web.example",), True),
        ("*.example", ("a.web.example",), False),
        ("*.example", ("example",), False),
    ],
)
def test_other_names_may_be_named(tmp_path: Path, name: str, wanted: tuple[str, ...], good: bool) -> None:
    tls = UpstreamTls(server_name="anything.example", subject_alt_names=wanted, ca_certificates=ROOTS)
    dialled = Dialled(Application(tmp_path, name), tls)
    assert (dialled.told[0][0] is not None) is good


@pytest.mark.parametrize(("alpn", "good"), [(["h2", "http/1.1"], True), (["http/1.1"], False), (None, False)])
def test_http2_must_be_agreed_on(tmp_path: Path, alpn: list[str] | None, good: bool) -> None:
    dialled = Dialled(Application(tmp_path, alpn=alpn), http2=True)
    assert (dialled.told[0][0] is not None) is good


def test_a_server_without_tls_and_one_that_never_finishes(tmp_path: Path) -> None:
    dialled = Dialled(Application(tmp_path, "x"), UpstreamTls(server_name="x", ca_certificates=ROOTS))
    assert dialled.told[0][1] is None
    for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03\x40\x00" + bytes(16384)):
        inner = MemoryConnector()
        told: list[Any] = []
        terms = TlsTerms(UpstreamTls(server_name="x", ca_certificates=ROOTS), http2=False)
        TlsConnector(inner, terms).connect(lambda *each, told=told: told.append(each))
        for _ in range(20):
            if not inner.wires[0].closed:
                inner.wires[0].feed(answer)
        [(wire, error)] = told
        assert wire is None
        assert isinstance(error, TlsFailure)
        assert inner.wires[0].closed


def test_a_pause_holds_back_and_an_end_behind_it_comes_after(tmp_path: Path) -> None:
    application = Application(tmp_path)
    dialled = Dialled(application)
    dialled.wire.pause()
    assert dialled.memory.paused
    application.say(dialled.memory, b"held")
    dialled.memory.deliver()
    assert dialled.owner.data == b""
    dialled.wire.resume()
    assert dialled.owner.data == b"", "soon, and not within the call"
    dialled.memory.deliver()
    dialled.memory.settle()
    assert dialled.owner.data == b"held"


def test_a_proper_end_and_a_cut(tmp_path: Path) -> None:
    application = Application(tmp_path)
    dialled = Dialled(application)
    with pytest.raises(ssl.SSLWantReadError):
        application.session.unwrap()
    application.deliver(dialled.memory)
    assert dialled.owner.events == ["ended"]
    dialled.wire.end()
    assert dialled.memory.closed
    cut = Dialled(Application(tmp_path))
    cut.application.say(cut.memory, b"half of")
    cut.memory.hang_up()
    assert cut.owner.data == b"half of"
    [error] = cut.owner.events
    assert isinstance(error, ConnectionLost)
    assert "may be cut" in str(error)


def test_ends_from_here(tmp_path: Path) -> None:
    application = Application(tmp_path)
    dialled = Dialled(application)
    dialled.wire.finish()
    assert dialled.memory.finished
    application.incoming.write(dialled.memory.take())
    assert application.session.read() == b""
    application.say(dialled.memory, b"still heard")
    assert dialled.owner.data == b"still heard"
    dialled.wire.reset()
    assert dialled.memory.was_reset
    dialled.wire.write(b"too late")
    assert dialled.owner.events == []


def test_a_dial_that_was_given_up_tells_nothing(tmp_path: Path) -> None:
    inner = MemoryConnector(at_once=False)
    told: list[Any] = []
    terms = TlsTerms(UpstreamTls(server_name="x", ca_certificates=ROOTS), http2=False)
    dial = TlsConnector(inner, terms).connect(lambda *each: told.append(each))
    dial.cancel()
    assert inner.cancelled == 1
    inner = MemoryConnector()
    dial = TlsConnector(inner, terms).connect(lambda *each: told.append(each))
    dial.cancel()
    assert inner.wires[0].was_reset
    inner = MemoryConnector()
    inner.refuse = True
    TlsConnector(inner, terms).connect(lambda *each: told.append(each))
    [(wire, error)] = told
    assert wire is None
    assert isinstance(error, MeshError)


def test_equal_policies_share_their_terms_and_bad_roots_are_an_error() -> None:
    tls = UpstreamTls(server_name="web.example", ca_certificates=ROOTS)
    equal = UpstreamTls(server_name="web.example", ca_certificates=ROOTS)
    assert terms_of(tls, http2=False) is terms_of(equal, http2=False)
    assert terms_of(tls, http2=True) is not terms_of(tls, http2=False)
    with pytest.raises(ConfigurationError):
        TlsTerms(UpstreamTls(server_name="x", ca_certificates="nonsense"), http2=False)

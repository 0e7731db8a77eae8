"""TLS to the application, inside of whatever carries the connection: a wire over another wire.

OpenSSL works on memory: ciphertext of the inner wire goes in, plaintext comes out, and the other way round; nothing
here waits. What is written is encrypted at once, so back-pressure is the inner wire's. What arrives while the owner is
paused stays encrypted, and the inner wire is paused with it, so it is one read, or a stream's window.

A connection that ends without TLS's own end (``close_notify``) may have been cut by somebody on the way: the owner is
told that it was lost, so that a body which ends with its connection does not pass for whole.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import lru_cache

from mesh.errors import ConfigurationError, ConnectionLost, MeshError, TlsFailure
from mesh.model.upstream_policy import UpstreamTls
from mesh.tls.context import load_pem_chain
from mesh.tls.failures import translate_ssl_error
from waypoint.wire.contract import NOBODY, Buffer, Flushable, Wire, WireOwner
from waypoint.wire.dialling import Connector, Dial

_READ = 64 * 1024
_MAX_HANDSHAKE_BYTES = 192 * 1024
"""A flight with the largest chain that OpenSSL takes fits."""
_H2 = "h2"

Report = Callable[[Wire | None, MeshError | None], None]


class TlsTerms:
    """How a service's applications are spoken to in TLS."""

    def __init__(self, tls: UpstreamTls, *, http2: bool) -> None:
        """Prepare.

        Args:
            tls: the model's.
            http2: HTTP/2 must be agreed on; otherwise nothing is offered, which is HTTP/1.1 where it is HTTP.

        Raises:
            ConfigurationError: the roots are no certificates, or what is to be shown is no certificate with its key.
            EnvironmentLacks: no anonymous memory files, or /proc is not mounted.
        """
        self.server_name = tls.server_name
        self.names = frozenset(tls.subject_alt_names)
        """Any of which the certificate must have; empty: the server's name."""
        self.http2 = http2
        self.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = not self.names
        if http2:
            context.set_alpn_protocols([_H2])
        if tls.ca_certificates is None:
            context.load_default_certs()
        elif tls.ca_certificates:
            try:
                context.load_verify_locations(cadata=tls.ca_certificates)
            except (ssl.SSLError, ValueError) as error:
                raise ConfigurationError(f"the roots for {tls.server_name} hold no readable certificate") from error
        if tls.shown is not None:
            load_pem_chain(context, tls.shown.chain.encode(), tls.shown.private_key.encode())

    def check(self, session: ssl.SSLObject) -> None:
        """Look at a finished handshake.

        Raises:
            TlsFailure: the server is another one, or does not speak HTTP/2.
        """
        if self.http2 and session.selected_alpn_protocol() != _H2:
            raise TlsFailure("the server did not agree on HTTP/2 (ALPN h2)")
        if self.names:
            entries = (session.getpeercert() or {}).get("subjectAltName", ())
            shown = [str(entry[1]) for entry in entries if entry[0] in ("DNS", "URI")]
            if not any(_fits(name, wanted) for name in shown for wanted in self.names):
                raise TlsFailure(
                    f"the server's certificate is for {', '.join(shown)[:256] or 'nobody'}, not for any of "
                    f"{', '.join(sorted(self.names))[:256]}"
                )


def _fits(shown: str, wanted: str) -> bool:
    """Whether a certificate's name is the wanted one; its first label may be ``*`` (RFC 6125 section 6.4.3)."""
    if shown == wanted:
        return True
    shown, wanted = shown.lower(), wanted.lower()
    return shown == wanted or (shown.startswith("*.") and shown[1:] == "." + wanted.partition(".")[2])


@lru_cache(maxsize=1024)
def terms_of(tls: UpstreamTls, *, http2: bool) -> TlsTerms:
    """The same terms for equal policies: making a context reads all of the system's roots. Raises as ``TlsTerms``."""
    return TlsTerms(tls, http2=http2)


class TlsConnector(Connector):
    """Makes connections in TLS over those of another connector."""

    __slots__ = ("_inner", "_terms")

    def __init__(self, inner: Connector, terms: TlsTerms) -> None:
        super().__init__()
        self._inner = inner
        self._terms = terms

    def connect(self, report: Report) -> Dial:
        """See :class:`Connector`."""
        dial = _TlsDial(self, self._terms, report)
        dial.inner = self._inner.connect(dial.connected)
        return dial

    def proven(self) -> None:
        """A connection of the inner connector stands."""
        self.peer_identity = self._inner.peer_identity


class _TlsDial(Dial):
    """A connection whose handshake is not over."""

    __slots__ = ("_connector", "_report", "_terms", "_wire", "inner")

    def __init__(self, connector: TlsConnector, terms: TlsTerms, report: Report) -> None:
        self._connector = connector
        self._terms = terms
        self._report: Report | None = report
        self._wire: TlsWire | None = None
        self.inner: Dial | None = None

    def connected(self, wire: Wire | None, error: MeshError | None) -> None:
        if self._report is None:
            if wire is not None:
                wire.reset()
        elif wire is None:
            self._over(None, error)
        else:
            self._connector.proven()
            self._wire = TlsWire(wire, self._terms, self._over)
            self._wire.begin()

    def _over(self, wire: Wire | None, error: MeshError | None) -> None:
        report, self._report = self._report, None
        if report is not None:
            report(wire, error)

    def cancel(self) -> None:
        """See :class:`Dial`."""
        self._report = None
        if self._wire is not None:
            self._wire.reset()
        elif self.inner is not None:
            self.inner.cancel()


class TlsWire(Wire, WireOwner):
    """One connection (``Wire``); the owner of the wire that carries it."""

    def __init__(self, inner: Wire, terms: TlsTerms, report: Report) -> None:
        """Prepare; :meth:`begin` shakes hands.

        Args:
            inner: connected, attached to nobody.
            terms: how.
            report: told once: this wire, or why there is none; not after :meth:`reset`.
        """
        self._inner = inner
        self._terms = terms
        self._report: Report | None = report
        self._owner: WireOwner = NOBODY
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = terms.context.wrap_bio(
            self._incoming, self._outgoing, server_side=False, server_hostname=terms.server_name
        )
        self._received = 0
        """Bytes of the handshake."""
        self._paused = False
        self._dirty = False
        self._ended = False
        """The peer's own end of TLS has come."""
        self._cut: MeshError | None = None
        """How the inner wire has ended, while there may be something before that which the owner has not read."""
        self.closed = False

    # -- the handshake -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Shake hands."""
        self._inner.attach(self)
        self._shake()

    def _shake(self) -> None:
        try:
            self._session.do_handshake()
            self._send()
            self._terms.check(self._session)
        except ssl.SSLWantReadError:
            self._send()
            if self._received > _MAX_HANDSHAKE_BYTES:
                self._fail(TlsFailure(f"no handshake within {_MAX_HANDSHAKE_BYTES} bytes"))
        except ssl.SSLError as error:
            self._send()
            self._fail(translate_ssl_error(error, server_side=False))
        except TlsFailure as error:
            self._fail(error)
        else:
            report, self._report = self._report, None
            if report is not None:
                report(self, None)
                self._read()

    def _fail(self, error: MeshError) -> None:
        """There will be no session."""
        self.closed = True
        self._inner.end()
        report, self._report = self._report, None
        if report is not None:
            report(None, error)

    def _send(self) -> None:
        data = self._outgoing.read()
        if data:
            self._inner.write(data)

    # -- from the inner wire (WireOwner) -------------------------------------------------------------------------------

    def wire_data(self, data: Buffer) -> None:
        """See :class:`WireOwner`."""
        self._incoming.write(data)
        if self._report is not None:
            self._received += len(data)
            self._shake()
        else:
            self._read()

    def _read(self) -> None:
        """Deliver what there is."""
        while not self._paused and not self.closed and not self._ended:
            try:
                data = self._session.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                self._lose(translate_ssl_error(error, server_side=False))
                return
            if not data:
                self._ended = True
                self._owner.wire_ended()
                return
            self._owner.wire_data(data)
        if not self.closed:
            self._send()  # answers to messages of TLS's own

    def wire_ended(self) -> None:
        """See :class:`WireOwner`."""
        self._inner_over(ConnectionLost("the connection ended without the end of its TLS session: it may be cut"))

    def wire_lost(self, error: MeshError | None) -> None:
        """See :class:`WireOwner`."""
        if error is None and self._ended:
            self._leave(None)
        else:
            self._inner_over(error or ConnectionLost("the connection ended without the end of its TLS session"))

    def _inner_over(self, error: MeshError) -> None:
        if self._report is not None:
            self._fail(error)
            return
        self._read()
        if self._paused:
            self._cut = error
        elif not self._ended:
            self._lose(error)

    def _lose(self, error: MeshError) -> None:
        if not self.closed:
            self._inner.reset()
            self._leave(error)

    def _leave(self, error: MeshError | None) -> None:
        if not self.closed:
            self.closed = True
            owner, self._owner = self._owner, NOBODY
            owner.wire_lost(error)

    def wire_writable(self) -> None:
        """See :class:`WireOwner`."""
        if not self.closed:
            self._owner.wire_writable()

    # -- for the owner (Wire) ------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:  # type: ignore[override]
        """See :class:`Wire`."""
        return self._inner.congested

    def attach(self, owner: WireOwner) -> None:
        """See :class:`Wire`."""
        self._owner = owner

    def write(self, data: Buffer) -> None:
        """See :class:`Wire`."""
        if self.closed or not len(data):
            return
        try:
            self._session.write(data)
        except ssl.SSLError:
            return  # The session has failed: the next read tells how.
        self._send()

    def later(self, item: Flushable) -> None:
        """See :class:`Wire`."""
        self._inner.later(item)

    def pause(self) -> None:
        """See :class:`Wire`."""
        self._paused = True
        self._inner.pause()

    def resume(self) -> None:
        """See :class:`Wire`."""
        if self._paused and not self.closed:
            self._paused = False
            self._inner.resume()
            if not self._dirty:
                self._dirty = True
                self._inner.later(self)

    def flush(self) -> None:
        """Deliver what was held back (``mesh.relay.engine.Flushable``)."""
        self._dirty = False
        self._read()
        if self._cut is not None and not self._paused and not self._ended:
            self._lose(self._cut)

    def _say_goodbye(self) -> None:
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # It waits for the other's, which is read like everything else.
        self._send()

    def finish(self) -> None:
        """See :class:`Wire`."""
        if not self.closed:
            self._say_goodbye()
            self._inner.finish()

    def end(self) -> None:
        """See :class:`Wire`."""
        self._owner = NOBODY
        if not self.closed:
            self.closed = True
            self._say_goodbye()
            self._inner.end()

    def reset(self) -> None:
        """See :class:`Wire`."""
        self._owner = NOBODY
        self._report = None
        if not self.closed:
            self.closed = True
            self._inner.reset()

"""TLS contexts, made once per credentials.

Building a context parses certificates and roots, 1.1 to 1.5 ms; connections are made far more often than
certificates. A context lives as long as its credentials do: rotation brings new credentials, and the old ones take
their contexts along once the last connection lets go of them.
"""

from __future__ import annotations

import ssl
from weakref import WeakKeyDictionary

from mesh.tls.context import client_context, server_context
from mesh.tls.credentials import Credentials
from mesh.tls.key_log_driver import KeyLog


class ContextCache:
    """Client and server contexts of this node's identities."""

    def __init__(self, key_log: KeyLog | None = None) -> None:
        """``key_log``: where handshakes of the contexts tell their secrets."""
        self._key_log = key_log
        self._client: WeakKeyDictionary[Credentials, ssl.SSLContext] = WeakKeyDictionary()
        self._server: WeakKeyDictionary[Credentials, ssl.SSLContext] = WeakKeyDictionary()

    def client(self, credentials: Credentials) -> ssl.SSLContext:
        """For the dialling side. Raises as ``mesh.tls.context.client_context``."""
        context = self._client.get(credentials)
        if context is None:
            context = self._client[credentials] = self._logging(client_context(credentials))
        return context

    def server(self, credentials: Credentials) -> ssl.SSLContext:
        """For the accepting side. Raises as ``mesh.tls.context.server_context``."""
        context = self._server.get(credentials)
        if context is None:
            context = self._server[credentials] = self._logging(server_context(credentials))
        return context

    def _logging(self, context: ssl.SSLContext) -> ssl.SSLContext:
        if self._key_log is not None:
            self._key_log.attach(context)
        return context

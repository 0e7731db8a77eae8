"""The operator's own certificate: signed by its own authority, renewed at half of its life.

The key is made anew each time and never leaves the process. Connections keep the certificate they began with; new ones
get the new one, by OpenSSL's server-name callback, which also runs for clients that name no server.
"""

from __future__ import annotations

import ssl
from datetime import timedelta

import structlog
import trio

from controlplane.ca.issuer import Issuer
from mesh.tls.context import control_plane_server_context
from mesh.tls.csr import make_key

_log = structlog.get_logger("controlplane.serving")


class ServingCertificate:
    """An ``ssl.SSLContext`` that always serves a current certificate."""

    def __init__(self, issuer: Issuer, server_name: str, lifetime: timedelta) -> None:
        self._issuer = issuer
        self._server_name = server_name
        self._lifetime = lifetime
        self._current = self._renew()
        self.context = self._renew()
        """To be given to the listener once."""
        self.context.sni_callback = self._choose

    async def run_renewal(self) -> None:
        """Renew at half life; runs until cancelled."""
        while True:
            await trio.sleep(self._lifetime.total_seconds() / 2)
            self.renew()

    def renew(self) -> None:
        """Serve a new certificate to connections from now on."""
        self._current = self._renew()

    def _renew(self) -> ssl.SSLContext:
        key = make_key()
        issued = self._issuer.issue_server(self._server_name, key.public_key(), self._lifetime)
        _log.info("serving_certificate_renewed", server_name=self._server_name, not_after=issued.not_after.isoformat())
        return control_plane_server_context(issued.chain, key)

    def _choose(self, connection: ssl.SSLObject, name: str, context: ssl.SSLContext) -> None:
        connection.context = self._current

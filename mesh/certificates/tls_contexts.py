"""TLS contexts of identities, waiting for their certificates where need be."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from mesh.certificates.contexts import ContextCache
from mesh.certificates.manager import IdentityManager
from mesh.identity import SpiffeId
from mesh.tls.kernel_driver import KernelTls, NoKernelTls


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """Always made from the newest certificate."""

    identities: IdentityManager
    cache: ContextCache
    kernel: KernelTls | None = None
    """What gives the keys of their handshakes to the kernel."""

    @staticmethod
    def of(identities: IdentityManager, tls: KernelTls | NoKernelTls) -> TlsContexts:
        """Contexts whose handshakes end in the kernel, if there is one that does TLS."""
        if isinstance(tls, NoKernelTls):
            return TlsContexts(identities, ContextCache())
        return TlsContexts(identities, ContextCache(tls.key_log), tls)

    async def client(self, identity: SpiffeId) -> ssl.SSLContext:
        """For the dialling side.

        Raises:
            IdentityUnavailable: there is no certificate, and none is to be had now.
        """
        return self.cache.client(await self.identities.get(identity))

    async def server(self, identity: SpiffeId) -> ssl.SSLContext:
        """For the accepting side. Raises as :meth:`client`."""
        return self.cache.server(await self.identities.get(identity))

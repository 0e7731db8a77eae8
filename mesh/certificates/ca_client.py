"""The client of the certificate service (``istio.v1.auth.IstioCertificateService``).

One connection per request: requests are rare (two per identity and certificate lifetime), and a fresh connection sees a
new root, a new token and a moved server without further machinery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio
from google.protobuf.message import DecodeError

from mesh.certificates.issued import accept_chain
from mesh.clock import Clock
from mesh.errors import CertificateServiceAway, IdentityUnavailable, MeshError
from mesh.grpc.driver import open_channel
from mesh.grpc.status import GrpcError, StatusCode
from mesh.identity import SpiffeId
from mesh.tls.context import control_plane_context
from mesh.tls.credentials import Credentials
from mesh.tls.csr import make_csr, make_key
from mesh.wire import certificate_pb2 as wire

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
_MAX_TOKEN_BYTES = 64 * 1024
_NO_ANSWER = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
"""Statuses that are no refusal."""


class CaClient(Protocol):
    """Whoever can turn an identity into credentials."""

    async def fetch(self, identity: SpiffeId) -> Credentials:
        """Make a key, have it certified, check the answer.

        Raises:
            CertificateServiceAway: not reachable, no answer in time, or it does not serve yet.
            IdentityUnavailable: refused, or not what was asked for; the text says which.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CaSettings:
    """Where the certificate service is and how we present ourselves."""

    host: str
    port: int
    server_name: str
    """What its certificate must be issued for."""
    root_certificate: Path
    """PEM of the roots that its certificate may chain to; read for each request."""
    token: Path
    """Bearer token of this ztunnel's own service account; read for each request, since it rotates."""
    cluster_id: str
    impersonates: bool = True
    """Whether certificates are for others, that run on our node; else for the token's own account."""
    lifetime_seconds: int = 24 * 3600
    """What we ask for; the service may give less."""
    timeout_seconds: float = 20.0
    """For connecting, and again for the answer."""


class GrpcCaClient:
    """Asks the operator: a node proxy for the identities that run on its node, a waypoint for its own."""

    def __init__(self, settings: CaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    async def fetch(self, identity: SpiffeId) -> Credentials:
        """See ``CaClient``."""
        key = make_key()
        chain = await self.certify(identity, make_csr(identity, key))
        return accept_chain(identity, key, chain, self._clock.wall())

    async def certify(self, identity: SpiffeId, csr: bytes) -> Sequence[str]:
        """Have a request signed, whoever holds its key; the answer is not checked here.

        Args:
            identity: whom the request is for.
            csr: PEM.

        Raises:
            CertificateServiceAway: not reachable, no answer in time, or it does not serve yet.
            IdentityUnavailable: refused.
        """
        request = wire.IstioCertificateRequest(csr=csr.decode(), validity_duration=self._settings.lifetime_seconds)
        if self._settings.impersonates:
            request.metadata.update({"ImpersonatedIdentity": str(identity)})
        answer = await self._call(identity, request.SerializeToString())
        try:
            response = wire.IstioCertificateResponse.FromString(answer)
        except DecodeError as error:
            raise IdentityUnavailable(
                f"the answer to the request for {identity} is not a certificate response"
            ) from error
        return list(response.cert_chain)

    async def _call(self, identity: SpiffeId, request: bytes) -> bytes:
        settings = self._settings
        token = (await _read(settings.token, "token")).decode("ascii", "replace").strip()
        context = control_plane_context(await _read(settings.root_certificate, "root certificate"))
        metadata = [("authorization", f"Bearer {token}"), ("clusterid", settings.cluster_id)]
        try:
            with trio.fail_after(2 * settings.timeout_seconds):
                async with open_channel(
                    settings.host, settings.port, ssl_context=context, server_hostname=settings.server_name
                ) as channel:
                    return await channel.unary(METHOD, request, metadata=metadata, timeout=settings.timeout_seconds)
        except GrpcError as error:
            kind = CertificateServiceAway if error.status in _NO_ANSWER else IdentityUnavailable
            raise kind(
                f"the certificate service at {settings.host}:{settings.port} gives no certificate for {identity} "
                f"({error}){self._hint(error.status)}"
            ) from error
        except (MeshError, OSError, trio.TooSlowError) as error:
            raise CertificateServiceAway(
                f"the certificate service at {settings.host}:{settings.port} cannot be asked for {identity}: "
                f"{error or 'no answer in time'}"
            ) from error

    def _hint(self, status: StatusCode) -> str:
        if status is StatusCode.UNAUTHENTICATED:
            return f": it does not accept the token in {self._settings.token} or our cluster id"
        if status is StatusCode.PERMISSION_DENIED:
            return ": it sees no running pod with this identity on our node, or does not let us speak for others"
        return ""


async def _read(path: Path, what: str) -> bytes:
    try:
        async with await trio.open_file(path, "rb") as file:
            content: bytes = await file.read(_MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise IdentityUnavailable(f"cannot read the {what} {path}: {error.strerror}") from error
    if not content.strip() or len(content) > _MAX_TOKEN_BYTES:
        raise IdentityUnavailable(f"the {what} {path} is empty or longer than {_MAX_TOKEN_BYTES} bytes")
    return content

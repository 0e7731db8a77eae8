"""The certificate service: ``istio.v1.auth.IstioCertificateService``.

Who gets what. A caller is known by its token. Without further words it gets a certificate for its own service account.
A node proxy acts for the pods of its node: it names the wanted identity in the request's metadata
(``ImpersonatedIdentity``). That is granted only to configured accounts, and only for identities of which a live pod
runs on the caller's node: a proxy whose token is stolen can be no more than the pods it carries anyway.

A refusal says why, to the caller and in the log: the caller is a component of the mesh, and nothing is told that its
own request does not already say.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import structlog
from google.protobuf.message import DecodeError

from controlplane.ca.authentication import Caller, TokenAuthenticator, authenticate_call
from controlplane.ca.issuer import Issuer
from controlplane.ca.metrics import AuthorityMetrics
from controlplane.ca.placement import Placement
from mesh.errors import (
    CallerUnknown,
    CertificateRefused,
    ControlPlaneUnavailable,
    InvalidMessage,
    InvalidValue,
    MeshError,
)
from mesh.grpc.driver import CallContext, GrpcError, StatusCode
from mesh.identity import SpiffeId
from mesh.wire.certificate_pb2 import IstioCertificateRequest, IstioCertificateResponse

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
MAX_REQUEST = 64 * 1024
"""Bytes of one request message."""
IMPERSONATED_IDENTITY = "ImpersonatedIdentity"
_MAX_SECONDS = 10 * 365 * 86400

_log = structlog.get_logger("controlplane.ca")


class CertificateService:
    """Decides about requests and has them signed."""

    def __init__(
        self,
        issuer: Issuer,
        authenticator: TokenAuthenticator,
        placement: Placement,
        trust_domain: str,
        trusted_node_accounts: frozenset[str],
        metrics: AuthorityMetrics,
        refused: Callable[[Caller, str], None] = lambda caller, reason: None,
    ) -> None:
        """Build the service.

        Args:
            issuer: signs.
            authenticator: tells who calls.
            placement: tells which identities live where.
            trust_domain: of the identities given to callers for themselves.
            trusted_node_accounts: ``namespace/service account`` of the node proxies.
            metrics: where calls are counted.
            refused: told whom nothing was signed for, and why.
        """
        self._issuer = issuer
        self._authenticator = authenticator
        self._placement = placement
        self._trust_domain = trust_domain
        self._trusted = trusted_node_accounts
        self._metrics = metrics
        self._refused = refused
        metrics.root_expiry = issuer.not_after.timestamp()

    async def create_certificate(self, context: CallContext, message: bytes) -> bytes:
        """Serve one call.

        Raises:
            GrpcError: UNAUTHENTICATED, UNAVAILABLE, INVALID_ARGUMENT or PERMISSION_DENIED, with the reason.
        """
        self._metrics.requests += 1
        self._metrics.root_expiry = self._issuer.not_after.timestamp()
        caller: Caller | None = None
        try:
            caller = await authenticate_call(self._authenticator, context.metadata)
            return self._answer(caller, message)
        except CallerUnknown as error:
            self._metrics.authentication_failures += 1
            raise self._refusal(StatusCode.UNAUTHENTICATED, error, context, caller) from error
        except ControlPlaneUnavailable as error:
            raise self._refusal(StatusCode.UNAVAILABLE, error, context, caller) from error
        except InvalidValue as error:
            self._metrics.unreadable += 1
            raise self._refusal(StatusCode.INVALID_ARGUMENT, error, context, caller) from error
        except CertificateRefused as error:
            self._metrics.refused += 1
            if caller is not None:
                self._refused(caller, str(error))
            raise self._refusal(StatusCode.PERMISSION_DENIED, error, context, caller) from error

    def _answer(self, caller: Caller, message: bytes) -> bytes:
        request = _decode(message)
        signing = self._issuer.verify(request.csr.encode())
        granted = self._granted(caller, request)
        if signing.identity != granted:
            raise CertificateRefused(f"the signing request names {signing.identity}, the caller may have {granted}")
        try:
            issued = self._issuer.issue(signing, _lifetime(request))
        except Exception:
            self._metrics.signing_failures += 1
            raise
        self._metrics.issued += 1
        _log.info(
            "certificate_issued",
            identity=str(granted),
            caller=caller.account,
            node=caller.node,
            serial=f"{issued.serial:x}",
            not_after=issued.not_after.isoformat(),
        )
        chain = [part.decode("ascii") for part in (*issued.chain, issued.roots)]
        return IstioCertificateResponse(cert_chain=chain).SerializeToString()

    def _granted(self, caller: Caller, request: IstioCertificateRequest) -> SpiffeId:
        """The one identity this caller may have with this request.

        Raises:
            CertificateRefused: none.
            InvalidIdentity: the wanted one is not of the mesh's form.
        """
        wanted = _impersonated(request)
        if wanted is None:
            return SpiffeId(self._trust_domain, caller.namespace, caller.service_account)
        identity = SpiffeId.parse(wanted)
        if caller.account not in self._trusted:
            raise CertificateRefused(
                f"{caller.account} may not act for {identity}: only the mesh's node proxies act for others "
                "(trusted_node_accounts)"
            )
        if not caller.node:
            raise CertificateRefused(f"the token of {caller.account} does not say on which node it runs")
        if identity.trust_domain != self._trust_domain:
            raise CertificateRefused(f"{identity} is not of the trust domain {self._trust_domain}")
        if not self._placement.runs_on(identity.namespace, identity.service_account, caller.node):
            raise CertificateRefused(f"no live pod of {identity} runs on node {caller.node}")
        return identity

    def _refusal(
        self, status: StatusCode, error: MeshError, context: CallContext, caller: Caller | None
    ) -> GrpcError:
        _log.warning(
            "certificate_refused",
            status=status.name,
            reason=str(error),
            peer=str(context.peer),
            caller=caller.account if caller else "unknown",
            node=caller.node if caller else "unknown",
        )
        return GrpcError(status, str(error))


def _decode(message: bytes) -> IstioCertificateRequest:
    try:
        return IstioCertificateRequest.FromString(message)
    except DecodeError as error:
        raise InvalidMessage("the message is not an IstioCertificateRequest") from error


def _impersonated(request: IstioCertificateRequest) -> str | None:
    value = request.metadata.fields.get(IMPERSONATED_IDENTITY)
    if value is None:
        return None
    if value.WhichOneof("kind") != "string_value":
        raise InvalidMessage(f"metadata.{IMPERSONATED_IDENTITY} must be text")
    return value.string_value


def _lifetime(request: IstioCertificateRequest) -> timedelta | None:
    if request.validity_duration <= 0:
        return None
    return timedelta(seconds=min(request.validity_duration, _MAX_SECONDS))

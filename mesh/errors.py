"""The closed tree of errors.

Every error says whose fault it is and carries what it means on the wire: the HTTP status an HBONE peer is answered
with, and the response flag that metrics and the access log show (``contracts``: ztunnel's response flags). The message
names the likely cause and, where there is one, the remedy: it is read at three in the morning.

Foreign exceptions (OSError, ssl.SSLError, trio's) are translated where they arise, with ``raise ... from error``.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Fault(enum.Enum):
    """Who has to act."""

    PEER = "peer"
    """The other side of a connection broke the protocol or could not be reached."""
    POLICY = "policy"
    """Somebody wrote a policy that says no: this is the mesh doing its work."""
    CONFIGURATION = "configuration"
    """The mesh or its resources are configured wrongly."""
    ENVIRONMENT = "environment"
    """The machine lacks something: a privilege, a kernel feature, memory, descriptors."""
    INTERNAL = "internal"
    """A bug of ours."""


class ResponseFlag(enum.Enum):
    """Why a connection failed, as metrics label it."""

    NONE = "-"
    DENY = "DENY"
    CONNECT = "CONNECT"
    TLS_FAILURE = "TLS_FAILURE"
    H2_HANDSHAKE_FAILURE = "H2_HANDSHAKE_FAILURE"
    NETWORK_POLICY = "NETWORK_POLICY"
    IDENTITY_ERROR = "IDENTITY_ERROR"
    CERT_REVOKED = "CERT_REVOKED"

    __hash__ = object.__hash__  # members are single objects; the enum's own hash runs Python for every connection


class MeshError(Exception):
    """The root; only its leaves are raised."""

    fault: ClassVar[Fault] = Fault.INTERNAL
    http_status: ClassVar[int] = 503
    response_flag: ClassVar[ResponseFlag] = ResponseFlag.NONE


class InternalError(MeshError):
    """An invariant of ours does not hold."""

    http_status = 500


# -- bad values ------------------------------------------------------------------------------------------------------


class InvalidValue(MeshError):
    """A value from outside does not have the form it must have."""

    fault = Fault.PEER
    http_status = 400


class InvalidIdentity(InvalidValue):
    """Not a SPIFFE id of the mesh's form."""

    response_flag = ResponseFlag.IDENTITY_ERROR


class InvalidAddress(InvalidValue):
    """Not an IP address, socket address or network."""


class InvalidMessage(InvalidValue):
    """A protocol message (xDS, ZDS, gRPC, CNI) that cannot be decoded."""


# -- configuration and environment -------------------------------------------------------------------------------------


class ConfigurationError(MeshError):
    """A configuration file, manifest or option is wrong; the message names file, place and remedy."""

    fault = Fault.CONFIGURATION


class CertificateRefused(MeshError):
    """The certificate authority will not sign for this identity or this caller."""

    fault = Fault.POLICY
    http_status = 403
    response_flag = ResponseFlag.IDENTITY_ERROR


class CallerUnknown(MeshError):
    """A caller of the control plane shows no token, or one that nobody vouches for."""

    fault = Fault.PEER
    http_status = 401


class ControlPlaneUnavailable(MeshError):
    """The control plane cannot answer now, through no fault of the caller's, who should ask again."""

    fault = Fault.ENVIRONMENT


class ObjectMissing(MeshError):
    """An object that is to be read or changed does not exist (any more)."""

    fault = Fault.CONFIGURATION


class EnvironmentLacks(MeshError):
    """The machine lacks a privilege, program or kernel feature; the message names the remedy."""

    fault = Fault.ENVIRONMENT


# -- connections: what the peer did ------------------------------------------------------------------------------------


class ProtocolViolation(MeshError):
    """The peer broke HTTP/2 or HBONE; the connection ends."""

    fault = Fault.PEER
    http_status = 400
    response_flag = ResponseFlag.H2_HANDSHAKE_FAILURE


class TlsFailure(MeshError):
    """The TLS handshake failed, or the certificate shown is not acceptable."""

    fault = Fault.PEER
    response_flag = ResponseFlag.TLS_FAILURE


class PeerIdentityMismatch(TlsFailure):
    """The peer proved an identity other than the expected ones: a stale address or an impostor."""


class BadConnectRequest(MeshError):
    """An HBONE request that is not a CONNECT with a readable authority."""

    fault = Fault.PEER
    http_status = 400


class DestinationMismatch(MeshError):
    """CONNECT to an address that is not this pod's."""

    fault = Fault.PEER
    http_status = 400


class TunnelRefused(MeshError):
    """The far ztunnel or waypoint answered the CONNECT with a status other than 200."""

    fault = Fault.PEER
    response_flag = ResponseFlag.CONNECT

    def __init__(self, status: int) -> None:
        likely = {
            400: "the peer does not serve this address: its workload may have moved",
            401: "an AuthorizationPolicy or PeerAuthentication at the destination refused it",
            503: "the destination application does not accept connections",
        }
        super().__init__(f"http status: {status} ({likely.get(status, 'see the peer ztunnel log')})")
        self.status = status


class ConnectFailed(MeshError):
    """A TCP connection could not be made."""

    fault = Fault.PEER
    response_flag = ResponseFlag.CONNECT


class HboneUnreachable(MeshError):
    """No answer from port 15008: most often a NetworkPolicy that does not admit it."""

    fault = Fault.PEER
    response_flag = ResponseFlag.NETWORK_POLICY


class ConnectionLost(MeshError):
    """An established connection ended without a proper close."""

    fault = Fault.PEER


# -- connections: what the mesh decided --------------------------------------------------------------------------------


class PolicyDenied(MeshError):
    """RBAC or PeerAuthentication says no."""

    fault = Fault.POLICY
    http_status = 401
    response_flag = ResponseFlag.DENY


class ClosedByPolicyChange(PolicyDenied):
    """An established connection is no longer allowed."""


class UnknownWorkload(MeshError):
    """The control plane has not (yet) described the local workload."""

    fault = Fault.CONFIGURATION


class NoHealthyUpstream(MeshError):
    """A service of the mesh without an endpoint that could be used."""

    fault = Fault.CONFIGURATION
    response_flag = ResponseFlag.CONNECT


class WaypointUnavailable(NoHealthyUpstream):
    """What was dialled is bound to a waypoint that cannot be reached: going past it would skip what it enforces."""


class SelfCall(MeshError):
    """A call to one of the mesh's own ports: refused, it would loop."""

    fault = Fault.PEER


class IdentityUnavailable(MeshError):
    """No certificate for a local identity: the certificate service refused or cannot be reached."""

    fault = Fault.ENVIRONMENT
    response_flag = ResponseFlag.IDENTITY_ERROR


class CertificateServiceAway(IdentityUnavailable):
    """The certificate service gives no answer, so nobody has refused anything, and asking again soon costs little."""


class Draining(MeshError):
    """This proxy is shutting down."""

    fault = Fault.ENVIRONMENT


def find_cause(error: BaseException, kind: type[MeshError]) -> MeshError | None:
    """The first error of this kind in the chain of causes, if any."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kind):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def leaves(error: BaseException) -> list[BaseException]:
    """The errors that groups within groups hold, in their order; the error itself if it is no group."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in leaves(each)]

"""Who the other side of a TLS connection is.

A certificate of the mesh carries exactly one URI name, its SPIFFE id (X.509-SVID specification, section 2). A
certificate is parsed once: the results are kept by its DER bytes, since the same few peers come back all the time.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509

from mesh.errors import InvalidIdentity, PeerIdentityMismatch, TlsFailure
from mesh.identity import SpiffeId

_CACHED_CERTIFICATES = 4096


@lru_cache(maxsize=_CACHED_CERTIFICATES)
def peer_uri(der: bytes) -> str:
    """The one URI name of a certificate, of whatever form.

    Raises:
        InvalidIdentity: unreadable certificate, no URI name, or several.
    """
    try:
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise InvalidIdentity(f"the peer's certificate cannot be read: {error}") from error
    if len(uris) != 1:
        raise InvalidIdentity(
            f"the peer's certificate holds {len(uris)} URI names, a certificate of the mesh holds exactly one: "
            "it was not issued for a workload"
        )
    return uris[0]


@lru_cache(maxsize=_CACHED_CERTIFICATES)
def peer_identity(der: bytes) -> SpiffeId:
    """The workload identity that a certificate states; its chain has been verified by the handshake.

    Raises:
        InvalidIdentity: not exactly one URI name, or not of the mesh's form.
    """
    return SpiffeId.parse(peer_uri(der))


def verify_client_side(der: bytes, expected: frozenset[SpiffeId | str]) -> SpiffeId | str:
    """Check, as the dialling side, that the server is one of those who may serve this address.

    Args:
        der: the server's certificate.
        expected: identities of the destination workload, and alternative names that its Service admits (any URI).

    Returns:
        The member of ``expected`` that the server proved to be.

    Raises:
        PeerIdentityMismatch: it is somebody else, or its certificate states no usable identity.
    """
    try:
        uri = peer_uri(der)
    except InvalidIdentity as error:
        raise PeerIdentityMismatch(str(error)) from error
    if uri in expected:
        return uri
    try:
        identity = peer_identity(der)
    except InvalidIdentity:
        pass
    else:
        if identity in expected:
            return identity
    wanted = ", ".join(sorted(map(str, expected))[:8]) or "nobody"
    raise PeerIdentityMismatch(
        f"the server proved to be {uri[:256]!r}, expected {wanted}: its address has moved to another workload and the "
        "control plane's news of it is on its way, or somebody impersonates it"
    )


def verify_server_side(der: bytes, trust_domain: str) -> SpiffeId:
    """Check, as the accepting side, that the client belongs to our trust domain, and return who it is.

    Any namespace and service account of the domain passes: what it may do is for the authorization policies.

    Raises:
        TlsFailure: another trust domain, or a certificate that states no usable identity.
    """
    try:
        identity = peer_identity(der)
    except InvalidIdentity as error:
        raise TlsFailure(str(error)) from error
    if identity.trust_domain != trust_domain:
        raise TlsFailure(
            f"the client is {identity}, of a foreign trust domain; this mesh is {trust_domain!r} (trust_domain in the "
            "configuration of the operator and of ztunnel)"
        )
    return identity

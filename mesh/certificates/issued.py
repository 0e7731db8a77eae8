"""Is what the certificate service answered what we asked for?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import IdentityUnavailable
from mesh.identity import SpiffeId
from mesh.tls.credentials import Credentials

_MAX_ELEMENTS = 16
_MAX_BYTES = 1024 * 1024


def accept_chain(
    identity: SpiffeId, key: ec.EllipticCurvePrivateKey, cert_chain: Sequence[str], now: float
) -> Credentials:
    """Check an answer and make credentials of it.

    Args:
        identity: whom we asked for.
        key: ours, that the request was signed with.
        cert_chain: PEM: the leaf, intermediates in order, last the bundle of roots.
        now: wall clock, seconds since 1970.

    Raises:
        IdentityUnavailable: it is not a usable certificate of that identity and key; the text says what is wrong.
    """
    if not 2 <= len(cert_chain) <= _MAX_ELEMENTS or sum(map(len, cert_chain)) > _MAX_BYTES:
        raise _unusable(identity, f"a chain of {len(cert_chain)} elements, it should be leaf, intermediates and roots")
    try:
        *elements, bundle = [x509.load_pem_x509_certificates(pem.encode()) for pem in cert_chain]
    except ValueError as error:
        raise _unusable(identity, "a chain that is not PEM") from error
    chain = [certificate for element in elements for certificate in element]
    leaf = chain[0]
    _check_leaf(identity, leaf, key, datetime.fromtimestamp(now, UTC))
    _check_signatures(identity, chain, bundle)
    return Credentials.assemble(identity, tuple(map(_pem, chain)), key, b"".join(map(_pem, bundle)))


def _check_leaf(
    identity: SpiffeId, leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: datetime
) -> None:
    if leaf.public_key() != key.public_key():
        raise _unusable(identity, "a certificate for another key")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    if uris != [str(identity)]:
        raise _unusable(identity, f"a certificate for {', '.join(uris)[:256] or 'nobody'}")
    if leaf.not_valid_after_utc <= now:
        raise _unusable(
            identity, f"a certificate that expired at {leaf.not_valid_after_utc:%FT%TZ}: compare the two clocks"
        )


def _check_signatures(
    identity: SpiffeId, chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> None:
    for certificate, issuer in pairwise(chain):
        if not _issued_by(certificate, issuer):
            raise _unusable(identity, "intermediate certificates that do not form a chain")
    last = chain[-1]
    if not any(_issued_by(last, root) for root in roots):
        raise _unusable(identity, "a chain that ends in none of the roots sent with it")


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
        return issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False


def _unusable(identity: SpiffeId, what: str) -> IdentityUnavailable:
    return IdentityUnavailable(f"the certificate service answered the request for {identity} with {what}")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

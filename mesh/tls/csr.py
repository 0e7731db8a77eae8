"""Keys and certificate signing requests: ECDSA P-256 with SHA-256, an empty subject, one URI name."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.identity import SpiffeId


def make_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_csr(identity: SpiffeId, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The request, PEM. The subject stays empty: only the URI name says who this is."""
    # RFC 5280 section 4.2.1.6: with an empty subject the alternative name must be critical.
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

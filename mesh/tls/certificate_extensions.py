"""Extensions of certificates, as all that issue them for the mesh write them (RFC 5280 section 4.2.1)."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def key_usage(
    *, digital_signature: bool = False, key_encipherment: bool = False, signs_certificates: bool = False
) -> x509.KeyUsage:
    """What a certificate's key may do; an authority also signs revocation lists. Nothing else is ever allowed."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The issuer's key, by the name its own certificate gives it, or by its hash where that gives none."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        assert isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey))
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)

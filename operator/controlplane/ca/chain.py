"""Who signed whom. Pure."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature


def is_issued_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    """Whether a certificate names the other one as its issuer and was signed by its key."""
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True

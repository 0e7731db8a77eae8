"""A private key, the certificate chain that proves it, and the roots its holder trusts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import InvalidMessage
from mesh.identity import SpiffeId


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Credentials:
    """What one identity needs to speak mutual TLS.

    Compared by object: two certificates of one identity are different credentials.
    """

    identity: SpiffeId
    certificate_chain: tuple[bytes, ...]
    """PEM, one certificate each, the leaf first, without the root."""
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    roots: bytes = field(repr=False)
    """PEM bundle, one or more trusted roots."""
    not_before: datetime
    """Aware, UTC."""
    not_after: datetime
    """Aware, UTC."""
    serial: int


    @staticmethod
    def assemble(
        identity: SpiffeId, chain: tuple[bytes, ...], key: ec.EllipticCurvePrivateKey, roots: bytes
    ) -> Credentials:
        """Read validity and serial number from the leaf; nothing is verified here.

        Raises:
            InvalidMessage: the first element of ``chain`` is not a PEM certificate.
        """
        try:
            leaf = x509.load_pem_x509_certificate(chain[0])
        except (ValueError, IndexError) as error:
            raise InvalidMessage("the certificate chain does not start with a PEM certificate") from error
        return Credentials(
            identity=identity,
            certificate_chain=chain,
            key=key,
            roots=roots,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
            serial=leaf.serial_number,
        )

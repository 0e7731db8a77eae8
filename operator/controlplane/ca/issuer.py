"""Signing: requests to workload certificates, and the operator's own serving certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID

from controlplane.ca.authority import Authority
from mesh.clock import utc_now
from mesh.errors import CertificateRefused, InvalidMessage
from mesh.identity import SpiffeId
from mesh.tls.certificate_extensions import authority_identifier, key_usage

MAX_REQUEST = 16 * 1024
"""Bytes of a PEM request; a P-256 one has some 500."""
BACKDATING = timedelta(seconds=60)
"""How far before now certificates begin, so that a node whose clock is slow takes them at once."""

_RSA_BITS = range(2048, 8193)
_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long certificates live."""

    default: timedelta = timedelta(hours=24)
    minimum: timedelta = timedelta(seconds=5)
    maximum: timedelta = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A request whose signature, key and name have been verified."""

    identity: SpiffeId
    key: _PublicKey


@dataclass(frozen=True, slots=True, eq=False)
class Issued:
    """A new certificate."""

    chain: tuple[bytes, ...]
    """PEM, one certificate each: the leaf, then intermediates, without the root."""
    roots: bytes
    """PEM bundle."""
    serial: int
    not_after: datetime


class Issuer:
    """Signs with one authority for one trust domain. Decides nothing: whoever calls has decided."""

    def __init__(
        self,
        authority: Authority,
        trust_domain: str,
        lifetimes: Lifetimes = Lifetimes(),
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._authority = authority
        self._trust_domain = trust_domain
        self._lifetimes = lifetimes
        self._now = now

    def replace_authority(self, authority: Authority) -> None:
        """Sign with another authority from now on."""
        self._authority = authority

    @property
    def roots(self) -> bytes:
        """PEM bundle that verifies what is signed here."""
        return self._authority.roots

    @property
    def not_after(self) -> datetime:
        """When the authority itself expires."""
        return self._authority.certificate.not_valid_after_utc

    def derived_secret(self, purpose: str) -> bytes:
        """A secret that everybody who holds the authority's key can make, and nobody else; 32 bytes.

        Args:
            purpose: another purpose, another secret; none tells anything about the key (HKDF, RFC 5869).
        """
        key = self._authority.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return HKDF(hashes.SHA256(), length=32, salt=None, info=purpose.encode()).derive(key)

    def verify(self, csr: bytes) -> SigningRequest:
        """Read a request and hold it to the mesh's rules.

        Args:
            csr: PEM.

        Raises:
            InvalidMessage: unreadable, badly signed, a key that is too weak, not exactly one URI name.
            InvalidIdentity: the name is not an identity of the mesh's form.
            CertificateRefused: the identity is of another trust domain.
        """
        if len(csr) > MAX_REQUEST:
            raise InvalidMessage(f"the certificate signing request has {len(csr)} bytes; {MAX_REQUEST} are taken")
        try:
            request = x509.load_pem_x509_csr(csr)
            key = request.public_key()
            _check_key(key)
            valid = request.is_signature_valid
            names = list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion) as error:
            raise InvalidMessage(f"the certificate signing request is unreadable: {error}") from error
        except x509.ExtensionNotFound as error:
            raise InvalidMessage("the certificate signing request has no subject alternative name") from error
        except x509.DuplicateExtension as error:
            raise InvalidMessage("the certificate signing request has an extension twice") from error
        if not valid:
            raise InvalidMessage("the certificate signing request is not signed by the key it holds")
        if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
            raise InvalidMessage(f"the request must have one name, a SPIFFE URI; it has {len(names)}")
        identity = SpiffeId.parse(names[0].value)
        if identity.trust_domain != self._trust_domain:
            raise CertificateRefused(
                f"{identity} is of the trust domain {identity.trust_domain}; this authority is that of "
                f"{self._trust_domain}"
            )
        assert isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey))
        return SigningRequest(identity, key)

    def issue(self, request: SigningRequest, wished: timedelta | None = None) -> Issued:
        """Sign a verified request.

        Args:
            request: as ``verify`` gives it.
            wished: the lifetime asked for, kept within the configured bounds; None for the default.
        """
        name = x509.UniformResourceIdentifier(str(request.identity))
        return self._sign(request.key, name, wished)

    def issue_server(self, hostname: str, key: ec.EllipticCurvePublicKey, wished: timedelta | None = None) -> Issued:
        """Sign for the operator's own listener, known by its DNS name."""
        return self._sign(key, x509.DNSName(hostname), wished)

    def _sign(self, key: _PublicKey, name: x509.GeneralName, wished: timedelta | None) -> Issued:
        authority = self._authority
        bounds = self._lifetimes
        lifetime = bounds.default if wished is None else min(max(wished, bounds.minimum), bounds.maximum)
        now = self._now()
        # Holders renew at half of a certificate's whole span, so the part before now must stay a small part of it.
        not_before = now - min(BACKDATING, lifetime / 10)
        not_after = min(now + lifetime, authority.certificate.not_valid_after_utc)
        serial = x509.random_serial_number()
        usage = key_usage(digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPublicKey))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(authority.certificate.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            # RFC 5280 section 4.2.1.6: with an empty subject the alternative name is critical.
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority_identifier(authority.certificate), critical=False)
        )
        leaf = builder.sign(authority.key, hashes.SHA256())
        pem = leaf.public_bytes(serialization.Encoding.PEM)
        return Issued((pem, *authority.intermediates), authority.roots, serial, leaf.not_valid_after_utc)


def _check_key(key: object) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"its key is on the curve {key.curve.name}; P-256 is taken")
    elif isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise ValueError(f"its RSA key has {key.key_size} bits; 2048 to 8192 are taken")
    else:
        raise ValueError("its key is neither ECDSA P-256 nor RSA")

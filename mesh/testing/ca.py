"""A certificate authority for tests: real certificates, made in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.identity import SpiffeId
from mesh.tls.certificate_extensions import authority_identifier, key_usage
from mesh.tls.credentials import Credentials

BOTH_SIDES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_CLOCK_SKEW = timedelta(minutes=2)
_ROOT_LIFETIME = timedelta(days=3650)


class TestAuthority:
    """Issues credentials under a root of its own, directly or through an intermediate.

    Every deviation a test may want (names, usage, validity) is an argument, so that hostile certificates are made by
    the same code as good ones.
    """

    __test__ = False  # Not a test class, whatever its name says to pytest.

    def __init__(self, trust_domain: str = "cluster.local", *, intermediate: bool = False) -> None:
        self.trust_domain = trust_domain
        root_key = ec.generate_private_key(ec.SECP256R1())
        root = _authority_certificate(f"root of {trust_domain}", root_key, None, root_key)
        self.roots = _pem(root)
        """PEM, to be trusted."""
        self._issuer, self._issuer_key = root, root_key
        self._intermediates: tuple[bytes, ...] = ()
        if intermediate:
            key = ec.generate_private_key(ec.SECP256R1())
            self._issuer = _authority_certificate(f"intermediate of {trust_domain}", key, root, root_key)
            self._issuer_key = key
            self._intermediates = (_pem(self._issuer),)

    @classmethod
    def holding(cls, key: ec.EllipticCurvePrivateKey, root: x509.Certificate, trust_domain: str) -> TestAuthority:
        """An authority with somebody else's key and root certificate, to issue in its name."""
        made = cls(trust_domain)
        made.roots = _pem(root)
        made._issuer, made._issuer_key = root, key
        return made

    def identity(self, namespace: str, service_account: str) -> SpiffeId:
        """An identity of this authority's trust domain."""
        return SpiffeId(self.trust_domain, namespace, service_account)

    def issue(
        self,
        identity: SpiffeId,
        *,
        lifetime: timedelta = timedelta(hours=1),
        now: datetime | None = None,
        uris: Sequence[str] | None = None,
        usages: Sequence[x509.ObjectIdentifier] = BOTH_SIDES,
    ) -> Credentials:
        """Credentials with a fresh key.

        Args:
            identity: whose they are.
            lifetime: until ``not_after``, from ``now``; negative for expired ones.
            now: default: the wall clock.
            uris: URI names in the certificate; default the identity alone.
            usages: extended key usages; empty leaves the extension out.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri) for uri in ([str(identity)] if uris is None else uris)]
        chain = self._sign(key.public_key(), names, lifetime, now, usages)
        return Credentials.assemble(identity, chain, key, self.roots)

    def issue_server(self, hostname: str, *, lifetime: timedelta = timedelta(hours=1)) -> Credentials:
        """Credentials of a control-plane server, known by a DNS name (their ``identity`` is a placeholder)."""
        key = ec.generate_private_key(ec.SECP256R1())
        chain = self._sign(key.public_key(), [x509.DNSName(hostname)], lifetime, None, BOTH_SIDES)
        return Credentials.assemble(self.identity("istio-system", "operator"), chain, key, self.roots)

    def sign_csr(
        self, csr: bytes, *, lifetime: timedelta, now: datetime | None = None, identity: SpiffeId | None = None
    ) -> tuple[bytes, ...]:
        """Answer a signing request as the certificate service does.

        Args:
            csr: PEM; its key and, unless ``identity`` says otherwise, its names go into the certificate.
            lifetime: from ``now``.
            now: default: the wall clock.
            identity: certify this instead of what was asked, as a faulty authority would.

        Returns:
            PEM: the leaf, the intermediates, the root bundle.
        """
        request = x509.load_pem_x509_csr(csr)
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        asked = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = list(asked) if identity is None else [x509.UniformResourceIdentifier(str(identity))]
        return (*self._sign(key, names, lifetime, now, BOTH_SIDES), self.roots)

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        lifetime: timedelta,
        now: datetime | None,
        usages: Sequence[x509.ObjectIdentifier],
    ) -> tuple[bytes, ...]:
        now = datetime.now(UTC) if now is None else now
        not_after = now + lifetime
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._issuer.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, not_after) - _CLOCK_SKEW)
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(authority_identifier(self._issuer), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return (_pem(builder.sign(self._issuer_key, hashes.SHA256())), *self._intermediates)


def _authority_certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _ROOT_LIFETIME)
        .not_valid_after(now + _ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(key_usage(signs_certificates=True), critical=True)
    )
    if issuer is not None:
        builder = builder.add_extension(authority_identifier(issuer), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

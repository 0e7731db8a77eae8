"""The certificates of a cluster: one authority, and whoever it vouches for.

Kubernetes knows people and its own programs by client certificates: the common name is the user, the organizations are
the groups. All keys are elliptic, which are made in no time.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.tls.certificate_extensions import key_usage

_CLOCK_SKEW = timedelta(minutes=5)
_LIFETIME = timedelta(days=30)
ADMINISTRATORS = "system:masters"
"""The group that may do everything."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as PEM and as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs the certificates of one cluster, in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _name("ambimesh test cluster", ())
        self._certificate = (
            _builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(digital_signature=True, signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pair = self._write("authority", self._certificate, self._key)

    @property
    def certificate(self) -> Path:
        """What clients trust, PEM."""
        return self.pair.certificate

    def client(self, user: str, groups: Sequence[str] = ()) -> Pair:
        """A client's certificate; the same files for the same user and groups."""
        return self._issue(_file_name(user, *groups), _name(user, groups), [], ExtendedKeyUsageOID.CLIENT_AUTH)

    def server(self, name: str, hosts: Sequence[str]) -> Pair:
        """A server's certificate for host names and addresses."""
        return self._issue(_file_name(name), _name(name, ()), hosts, ExtendedKeyUsageOID.SERVER_AUTH)

    def signing_key(self, name: str) -> tuple[Path, Path]:
        """A key pair without a certificate: (private, public), as service accounts' tokens are signed with."""
        key = ec.generate_private_key(ec.SECP256R1())
        private, public = self._folder / f"{name}.key", self._folder / f"{name}.pub"
        _write_private(private, _key_pem(key))
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return private, public

    def _issue(self, file: str, name: x509.Name, hosts: Sequence[str], usage: x509.ObjectIdentifier) -> Pair:
        pair = Pair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        if pair.certificate.exists():
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(name, self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
            )
        return self._write(file, builder.sign(self._key, hashes.SHA256()), key)

    def _write(self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        pair = Pair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        _write_private(pair.key, _key_pem(key))
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return pair


def kubeconfig(server: str, authority: Path, client: Pair | str) -> str:
    """A kubeconfig that needs no other file; ``client`` is a certificate or a bearer token."""

    def inline(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    user = (
        {"token": client}
        if isinstance(client, str)
        else {"client-certificate-data": inline(client.certificate), "client-key-data": inline(client.key)}
    )
    cluster = {"server": server, "certificate-authority-data": inline(authority)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
        },
        indent=1,
    )


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    _write_private(path, text.encode())
    return path


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _file_name(*parts: str) -> str:
    return "+".join(part.replace(":", "-").replace("/", "-") for part in parts)


def _name(common_name: str, organizations: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )

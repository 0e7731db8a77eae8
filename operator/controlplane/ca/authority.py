"""The signing key and its certificate: self-made and kept, or given.

A self-made authority lives in one file, key and certificate together, so that there is no moment at which one exists
without the other. It is written beside its place, readable by its owner only, and linked into place: of several
processes that start at once one wins and the others read what it made.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from controlplane.ca.chain import is_issued_by
from mesh.clock import utc_now
from mesh.errors import ConfigurationError, EnvironmentLacks
from mesh.tls.certificate_extensions import key_usage

ROOT_LIFETIME = timedelta(days=3650)
FILE_NAME = "authority.pem"
_MAX_FILE = 1 << 20

Place = Path | str
"""Where something was read, for messages."""
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, eq=False)
class Authority:
    """What signs, and how others verify it."""

    key: SigningKey
    certificate: x509.Certificate
    intermediates: tuple[bytes, ...]
    """PEM, from the signing certificate up to, and without, the root; empty when the root itself signs."""
    roots: bytes
    """PEM bundle of the roots to trust."""


def load_or_create(folder: Path, trust_domain: str) -> Authority:
    """The self-made authority kept in a folder; made at the first call.

    Raises:
        ConfigurationError: the file is broken, expired or readable by others.
        EnvironmentLacks: the folder cannot be written.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _create(path, trust_domain)
    except OSError as error:
        raise EnvironmentLacks(f"cannot keep the certificate authority in {folder}: {error.strerror}") from error
    content = _read_private(path)
    key = _private_key(content, path)
    certificate = _certificates(content, path)[0]
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return _checked(Authority(key, certificate, (), pem), path)


def load_given(certificate_chain: Path, key: Path, roots: Path) -> Authority:
    """An authority somebody else made: a root, or an intermediate with the chain up to its root.

    Args:
        certificate_chain: PEM, the signing certificate first.
        key: PEM, its private key (ECDSA or RSA); readable by its owner only.
        roots: PEM bundle of the roots to trust.

    Raises:
        ConfigurationError: unreadable, expired, or the parts do not belong together.
    """
    return read_authority(
        _read(certificate_chain), _read_private(key), _read(roots), (certificate_chain, key, roots)
    )


def read_authority(
    certificate_chain: bytes, key: bytes, roots: bytes, places: tuple[Place, Place, Place]
) -> Authority:
    """The same of what has been read already; ``places`` are what messages call the three. Raises as above."""
    chain_place, key_place, roots_place = places
    chain = _certificates(certificate_chain, chain_place)
    trusted = _certificates(roots, roots_place)
    for child, parent in pairwise(chain):
        if not is_issued_by(child, parent):
            name = parent.subject.rfc4514_string()
            raise ConfigurationError(f"{chain_place}: a certificate is not signed by the next one, {name}")
    if not any(chain[-1] == root or is_issued_by(chain[-1], root) for root in trusted):
        raise ConfigurationError(f"{chain_place} does not lead to a root in {roots_place}")
    intermediates = tuple(
        certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain if certificate not in trusted
    )
    bundle = b"".join(root.public_bytes(serialization.Encoding.PEM) for root in trusted)
    authority = Authority(_private_key(key, key_place), chain[0], intermediates, bundle)
    return _checked(authority, chain_place)


def make_root(trust_domain: str) -> tuple[bytes, bytes]:
    """A new root: its certificate and its private key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _self_signed(key, trust_domain)
    return certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _create(path: Path, trust_domain: str) -> None:
    certificate, key = make_root(trust_domain)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of an earlier process with our number that died within this function
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key + certificate)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # another process was first: its authority is ours too
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _self_signed(key: ec.EllipticCurvePrivateKey, trust_domain: str) -> x509.Certificate:
    now = datetime.now(UTC)
    # The key's own identifier keeps the names of two authorities of one trust domain apart.
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, f"ambimesh root {identifier.digest.hex()[:16]}"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _checked(authority: Authority, place: Place) -> Authority:
    certificate = authority.certificate
    if certificate.public_key() != authority.key.public_key():
        raise ConfigurationError(f"{place}: the key is not the certificate's")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    if not constraints.ca:
        raise ConfigurationError(f"{place}: the certificate is not one of an authority (basic constraints CA)")
    if certificate.not_valid_after_utc <= utc_now():
        raise ConfigurationError(f"{place}: the certificate expired at {certificate.not_valid_after_utc}; replace it")
    return authority


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _read_private(path: Path) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigurationError(f"{path} holds a private key and has mode {mode:04o}; run chmod 600 on it")
    return _read(path)


def _private_key(content: bytes, path: Place) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} holds no readable private key ({error})") from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ConfigurationError(f"{path} holds a key that is neither ECDSA nor RSA")
    return key


def _certificates(content: bytes, path: Place) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise ConfigurationError(f"{path} holds no readable certificate ({error})") from error

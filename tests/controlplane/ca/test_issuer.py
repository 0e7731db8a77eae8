from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.ca.authority import load_or_create
from controlplane.ca.issuer import Issuer
from mesh.clock import utc_now
from mesh.errors import CertificateRefused, InvalidValue
from mesh.identity import SpiffeId
from mesh.tls.csr import make_csr, make_key
from mesh.tls.peer import peer_identity

IDENTITY = SpiffeId("cluster.local", "shop", "web")


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(load_or_create(tmp_path_factory.mktemp("ca"), "cluster.local"), "cluster.local")


def request_pem(names: Sequence[x509.GeneralName], key: object = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    key = key or make_key()
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    assert isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey))
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def uri(text: str = str(IDENTITY)) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def test_a_good_request_becomes_a_certificate_for_both_sides(issuer: Issuer) -> None:
    key = make_key()
    issued = issuer.issue(issuer.verify(make_csr(IDENTITY, key)))
    leaf = x509.load_pem_x509_certificate(issued.chain[0])
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(issuer.roots))
    assert leaf.public_key() == key.public_key()
    assert peer_identity(leaf.public_bytes(serialization.Encoding.DER)) == IDENTITY
    assert leaf.serial_number == issued.serial
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_rsa_is_taken(issuer: Issuer) -> None:
    assert issuer.verify(request_pem([uri()], rsa.generate_private_key(65537, 2048))).identity == IDENTITY


@pytest.mark.parametrize(
    ("wished", "expected"),
    [
        (None, timedelta(hours=24)),
        (timedelta(seconds=20), timedelta(seconds=20)),
        (timedelta(seconds=1), timedelta(seconds=5)),
        (timedelta(days=400), timedelta(days=90)),
    ],
)
def test_lifetimes(issuer: Issuer, wished: timedelta | None, expected: timedelta) -> None:
    issued = issuer.issue(issuer.verify(make_csr(IDENTITY, make_key())), wished)
    leaf = x509.load_pem_x509_certificate(issued.chain[0])
    now = utc_now()
    assert abs(leaf.not_valid_after_utc - now - expected) < timedelta(seconds=5)
    assert leaf.not_valid_before_utc <= now
    # Half of the whole span, at which holders renew, must lie ahead.
    middle = leaf.not_valid_before_utc + (leaf.not_valid_after_utc - leaf.not_valid_before_utc) / 2
    assert middle > leaf.not_valid_before_utc + (now - leaf.not_valid_before_utc)


def broken_signature() -> bytes:
    lines = request_pem([uri()]).decode().splitlines()
    # The last bytes are the signature's.
    line = lines[-2]
    lines[-2] = line[:-8] + ("AAAA" if line[-8:-4] != "AAAA" else "BBBB") + line[-4:]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "unreadable"),
        (lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "unreadable"),
        (lambda: request_pem([uri()]) * 100, "bytes"),
        (lambda: request_pem([]), "no subject alternative name"),
        (lambda: request_pem([uri(), uri("spiffe://cluster.local/ns/shop/sa/other")]), "one name"),
        (lambda: request_pem([uri(), x509.DNSName("web")]), "one name"),
        (lambda: request_pem([x509.DNSName("web")]), "one name"),
        (lambda: request_pem([uri("https://web")]), "not a SPIFFE id"),
        (lambda: request_pem([uri("spiffe://cluster.local/web")]), "not of the form"),
        (lambda: request_pem([uri()], ec.generate_private_key(ec.SECP384R1())), "P-256 is taken"),
        (lambda: request_pem([uri()], rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (lambda: request_pem([uri()], ed25519.Ed25519PrivateKey.generate()), "neither ECDSA"),
        (broken_signature, "signed by the key|unreadable"),
    ],
)
def test_bad_requests(issuer: Issuer, make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidValue, match=message):
        issuer.verify(make())


def test_another_trust_domain(issuer: Issuer) -> None:
    with pytest.raises(CertificateRefused, match="trust domain"):
        issuer.verify(make_csr(SpiffeId("elsewhere.example", "shop", "web"), make_key()))


def test_serving_certificate(tmp_path: Path) -> None:
    issuer = Issuer(load_or_create(tmp_path, "cluster.local"), "cluster.local")
    issued = issuer.issue_server("operator.example", make_key().public_key())
    names = x509.load_pem_x509_certificate(issued.chain[0]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["operator.example"]


_GOOD = make_csr(IDENTITY, make_key())


@given(st.integers(0, len(_GOOD) - 1), st.integers(0, 255))
@example(position=49, value=ord("j"))  # a version of requests that does not exist
def test_a_changed_byte_never_gets_another_name_through(issuer: Issuer, position: int, value: int) -> None:
    damaged = _GOOD[:position] + bytes([value]) + _GOOD[position + 1 :]
    try:
        found = issuer.verify(damaged)
    except (InvalidValue, CertificateRefused):
        return
    assert found.identity == IDENTITY


def test_a_derived_secret_is_the_keys_and_the_purposes(issuer: Issuer, tmp_path: Path) -> None:
    other = Issuer(load_or_create(tmp_path, "cluster.local"), "cluster.local")
    secrets = {issuer.derived_secret("a"), issuer.derived_secret("b"), other.derived_secret("a")}
    assert len(secrets) == 3
    assert issuer.derived_secret("a") in secrets
    assert {len(secret) for secret in secrets} == {32}

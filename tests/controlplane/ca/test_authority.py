from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca.authority import FILE_NAME, load_given, load_or_create
from controlplane.ca.issuer import Issuer, SigningRequest
from mesh.clock import utc_now
from mesh.errors import ConfigurationError, EnvironmentLacks
from mesh.identity import SpiffeId


def test_made_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    first = load_or_create(folder, "cluster.local")
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    second = load_or_create(folder, "cluster.local")
    assert second.roots == first.roots
    assert second.certificate == first.certificate
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]


def test_mode_holds_under_a_careless_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create(tmp_path, "cluster.local")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_whoever_comes_second_takes_what_the_first_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_or_create(tmp_path, "cluster.local")
    exists = Path.exists
    # As if both had looked before either had written.
    monkeypatch.setattr(Path, "exists", lambda self: False if self.name == FILE_NAME else exists(self))
    assert load_or_create(tmp_path, "cluster.local").roots == first.roots


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    load_or_create(tmp_path, "cluster.local")
    (tmp_path / FILE_NAME).chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_or_create(tmp_path, "cluster.local")


def test_a_broken_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch(0o600)
    with pytest.raises(ConfigurationError, match="no readable private key"):
        load_or_create(tmp_path, "cluster.local")
    assert (tmp_path / FILE_NAME).read_bytes() == b""


def test_no_place_to_keep_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLacks, match="cannot keep"):
        load_or_create(tmp_path / "file" / "ca", "cluster.local")


class Given:
    """An intermediate and its root, as files."""

    def __init__(self, folder: Path, *, ca: bool = True, valid: timedelta = timedelta(days=1)) -> None:
        root = load_or_create(folder / "root", "cluster.local")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "intermediate")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(root.certificate.subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(utc_now() - timedelta(days=2))
            .not_valid_after(utc_now() + valid)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(root.key, hashes.SHA256())
        )
        self.chain, self.key, self.roots = folder / "chain.pem", folder / "key.pem", folder / "roots.pem"
        self.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key.touch(0o600)
        encodings = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.key.write_bytes(key.private_bytes(*encodings))
        self.roots.write_bytes(root.roots)


def test_a_given_intermediate_signs_and_is_sent_along(tmp_path: Path) -> None:
    given = Given(tmp_path)
    authority = load_given(given.chain, given.key, given.roots)
    assert authority.intermediates == (given.chain.read_bytes(),)
    assert authority.roots == given.roots.read_bytes()
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    request = SigningRequest(SpiffeId("cluster.local", "a", "b"), key)
    issued = Issuer(authority, "cluster.local").issue(request, timedelta(days=30))
    leaf, intermediate = (x509.load_pem_x509_certificate(part) for part in issued.chain)
    leaf.verify_directly_issued_by(intermediate)
    # Nothing outlives what it is signed with.
    assert leaf.not_valid_after_utc == intermediate.not_valid_after_utc


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda given, other: given.key.chmod(0o644), "chmod 600"),
        (lambda given, other: given.key.write_bytes(other.key.read_bytes()), "not the certificate's"),
        (lambda given, other: given.roots.write_bytes(other.roots.read_bytes()), "does not lead to a root"),
        (lambda given, other: given.chain.write_text("x"), "no readable certificate"),
        (lambda given, other: given.chain.unlink(), "cannot be read"),
    ],
)
def test_given_parts_that_do_not_belong_together(tmp_path: Path, damage: object, message: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    given, other = Given(tmp_path / "one"), Given(tmp_path / "two")
    assert callable(damage)
    damage(given, other)
    with pytest.raises(ConfigurationError, match=message):
        load_given(given.chain, given.key, given.roots)


def test_given_certificates_that_cannot_sign(tmp_path: Path) -> None:
    for name in ("leaf", "old"):
        (tmp_path / name).mkdir()
    leaf = Given(tmp_path / "leaf", ca=False)
    with pytest.raises(ConfigurationError, match="not one of an authority"):
        load_given(leaf.chain, leaf.key, leaf.roots)
    old = Given(tmp_path / "old", valid=timedelta(days=-1))
    with pytest.raises(ConfigurationError, match="expired"):
        load_given(old.chain, old.key, old.roots)

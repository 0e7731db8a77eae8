from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from mesh.tls.certificate_extensions import authority_identifier, key_usage
from mesh.tls.csr import make_key


def allowed(usage: x509.KeyUsage) -> set[str]:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return {name for name in (*names, "key_cert_sign", "crl_sign") if getattr(usage, name)}


def test_a_key_may_do_what_is_said_and_no_more() -> None:
    assert allowed(key_usage()) == set()
    assert allowed(key_usage(signs_certificates=True)) == {"key_cert_sign", "crl_sign"}
    both = key_usage(digital_signature=True, key_encipherment=True)
    assert allowed(both) == {"digital_signature", "key_encipherment"}


@pytest.mark.parametrize("named", [True, False])
def test_an_issuer_is_known_by_the_name_of_its_key_or_by_its_hash(named: bool) -> None:
    key = make_key()
    name = x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(hours=1))
    if named:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(b"a name"), critical=False)
    found = authority_identifier(builder.sign(key, hashes.SHA256())).key_identifier
    assert found == (b"a name" if named else x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest)

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from mesh.testing.ca import TestAuthority
from mesh.tls.csr import make_csr, make_key


def test_issued_credentials_chain_to_the_root() -> None:
    authority = TestAuthority(intermediate=True)
    credentials = authority.issue(authority.identity("default", "a"))
    leaf, intermediate = map(x509.load_pem_x509_certificate, credentials.certificate_chain)
    root = x509.load_pem_x509_certificate(authority.roots)
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    with pytest.raises((ValueError, InvalidSignature)):
        leaf.verify_directly_issued_by(root)


def test_a_request_is_answered_with_its_key_and_names() -> None:
    authority = TestAuthority()
    identity = authority.identity("default", "a")
    key = make_key()
    now = datetime(2030, 1, 1, tzinfo=UTC)
    leaf_pem, *rest = authority.sign_csr(make_csr(identity, key), lifetime=timedelta(hours=2), now=now)
    assert rest == [authority.roots]
    leaf = x509.load_pem_x509_certificate(leaf_pem)
    assert leaf.public_key() == key.public_key()
    assert leaf.not_valid_after_utc == now + timedelta(hours=2)


def test_authorities_do_not_vouch_for_each_other() -> None:
    one, two = TestAuthority(), TestAuthority()
    leaf = x509.load_pem_x509_certificate(one.issue(one.identity("a", "b")).certificate_chain[0])
    with pytest.raises((ValueError, InvalidSignature)):
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(two.roots))

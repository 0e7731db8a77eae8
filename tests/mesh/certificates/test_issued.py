from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.certificates.issued import accept_chain
from mesh.clock import wall_seconds
from mesh.errors import IdentityUnavailable
from mesh.testing.ca import TestAuthority
from mesh.tls.context import client_context
from mesh.tls.csr import make_csr, make_key

HOUR = timedelta(hours=1)
authority = TestAuthority()
A = authority.identity("default", "a")
KEY = make_key()


def answer(of: TestAuthority = authority, key: ec.EllipticCurvePrivateKey = KEY) -> list[str]:
    return [pem.decode() for pem in of.sign_csr(make_csr(A, key), lifetime=HOUR)]


@pytest.mark.parametrize("intermediate", [False, True])
def test_a_good_answer_becomes_usable_credentials(intermediate: bool) -> None:
    of = TestAuthority(intermediate=intermediate)
    credentials = accept_chain(A, KEY, answer(of), wall_seconds())
    assert credentials.identity == A
    assert credentials.roots.strip() == of.roots.strip()
    assert len(credentials.certificate_chain) == 1 + intermediate
    client_context(credentials)


def test_a_bundle_may_hold_several_roots() -> None:
    leaf, roots = answer()
    both = TestAuthority("other").roots.decode() + roots
    assert accept_chain(A, KEY, [leaf, both], wall_seconds()).roots.count(b"BEGIN") == 2


def test_another_key_is_refused() -> None:
    with pytest.raises(IdentityUnavailable, match="another key"):
        accept_chain(A, make_key(), answer(), wall_seconds())


def test_another_identity_is_refused() -> None:
    other = authority.identity("default", "b")
    chain = [pem.decode() for pem in authority.sign_csr(make_csr(A, KEY), lifetime=HOUR, identity=other)]
    with pytest.raises(IdentityUnavailable, match=r"for spiffe://cluster[.]local/ns/default/sa/b"):
        accept_chain(A, KEY, chain, wall_seconds())


def test_an_expired_certificate_is_refused() -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    chain = [pem.decode() for pem in authority.sign_csr(make_csr(A, KEY), lifetime=HOUR, now=past)]
    with pytest.raises(IdentityUnavailable, match="expired"):
        accept_chain(A, KEY, chain, wall_seconds())


def test_a_chain_to_another_root_is_refused() -> None:
    leaf, _ = answer()
    with pytest.raises(IdentityUnavailable, match="none of the roots"):
        accept_chain(A, KEY, [leaf, TestAuthority().roots.decode()], wall_seconds())


def test_a_broken_chain_is_refused() -> None:
    deep = TestAuthority(intermediate=True)
    leaf, _, roots = answer(deep)
    _, stranger, _ = answer(TestAuthority(intermediate=True))
    with pytest.raises(IdentityUnavailable, match="do not form a chain"):
        accept_chain(A, KEY, [leaf, stranger, roots], wall_seconds())


def test_a_leaf_is_no_root() -> None:
    leaf, _ = answer()
    with pytest.raises(IdentityUnavailable, match="none of the roots"):
        accept_chain(A, KEY, [leaf, leaf], wall_seconds())


@pytest.mark.parametrize("chain", [[], ["x"], ["x", "y"], ["", ""], ["x"] * 17, ["x" * 2_000_000, "y"]])
def test_malformed_answers_are_refused(chain: list[str]) -> None:
    with pytest.raises(IdentityUnavailable):
        accept_chain(A, KEY, chain, wall_seconds())

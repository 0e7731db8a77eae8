from __future__ import annotations

import weakref

import pytest

from mesh.errors import InvalidMessage
from mesh.testing.ca import TestAuthority
from mesh.tls.credentials import Credentials

authority = TestAuthority()
credentials = authority.issue(authority.identity("default", "a"))


def test_validity_and_serial_come_from_the_leaf() -> None:
    assert credentials.serial > 0
    assert credentials.not_before < credentials.not_after
    assert credentials.not_after.tzinfo is not None


def test_the_key_is_not_shown() -> None:
    assert "key" not in repr(credentials)


def test_two_certificates_of_one_identity_are_different_credentials() -> None:
    again = Credentials.assemble(
        credentials.identity, credentials.certificate_chain, credentials.key, credentials.roots
    )
    assert again != credentials
    assert len({again, credentials}) == 2
    assert weakref.ref(credentials)() is credentials


@pytest.mark.parametrize("chain", [(), (b"junk",)])
def test_a_chain_without_leaf_is_refused(chain: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidMessage):
        Credentials.assemble(credentials.identity, chain, credentials.key, authority.roots)

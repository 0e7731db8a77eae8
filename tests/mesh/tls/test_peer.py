from __future__ import annotations

import ssl

import pytest

from mesh.errors import InvalidIdentity, PeerIdentityMismatch, ResponseFlag, TlsFailure
from mesh.identity import SpiffeId
from mesh.testing.ca import TestAuthority
from mesh.tls.peer import peer_identity, peer_uri, verify_client_side, verify_server_side

authority = TestAuthority()
SERVER = authority.identity("default", "server")
OTHER = authority.identity("default", "other")


def der_of(*uris: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(authority.issue(SERVER, uris=uris).certificate_chain[0].decode())


def test_identity_is_the_one_uri() -> None:
    assert peer_identity(der_of(str(SERVER))) == SERVER


def test_a_certificate_is_parsed_once() -> None:
    der = der_of(str(SERVER))
    peer_identity(der)
    before = peer_identity.cache_info()
    assert peer_identity(bytes(bytearray(der))) == SERVER
    assert peer_identity.cache_info().hits == before.hits + 1


@pytest.mark.parametrize("uris", [(), (str(SERVER), str(OTHER)), (str(SERVER), str(SERVER))])
def test_not_exactly_one_uri_is_no_identity(uris: tuple[str, ...]) -> None:
    with pytest.raises(InvalidIdentity, match=f"{len(uris)} URI names"):
        peer_uri(der_of(*uris))


@pytest.mark.parametrize("uri", ["spiffe://cluster.local/ns/default", "https://cluster.local/ns/a/sa/b", "spiffe://x"])
def test_other_forms_are_no_identity(uri: str) -> None:
    with pytest.raises(InvalidIdentity):
        peer_identity(der_of(uri))


@pytest.mark.parametrize("der", [b"", b"junk", der_of(str(SERVER))[:-40]])
def test_unreadable_certificates_are_refused_on_both_sides(der: bytes) -> None:
    with pytest.raises(InvalidIdentity):
        peer_identity(der)
    with pytest.raises(PeerIdentityMismatch):
        verify_client_side(der, frozenset({SERVER}))
    with pytest.raises(TlsFailure):
        verify_server_side(der, "cluster.local")


def test_the_client_accepts_any_expected_identity() -> None:
    der = der_of(str(SERVER))
    assert verify_client_side(der, frozenset({OTHER, SERVER})) == SERVER
    assert verify_client_side(der, frozenset({str(SERVER)})) == str(SERVER)
    foreign = "spiffe://elsewhere.example/some/other/form"
    assert verify_client_side(der_of(foreign), frozenset({SERVER, foreign})) == foreign


@pytest.mark.parametrize("expected", [frozenset(), frozenset({OTHER}), frozenset({"spiffe://a/b"})])
def test_the_client_refuses_anybody_else(expected: frozenset[SpiffeId | str]) -> None:
    with pytest.raises(PeerIdentityMismatch, match="sa/server") as caught:
        verify_client_side(der_of(str(SERVER)), expected)
    assert caught.value.response_flag is ResponseFlag.TLS_FAILURE


def test_the_server_admits_its_whole_trust_domain_and_nobody_else() -> None:
    der = der_of(str(SERVER))
    assert verify_server_side(der, "cluster.local") == SERVER
    for domain in ("cluster.loca", "cluster.local.evil", "", "other.local"):
        with pytest.raises(TlsFailure, match="trust domain"):
            verify_server_side(der, domain)

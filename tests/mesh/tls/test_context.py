from __future__ import annotations

import os
import ssl
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import ConfigurationError
from mesh.testing.ca import TestAuthority
from mesh.tls.context import client_context, control_plane_context, control_plane_server_context, server_context
from tests.descriptors import open_descriptors, settled_descriptors

authority = TestAuthority()
credentials = authority.issue(authority.identity("default", "client"))


@pytest.mark.parametrize("make", [client_context, server_context])
def test_only_mutual_tls13(make: type) -> None:
    context = make(credentials)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert not context.check_hostname


def test_the_server_issues_no_tickets() -> None:
    assert server_context(credentials).num_tickets == 0


def test_keys_leave_no_descriptor_and_no_file_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = ssl.SSLContext.load_cert_chain

    def spy(self: ssl.SSLContext, path: str) -> None:
        seen.append(os.readlink(path))
        real(self, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    before = settled_descriptors()
    context = client_context(credentials)
    assert open_descriptors() == before
    assert len(seen) == 1
    assert seen[0].startswith("/memfd:")
    assert context.cert_store_stats()["x509_ca"] == 1


def test_a_key_of_another_certificate_is_refused() -> None:
    wrong = replace(credentials, key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ConfigurationError, match="not the certificate's"):
        client_context(wrong)


@pytest.mark.parametrize("roots", [b"", b"no certificate", b"\xff\xfe"])
def test_unreadable_roots_are_named(roots: bytes) -> None:
    with pytest.raises(ConfigurationError, match="root bundle"):
        server_context(replace(credentials, roots=roots))
    with pytest.raises(ConfigurationError, match="root bundle"):
        control_plane_context(roots)


def test_all_roots_of_a_bundle_are_trusted() -> None:
    both = authority.roots + TestAuthority("other.local").roots
    assert client_context(replace(credentials, roots=both)).cert_store_stats()["x509_ca"] == 2


def test_the_control_plane_is_known_by_name_and_asks_for_no_certificate() -> None:
    client = control_plane_context(authority.roots)
    assert client.check_hostname
    assert client.verify_mode == ssl.CERT_REQUIRED
    server = authority.issue_server("operator.test")
    assert control_plane_server_context(server.certificate_chain, server.key).verify_mode == ssl.CERT_NONE

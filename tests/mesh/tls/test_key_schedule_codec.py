"""Vectors of RFC 8448 section 3 ("Simple 1-RTT Handshake"), and OpenSSL itself for what it has none of."""

from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.errors import InternalError
from mesh.testing.ca import TestAuthority
from mesh.tls.context import client_context, server_context
from mesh.tls.key_log_driver import KeyLog
from mesh.tls.key_schedule_codec import IV_SIZE, SUITES, RecordKeys, Suite, read_traffic_secrets, record_keys
from mesh.tls.suites import ALLOWED_SUITES

AES_128 = SUITES["TLS_AES_128_GCM_SHA256"]
CLIENT_SECRET = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
SERVER_SECRET = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
CLIENT_RECORD = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2"
    "977014bd1e3deae63aeebb21694915e4"
)
RANDOM = b"ab" * 32


def opened(keys: RecordKeys, record: bytes, number: int = 0) -> bytes:
    """A record's content with its kind behind it."""
    nonce = (int.from_bytes(keys.iv, "big") ^ number).to_bytes(IV_SIZE, "big")
    return AESGCM(keys.key).decrypt(nonce, record[5:], record[:5])


def test_the_suites_are_those_that_the_mesh_speaks() -> None:
    assert set(SUITES) == ALLOWED_SUITES


def test_the_clients_keys() -> None:
    keys = record_keys(AES_128, CLIENT_SECRET)
    assert keys.key.hex() == "17422dda596ed5d9acd890e3c63f5051"
    assert keys.iv.hex() == "5b78923dee08579033e523d9"


def test_the_servers_keys() -> None:
    keys = record_keys(AES_128, SERVER_SECRET)
    assert keys.key.hex() == "9f02283b6c9c07efc26bb9f2ac92e356"
    assert keys.iv.hex() == "cf782b88dd83549aadf1e984"


def test_the_first_record_of_application_data_opens() -> None:
    assert opened(record_keys(AES_128, CLIENT_SECRET), CLIENT_RECORD) == bytes(range(50)) + b"\x17"


def told_by_openssl(suite: Suite) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.SSLObject, ssl.MemoryBIO, bytes]:
    """A handshake in memory with this suite: both ends, their outputs, and what the client's log was told."""
    authority = TestAuthority()
    key_log = KeyLog()
    client_side = client_context(authority.issue(authority.identity("demo", "client")))
    server_side = server_context(authority.issue(authority.identity("demo", "server")))
    key_log.attach(client_side)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    key_log.take()
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
    told = key_log.take()
    key_log.close()
    cipher = client.cipher()
    assert cipher is not None
    assert cipher[0] == suite.name
    return client, to_server, server, to_client, told


def test_records_of_openssl_open_with_the_keys_that_follow_from_its_log() -> None:
    suite = SUITES["TLS_AES_256_GCM_SHA384"]  # what OpenSSL prefers, and RFC 8448 has no vector of
    client, to_server, server, to_client, told = told_by_openssl(suite)
    secrets = read_traffic_secrets(suite, told)
    for end, output, secret in ((client, to_server, secrets.client), (server, to_client, secrets.server)):
        assert output.pending == 0  # nothing was sent before: the next record has the number 0
        end.write(b"first")
        assert opened(record_keys(suite, secret), output.read()) == b"first\x17"
        end.write(b"second")
        assert opened(record_keys(suite, secret), output.read(), 1) == b"second\x17"


def line(label: bytes, random: bytes = RANDOM, size: int = 32) -> bytes:
    return label + b" " + random + b" " + b"cd" * size + b"\n"


CLIENT_LINE, SERVER_LINE = line(b"CLIENT_TRAFFIC_SECRET_0"), line(b"SERVER_TRAFFIC_SECRET_0", size=32)


def test_lines_of_other_secrets_and_comments_are_passed_over() -> None:
    other = b"# a comment\n\n" + line(b"EXPORTER_SECRET") + line(b"CLIENT_HANDSHAKE_TRAFFIC_SECRET")
    secrets = read_traffic_secrets(AES_128, other + SERVER_LINE + CLIENT_LINE)
    assert secrets.client == secrets.server == b"\xcd" * 32


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (b"", "lacks"),
        (CLIENT_LINE, "lacks"),
        (CLIENT_LINE + CLIENT_LINE + SERVER_LINE, "twice"),
        (CLIENT_LINE + line(b"SERVER_TRAFFIC_SECRET_0", b"ef" * 32), "another handshake"),
        (CLIENT_LINE + SERVER_LINE + line(b"EXPORTER_SECRET", b"ef" * 32), "another handshake"),
        (CLIENT_LINE + line(b"SERVER_TRAFFIC_SECRET_0", size=48), "size"),
        (CLIENT_LINE + b"SERVER_TRAFFIC_SECRET_0 " + RANDOM + b" xyz\n", "size"),
        (CLIENT_LINE + b"SERVER_TRAFFIC_SECRET_0 " + RANDOM, "format"),
    ],
)
def test_what_is_not_as_expected_is_an_error_that_shows_no_secret(lines: bytes, words: str) -> None:
    with pytest.raises(InternalError, match=words) as caught:
        read_traffic_secrets(AES_128, lines)
    assert "cd" * 4 not in str(caught.value)

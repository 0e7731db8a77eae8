"""From the traffic secrets of a TLS 1.3 handshake to the keys of its records (RFC 8446 sections 7.1 and 7.3).

OpenSSL tells the secrets in lines of the key log format (``SSLKEYLOGFILE``): a label, the client's random, the secret.
What is here turns such lines into the two secrets that protect application data, and those into key and IV.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from mesh.errors import InternalError

IV_SIZE: Final = 12
"""Bytes; what both suites use for every nonce (RFC 8446 section 5.3)."""
_LABELS: Final = (b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0")


class Suite(NamedTuple):
    """A cipher suite, as far as keys go."""

    name: str
    """As OpenSSL calls it."""
    key_size: int
    """Bytes."""
    digest: hashes.HashAlgorithm


SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite("TLS_AES_128_GCM_SHA256", 16, hashes.SHA256()),
        Suite("TLS_AES_256_GCM_SHA384", 32, hashes.SHA384()),
    )
}
"""What the mesh speaks (``mesh.tls.suites``), by name."""


class TrafficSecrets(NamedTuple):
    """What protects the application data of a connection, from the end of the handshake to the first key update."""

    client: bytes
    """Of what the client sends."""
    server: bytes
    """Of what the server sends."""


class RecordKeys(NamedTuple):
    """What protects the records of one direction."""

    key: bytes
    iv: bytes
    """:data:`IV_SIZE` bytes; a record's number is added to it, bit by bit, for its nonce."""


def expand_label(suite: Suite, secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with an empty context."""
    full = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
    return HKDFExpand(suite.digest, size, info).derive(secret)


def record_keys(suite: Suite, secret: bytes) -> RecordKeys:
    """Key and IV of the direction that a traffic secret is of."""
    return RecordKeys(
        expand_label(suite, secret, b"key", suite.key_size), expand_label(suite, secret, b"iv", IV_SIZE)
    )


def read_traffic_secrets(suite: Suite, lines: bytes | bytearray) -> TrafficSecrets:
    """Find the two secrets in what OpenSSL told during one handshake.

    Raises:
        InternalError: one is missing, told twice, of another size than the suite's, or the lines are of more than one
            handshake. No message shows any part of a line.
    """
    secrets: dict[bytes, bytes] = {}
    randoms: set[bytes] = set()
    for line in bytes(lines).splitlines():
        label, *rest = line.split(b" ")
        if label == b"#" or label == b"":
            continue
        if len(rest) != 2:
            raise InternalError("OpenSSL's key log has a line that is not of its format")
        randoms.add(rest[0])
        if label in _LABELS:
            if label in secrets:
                raise InternalError(f"OpenSSL's key log tells {label.decode()} twice for one handshake")
            secrets[label] = _secret(suite, rest[1])
    if len(randoms) > 1:
        raise InternalError("OpenSSL's key log holds lines of another handshake")
    if len(secrets) != len(_LABELS):
        raise InternalError("OpenSSL's key log lacks a traffic secret: was the context made without the log?")
    return TrafficSecrets(*(secrets[label] for label in _LABELS))


def _secret(suite: Suite, text: bytes) -> bytes:
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != suite.digest.digest_size:
        raise InternalError("OpenSSL's key log has a secret that is not of the suite's size")
    return secret

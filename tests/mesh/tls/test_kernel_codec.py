from __future__ import annotations

import ctypes
import errno
import os

import pytest

from mesh.errors import TlsFailure
from mesh.tls.kernel_codec import (
    ALERT,
    APPLICATION_DATA,
    CLOSE_NOTIFY,
    GET_RECORD_TYPE,
    HANDSHAKE,
    SOL_TLS,
    Control,
    crypto_info,
    judge_control,
    record_type,
    translate_socket_error,
)
from mesh.tls.key_schedule_codec import RecordKeys

IV = bytes(range(100, 112))


def layout(key_size: int) -> type[ctypes.Structure]:
    """``struct tls12_crypto_info_aes_gcm_*`` as the C compiler lays it out (``linux/tls.h``)."""

    class CryptoInfo(ctypes.Structure):
        _fields_ = (
            ("version", ctypes.c_uint16),
            ("cipher_type", ctypes.c_uint16),
            ("iv", ctypes.c_ubyte * 8),
            ("key", ctypes.c_ubyte * key_size),
            ("salt", ctypes.c_ubyte * 4),
            ("rec_seq", ctypes.c_ubyte * 8),
        )

    return CryptoInfo


@pytest.mark.parametrize(("key_size", "cipher_type", "size"), [(16, 51, 40), (32, 52, 56)])
def test_the_structures_the_kernel_is_given(key_size: int, cipher_type: int, size: int) -> None:
    key = os.urandom(key_size)
    structure = layout(key_size)
    assert ctypes.sizeof(structure) == size
    info = structure.from_buffer_copy(crypto_info(RecordKeys(key, IV), 258))
    assert (info.version, info.cipher_type) == (0x0304, cipher_type)
    assert bytes(info.key) == key
    assert bytes(info.salt) + bytes(info.iv) == IV
    assert bytes(info.rec_seq) == b"\0\0\0\0\0\0\1\2"


def test_the_first_record_is_number_zero() -> None:
    assert crypto_info(RecordKeys(bytes(16), IV)).endswith(bytes(8))


def test_the_kind_beside_a_record() -> None:
    assert record_type([(1, 2, b"\0"), (SOL_TLS, GET_RECORD_TYPE, b"\x15")]) == ALERT
    with pytest.raises(TlsFailure):
        record_type([])


def message(kind: int, size: int = 5) -> bytes:
    return bytes([kind]) + size.to_bytes(3, "big") + bytes(size)


TICKET, KEY_UPDATE = message(4, 200), message(24, 1)


def test_a_peer_that_says_good_bye() -> None:
    for server_side in (True, False):
        assert judge_control(ALERT, CLOSE_NOTIFY, server_side=server_side) is Control.CLOSE


def test_tickets_of_a_server_are_ignored() -> None:
    assert judge_control(HANDSHAKE, TICKET, server_side=False) is Control.IGNORE
    assert judge_control(HANDSHAKE, TICKET + TICKET, server_side=False) is Control.IGNORE


@pytest.mark.parametrize("content", [KEY_UPDATE, TICKET + KEY_UPDATE])
def test_new_keys_end_the_tunnel_and_the_error_says_what_to_do(content: bytes) -> None:
    with pytest.raises(TlsFailure, match="kernel_tls: never"):
        judge_control(HANDSHAKE, content, server_side=False)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (48, "does not trust our certificate's root"),
        (45, "expired"),
        (20, "altered"),
        (116, "client certificate"),
        (99, "alert 99"),
    ],
)
def test_alerts_end_the_tunnel_in_the_words_of_openssls_errors(description: int, words: str) -> None:
    with pytest.raises(TlsFailure, match=words):
        judge_control(ALERT, bytes([2, description]), server_side=False)


@pytest.mark.parametrize(
    ("kind", "content", "server_side"),
    [
        (ALERT, b"\x01", False),
        (ALERT, b"", False),
        (HANDSHAKE, TICKET, True),  # clients give no tickets
        (HANDSHAKE, TICKET[:-1], False),
        (HANDSHAKE, b"\x04\0", False),
        (HANDSHAKE, message(1), False),  # a second ClientHello
        (HANDSHAKE, message(13), False),  # post-handshake authentication, which nobody has offered
        (20, b"\1", False),
        (APPLICATION_DATA, b"x", False),
        (24, b"\1", False),  # a heartbeat
    ],
)
def test_what_must_not_be_said_is_refused(kind: int, content: bytes, server_side: bool) -> None:
    with pytest.raises(TlsFailure):
        judge_control(kind, content, server_side=server_side)


@pytest.mark.parametrize("number", [errno.EBADMSG, errno.EMSGSIZE, errno.EINVAL])
def test_what_the_kernel_finds_wrong_with_records(number: int) -> None:
    assert "altered" in str(translate_socket_error(OSError(number, "")))


def test_other_errors_are_not_of_tls() -> None:
    assert translate_socket_error(OSError(errno.ECONNRESET, "")) is None

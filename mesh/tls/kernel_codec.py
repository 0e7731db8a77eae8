"""What is said to the kernel's TLS, and what it says (``linux/tls.h``; RFC 8446 sections 4.6 and 6).

The kernel protects and opens records of application data. Records of any other kind it opens as well, and hands them up
one by one with their kind beside them: what they mean is decided here.
"""

from __future__ import annotations

import enum
import errno
import struct
from typing import Final

from mesh.errors import TlsFailure
from mesh.tls.alert_codec import translate_alert
from mesh.tls.key_schedule_codec import RecordKeys

TCP_ULP: Final = 31
"""``setsockopt`` of IPPROTO_TCP: put a protocol on top; its name is the value."""
ULP_NAME: Final = b"tls"
SOL_TLS: Final = 282
TLS_TX: Final = 1
TLS_RX: Final = 2
SET_RECORD_TYPE: Final = 1
"""Ancillary data of ``sendmsg``."""
GET_RECORD_TYPE: Final = 2
"""Ancillary data of ``recvmsg``."""

_TLS13: Final = 0x0304
_CIPHER_TYPES: Final = {16: 51, 32: 52}
"""TLS_CIPHER_AES_GCM_128 and _256, by the size of the key."""
_SALT_SIZE: Final = 4

ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23

CLOSE_NOTIFY: Final = b"\x01\x00"
"""An alert: this side says no more."""
BAD_RECORD: Final = b"\x02\x14"
"""A fatal alert: a record was not what its tag says."""

_NEW_SESSION_TICKET: Final = 4
_KEY_UPDATE: Final = 24


class Control(enum.Enum):
    """What a record that is no application data asks for."""

    IGNORE = "ignore"
    """Something that this mesh has no use for."""
    CLOSE = "close"
    """The peer has said all it had to say."""


def crypto_info(keys: RecordKeys, sequence: int = 0) -> bytes:
    """``struct tls12_crypto_info_aes_gcm_128`` or ``_256``, for TLS 1.3.

    Args:
        keys: of the direction.
        sequence: the number of the next record.
    """
    head = struct.pack("=HH", _TLS13, _CIPHER_TYPES[len(keys.key)])
    # The kernel's idea of the IV is that of TLS 1.2: four bytes of "salt", the rest apart.
    return head + keys.iv[_SALT_SIZE:] + keys.key + keys.iv[:_SALT_SIZE] + sequence.to_bytes(8, "big")


def record_type(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kind of the record that ``recvmsg`` came with.

    Raises:
        TlsFailure: it does not say.
    """
    for level, kind, value in ancillary:
        if level == SOL_TLS and kind == GET_RECORD_TYPE and value:
            return value[0]
    raise TlsFailure("the kernel's TLS handed up a record without its kind")


def judge_control(kind: int, content: bytes, *, server_side: bool) -> Control:
    """What to do about a record that is no application data.

    Args:
        kind: the record's.
        content: what it holds, opened.
        server_side: which side we are.

    Raises:
        TlsFailure: the peer refuses us, says what it must not say, or wants new keys, which the kernel cannot take.
    """
    if kind == ALERT:
        if len(content) != 2:
            raise TlsFailure(f"the peer sent a TLS alert of {len(content)} bytes")
        if content == CLOSE_NOTIFY:
            return Control.CLOSE
        raise translate_alert(content[1], server_side=server_side)
    if kind != HANDSHAKE:
        raise TlsFailure(f"the peer sent a TLS record of the kind {kind} after the handshake")
    while content:
        size = 4 + int.from_bytes(content[1:4], "big")
        message = content[0]
        if message == _KEY_UPDATE:
            raise TlsFailure(
                "the peer changes its TLS keys, which the kernel's TLS here cannot follow: connections get another "
                "tunnel; with kernel_tls: never in the configuration such peers keep theirs"
            )
        if message != _NEW_SESSION_TICKET or server_side or len(content) < size:
            raise TlsFailure(f"the peer sent TLS handshake message {message} after the handshake")
        content = content[size:]
    return Control.IGNORE


def translate_socket_error(error: OSError) -> TlsFailure | None:
    """What ``recv`` or ``send`` on a socket with TLS in the kernel failed with, where that is TLS's doing."""
    if error.errno == errno.EBADMSG:
        return TlsFailure("the tunnel's TLS failed (bad record mac): bytes were altered on the way")
    if error.errno in (errno.EINVAL, errno.EMSGSIZE):
        return TlsFailure("the tunnel's TLS failed (no TLS 1.3 record): bytes were altered, or put in, on the way")
    return None

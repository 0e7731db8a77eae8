"""Values that several messages share, read with bounds and with errors that name the field.

An unknown value of a descriptive enum reads as the enum's zero, as protocol buffers' own default would: a newer control
plane must not make an older reader lose a workload. Where a wrong guess could admit traffic (``authorization_codec``)
an unknown value is an error instead.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from mesh.addresses import IpBytes, ip_from_packed
from mesh.errors import InvalidAddress, InvalidMessage

MAX_RESOURCE_BYTES = 4 * 1024 * 1024
"""Of one resource. The Kubernetes object it comes from is at most 1.5 MiB."""

MAX_ITEMS = 16384
"""Of one repeated field: an empty submessage costs two bytes on the wire and far more as an object."""

EnumT = TypeVar("EnumT", bound=enum.IntEnum)
MessageT = TypeVar("MessageT", bound=Message)
ItemsT = TypeVar("ItemsT", bound=Collection[object])


def parse(kind: type[MessageT], payload: bytes) -> MessageT:
    """Decode one message.

    Raises:
        InvalidMessage: too large, or not of this form (text that is not UTF-8 included).
    """
    if len(payload) > MAX_RESOURCE_BYTES:
        raise InvalidMessage(f"{kind.__name__}: {len(payload)} bytes, more than the {MAX_RESOURCE_BYTES} allowed")
    message = kind()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise InvalidMessage(f"{kind.__name__}: not a protocol buffer of this type: {error}") from error
    return message


def bounded(items: ItemsT, field: str) -> ItemsT:
    """The same items.

    Raises:
        InvalidMessage: there are more than ``MAX_ITEMS``.
    """
    if len(items) > MAX_ITEMS:
        raise InvalidMessage(f"{field}: {len(items)} items, more than the {MAX_ITEMS} allowed")
    return items


def known(kind: type[EnumT], value: int) -> EnumT:
    """The enum's member, or its zero for a number of a newer protocol."""
    try:
        return kind(value)
    except ValueError:
        return kind(0)


def known_only(kind: type[EnumT], values: Sequence[int]) -> tuple[EnumT, ...]:
    """The members among the numbers; those of a newer protocol are left out."""
    members = kind._value2member_map_
    return tuple(kind(value) for value in values if value in members)


def number(member: enum.IntEnum) -> Any:
    """The member's number; ``Any``, because the generated stubs give each enum a type that nobody can construct."""
    return int(member)


def required(text: str, field: str) -> str:
    """The same text.

    Raises:
        InvalidMessage: it is empty.
    """
    if not text:
        raise InvalidMessage(f"{field}: empty, but everything refers to this resource by it")
    return text


def port(value: int, field: str) -> int:
    """The same number.

    Raises:
        InvalidMessage: it is more than 65535.
    """
    if value > 65535:
        raise InvalidMessage(f"{field}: {value} is not a port")
    return value


def ip(packed: bytes, field: str) -> IpBytes:
    """An address in the 16-byte form.

    Raises:
        InvalidMessage: neither 4 nor 16 bytes.
    """
    try:
        return ip_from_packed(packed)
    except InvalidAddress as error:
        raise InvalidMessage(f"{field}: {error}") from error


def prefix_length(packed: bytes, length: int, field: str) -> int:
    """A network's length in bits of the 16-byte form.

    Raises:
        InvalidMessage: longer than the address.
    """
    if length > len(packed) * 8:
        raise InvalidMessage(f"{field}: length {length} is more than the {len(packed) * 8} bits of its address")
    return length + 96 if len(packed) == 4 else length


def packed_prefix(address: IpBytes, length: int) -> tuple[bytes, int]:
    """The wire's form of a network: IPv4 as 4 bytes if the whole network is IPv4."""
    if length >= 96 and address.startswith(_MAPPED):
        return address[12:], length - 96
    return bytes(address), length


_MAPPED = bytes(10) + b"\xff\xff"

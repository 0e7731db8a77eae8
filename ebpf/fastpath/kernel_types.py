"""The running kernel's type information (BTF): where a field stands in a struct.

The splice program reads a few fields of the other end's socket, whose offsets differ from kernel to kernel. They are
looked up in ``/sys/kernel/btf/vmlinux`` when the programs are compiled, which is on the machine that runs them. The
format is the kernel's documented one: a header, a list of type records of varying length, and a table of names.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import EnvironmentLacks

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_MEMBER = struct.Struct("=III")

_STRUCT, _UNION, _ENUM, _FUNC_PROTO, _DATASEC, _ENUM64 = 4, 5, 6, 13, 15, 19
# Bytes that follow a record, by kind; of those in the second table, so many per element.
_TRAILER = {1: 4, 3: 12, 14: 4, 17: 4}
_PER_ELEMENT = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}


@dataclass(frozen=True, slots=True)
class _Record:
    kind: int
    length: int
    """Elements."""
    type_or_size: int
    flag: bool
    trailer: int
    """Where in the text the elements begin."""


class KernelTypes:
    """Type information, indexed once.

    Args:
        data: the content of a BTF file.

    Raises:
        EnvironmentLacks: it is none, or of a form that is not known.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        try:
            magic, _, _, header, type_start, type_length, text_start, text_length = _HEADER.unpack_from(data)
            if magic != _MAGIC:
                raise EnvironmentLacks("the kernel's type information is not in this machine's byte order, or no BTF")
            self._text = data[header + text_start : header + text_start + text_length]
            self._records: list[_Record | None] = [None]
            self._by_name: dict[tuple[int, int], int] = {}
            self._index(header + type_start, header + type_start + type_length)
        except struct.error as error:
            raise EnvironmentLacks(f"the kernel's type information is cut short: {error}") from error

    def _index(self, offset: int, end: int) -> None:
        while offset < end:
            name, info, size = _TYPE.unpack_from(self._data, offset)
            kind, length = info >> 24 & 0x1F, info & 0xFFFF
            offset += _TYPE.size
            if kind in (_STRUCT, _UNION, _ENUM):
                self._by_name.setdefault((kind, name), len(self._records))
            self._records.append(_Record(kind, length, size, bool(info >> 31), offset))
            offset += _TRAILER.get(kind, 0) + _PER_ELEMENT.get(kind, 0) * length

    def offset(self, struct_name: str, path: str) -> int:
        """Bytes from the start of a struct to a field.

        Args:
            struct_name: as in C, without ``struct``.
            path: field names joined by dots; members of anonymous structs and unions are found by their own names.

        Raises:
            EnvironmentLacks: there is no such struct or field, or it is a bit field.
        """
        number = self._find(_STRUCT, struct_name)
        bits = 0
        for name in path.split("."):
            found = self._member(number, self._name_offset(name))
            if found is None:
                raise EnvironmentLacks(f"this kernel's struct {struct_name} has no field {path}")
            number, add = found
            bits += add
        if bits % 8:
            raise EnvironmentLacks(f"field {path} of this kernel's struct {struct_name} is a bit field")
        return bits // 8

    def constant(self, enum_name: str, constant: str) -> int:
        """The value of an enum's constant.

        Raises:
            EnvironmentLacks: there is none.
        """
        record = self._record(self._find(_ENUM, enum_name))
        wanted = self._name_offset(constant)
        for number in range(record.length):
            name, value = struct.unpack_from("=Ii", self._data, record.trailer + 8 * number)
            if name == wanted:
                return int(value)
        raise EnvironmentLacks(f"this kernel's enum {enum_name} has no constant {constant}")

    def _find(self, kind: int, name: str) -> int:
        try:
            return self._by_name[kind, self._name_offset(name)]
        except KeyError as error:
            raise EnvironmentLacks(f"this kernel's type information has no {name}") from error

    def _name_offset(self, name: str) -> int:
        """Names are stored once, so an equal offset is an equal name."""
        found = self._text.find(b"\0" + name.encode() + b"\0")
        return found + 1 if found >= 0 else -1

    def _record(self, number: int) -> _Record:
        record = self._records[number]
        if record is None:
            raise EnvironmentLacks("the kernel's type information refers to void where a struct was expected")
        return record

    def _resolve(self, number: int) -> int:
        """Through typedefs and qualifiers."""
        while number and self._record(number).kind in (8, 9, 10, 11, 18):
            number = self._record(number).type_or_size
        return number

    def _member(self, number: int, wanted: int) -> tuple[int, int] | None:
        """Type and offset in bits of a member."""
        number = self._resolve(number)
        if not number:
            return None
        record = self._record(number)
        if record.kind not in (_STRUCT, _UNION):
            return None
        for index in range(record.length):
            name, kind, offset = _MEMBER.unpack_from(self._data, record.trailer + _MEMBER.size * index)
            if record.flag:
                offset &= 0xFFFFFF  # the rest is the width of a bit field
            if name == wanted:
                return kind, offset
            if name == 0:
                inner = self._member(kind, wanted)
                if inner is not None:
                    return inner[0], offset + inner[1]
        return None


_FIELDS = {
    "OFFSET_COOKIE": ("sock_common", "skc_cookie"),
    "OFFSET_RMEM_ALLOC": ("sock", "sk_backlog.rmem_alloc"),
    "OFFSET_RCVLOWAT": ("sock", "sk_rcvlowat"),
    "OFFSET_OWNED": ("sock", "sk_lock.owned"),
    "OFFSET_FLAGS": ("sock_common", "skc_flags"),
    "OFFSET_NET": ("sock_common", "skc_net.net"),
    "OFFSET_NET_COOKIE": ("net", "net_cookie"),
    "OFFSET_SOCKET": ("sock", "sk_socket"),
    "OFFSET_SOCKET_FILE": ("socket", "file"),
    "OFFSET_FILE_FLAGS": ("file", "f_flags"),
    "OFFSET_WRITE_SEQ": ("tcp_sock", "write_seq"),
    "OFFSET_COPIED_SEQ": ("tcp_sock", "copied_seq"),
    "OFFSET_SND_UNA": ("tcp_sock", "snd_una"),
    "OFFSET_BYTES_ACKED": ("tcp_sock", "bytes_acked"),
    "OFFSET_BYTES_RECEIVED": ("tcp_sock", "bytes_received"),
    "OFFSET_RCV_NXT": ("tcp_sock", "rcv_nxt"),
    "OFFSET_DATA_SEGS_OUT": ("tcp_sock", "data_segs_out"),
}
_SETS = {
    "OFFSET_FILE_SETS": ("file", "f_ep"),
    "OFFSET_ITEM_LINK": ("epitem", "fllink"),
    "OFFSET_ITEM_EVENTS": ("epitem", "event.events"),
}
"""In which epoll sets a file is. Kernels before 5.11 keep it in another way; without, nothing is spliced."""


def offset_macros(source: Path = VMLINUX) -> list[str]:
    """The compiler's arguments that tell programs of this kernel's fields (a third of a second).

    Those of epoll sets may be missing; the self-test then says that the splice is not to be used.

    Raises:
        EnvironmentLacks: no type information, or a field is not there.
    """
    try:
        types = KernelTypes(source.read_bytes())
    except OSError as error:
        raise EnvironmentLacks(f"no type information at {source}: use a kernel with CONFIG_DEBUG_INFO_BTF") from error
    macros = [f"-D{macro}={types.offset(*field)}" for macro, field in _FIELDS.items()]
    with suppress(EnvironmentLacks):
        macros += [f"-D{macro}={types.offset(*field)}" for macro, field in _SETS.items()]
    macros.append(f"-DFLAG_ZEROCOPY={types.constant('sock_flags', 'SOCK_ZEROCOPY')}")
    return macros

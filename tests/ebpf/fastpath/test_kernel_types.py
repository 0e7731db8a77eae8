"""Offsets out of type information, from bytes made here and from the running kernel."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.fastpath.kernel_types import KernelTypes, offset_macros
from mesh.errors import EnvironmentLacks

TEXT = b"\0int\0sock\0sk_a\0sk_b\0flag\0kinds\0ONE\0TWO\0"
INT, STRUCT, UNION, ENUM, CONST = 1, 4, 5, 6, 10


def at(name: str) -> int:
    return TEXT.index(b"\0" + name.encode() + b"\0") + 1


def record(name: int, kind: int, count: int, size: int, rest: bytes = b"", flag: bool = False) -> bytes:
    return struct.pack("=III", name, flag << 31 | kind << 24 | count, size) + rest


TYPES = b"".join(
    [
        record(at("int"), INT, 0, 4, bytes(4)),  # 1
        record(0, UNION, 1, 4, struct.pack("=III", at("sk_b"), 1, 0)),  # 2
        record(0, CONST, 0, 2),  # 3
        record(
            at("sock"),
            STRUCT,
            3,
            16,
            struct.pack("=IIIIIIIII", at("sk_a"), 1, 32, 0, 3, 64, at("flag"), 1, 1 << 24 | 97),
            flag=True,
        ),  # 4
        record(at("kinds"), ENUM, 2, 4, struct.pack("=IiIi", at("ONE"), 1, at("TWO"), 2)),  # 5
    ]
)
HEADER = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(TYPES), len(TYPES), len(TEXT))
WHOLE = HEADER + TYPES + TEXT


def test_fields_also_of_anonymous_unions_are_found() -> None:
    types = KernelTypes(WHOLE)
    assert types.offset("sock", "sk_a") == 4
    assert types.offset("sock", "sk_b") == 8
    assert types.constant("kinds", "TWO") == 2


@pytest.mark.parametrize(("name", "path"), [("sock", "sk_c"), ("socket", "sk_a"), ("sock", "flag"), ("sock", "sk_a.x")])
def test_what_is_not_there_is_said(name: str, path: str) -> None:
    with pytest.raises(EnvironmentLacks, match=r"this kernel's"):
        KernelTypes(WHOLE).offset(name, path)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_type_information(data: bytes) -> None:
    with pytest.raises(EnvironmentLacks):
        KernelTypes(data).offset("sock", "sk_a")


def test_the_running_kernel_has_what_the_programs_need() -> None:
    macros = dict(macro.removeprefix("-D").split("=") for macro in offset_macros())
    assert all(int(value) > 0 for value in macros.values())


def test_a_kernel_without_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks, match="CONFIG_DEBUG_INFO_BTF"):
        offset_macros(tmp_path / "vmlinux")

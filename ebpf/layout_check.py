"""Does the mirror of ``programs/abi.h`` agree with the header?

``check`` compares ``ebpf.layout`` with bcc's description of what the compiler made of the header; the loader calls it
before it attaches anything, so that a drift is an error and never a misread map.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from ebpf.layout import MAPS, CData
from mesh.errors import InternalError

_SIZES = {
    "char": 1,
    "unsigned char": 1,
    "short": 2,
    "unsigned short": 2,
    "int": 4,
    "unsigned int": 4,
    "long": 8,
    "unsigned long": 8,
    "long long": 8,
    "unsigned long long": 8,
}

Field = tuple[str, int, int]
"""Dotted name, offset, size in bytes."""


def mirrored_fields(kind: CData, prefix: str = "", base: int = 0) -> Iterator[Field]:
    """The plain fields of a mirrored type, nested structs resolved."""
    if not issubclass(kind, ctypes.Structure):
        yield prefix, base, ctypes.sizeof(kind)
        return
    for field in kind._fields_:
        name, field_type = field[0], field[1]
        offset = base + int(getattr(kind, name).offset)
        dotted = f"{prefix}.{name}" if prefix else name
        if issubclass(field_type, ctypes.Structure):
            yield from mirrored_fields(field_type, dotted, offset)
        else:
            yield dotted, offset, ctypes.sizeof(field_type)


def described_fields(description: object, prefix: str = "", base: int = 0) -> list[Field]:
    """The plain fields of a type as bcc describes it after compiling.

    The description is JSON: ``"unsigned int"``, or ``[name, fields, kind]`` for a struct. The ABI has no implicit
    padding, so a field begins where the one before it ends; bcc marks such a struct ``struct_packed`` and anything else
    is drift.

    Raises:
        InternalError: padding, a union, a bit field, or a type that the ABI does not use.
    """
    if isinstance(description, str):
        return [(prefix, base, _size(description))]
    if not isinstance(description, list) or len(description) != 3 or description[2] != "struct_packed":
        raise InternalError(f"abi.h: {prefix or 'a map type'} is not a struct without padding: {description!r}")
    fields: list[Field] = []
    offset = base
    for entry in description[1]:
        name, field_type = entry[0], entry[1]
        dotted = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(field_type, str):
            length = int(entry[2][0]) if len(entry) > 2 else 1
            fields.append((dotted, offset, _size(field_type) * length))
        else:
            fields.extend(described_fields(field_type, dotted, offset))
        offset = fields[-1][1] + fields[-1][2]
    return fields


def check(map_name: str, part: str, description: object) -> None:
    """Compare one map's key or value with its mirror.

    Args:
        map_name: a name of ``MAPS``.
        part: ``key`` or ``value``.
        description: bcc's, decoded from JSON.

    Raises:
        InternalError: they differ; the message names the first difference.
    """
    layout = MAPS[map_name]
    ours = list(mirrored_fields(layout.key if part == "key" else layout.value))
    compiled = described_fields(description)
    if ours != compiled:
        pairs = [(one, other) for one, other in zip(ours, compiled, strict=False) if one != other]
        detail = f"{pairs[0][0]} here, {pairs[0][1]} compiled" if pairs else f"{len(ours)} and {len(compiled)} fields"
        raise InternalError(
            f"ebpf/layout.py has drifted from programs/abi.h: {part} of map {map_name}: {detail} (name, offset, size)"
        )


def _size(name: str) -> int:
    try:
        return _SIZES[name]
    except KeyError as error:
        raise InternalError(f"abi.h: type {name!r} is not one that ebpf/layout.py knows") from error

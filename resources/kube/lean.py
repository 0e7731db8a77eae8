"""Structures of fewer fields and the same face, for objects of which a cluster has tens of thousands. Pure.

A structure has room for every field the API knows, since a manifest may say any: forty words for a pod's ``spec``, of
which the mesh looks at four. A lean one has room for these and answers for the others what an object says that leaves
them out, by attributes of its class. Whoever reads it cannot tell; it is written without them.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar, cast

import msgspec

from resources.base import Fields

_Structure = TypeVar("_Structure", bound=Fields)


def lean(value: _Structure, *kept: str, **changed: Any) -> _Structure:
    """The value with these fields only; the others say what they say when left out.

    Args:
        value: the whole.
        kept: names of fields that are taken over.
        changed: further fields that are kept, with what they are to be.
    """
    made = _face(type(value), (*kept, *changed))
    return cast(_Structure, made(**{name: getattr(value, name) for name in kept}, **changed))


@cache
def _face(structure: type[Fields], kept: tuple[str, ...]) -> type:
    fields: list[Any] = []
    namespace: dict[str, Any] = {
        name: member for name, member in vars(structure).items() if isinstance(member, property)
    }
    for one in msgspec.structs.fields(structure):
        if one.name in kept:
            fields.append((one.name, Any, _default_of(one)))
        elif one.default_factory is not msgspec.NODEFAULT:
            made = one.default_factory()
            namespace[one.name] = MappingProxyType(made) if isinstance(made, dict) else made
        elif one.default is not msgspec.NODEFAULT:
            namespace[one.name] = one.default
        else:
            raise TypeError(f"{structure.__name__}.{one.name} has nothing to say when it is left out")
    return msgspec.defstruct(
        f"Lean{structure.__name__}",
        fields,
        namespace=namespace,
        module=__name__,
        frozen=True,
        kw_only=True,
        omit_defaults=True,
        rename="camel",
        gc=False,
    )


def _default_of(one: msgspec.structs.FieldInfo) -> Any:
    name = one.encode_name
    if one.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=one.default_factory, name=name)
    if one.default is not msgspec.NODEFAULT:
        return msgspec.field(default=one.default, name=name)
    return msgspec.field(name=name)

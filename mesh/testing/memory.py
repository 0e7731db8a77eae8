"""What values keep alive."""

from __future__ import annotations

import gc
import types
from collections.abc import Mapping

import msgspec

_CODE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
"""Through these everything there is can be reached, which is not what a value keeps."""


def texts_within(*values: object) -> set[str]:
    """All texts that can be reached from values, through whatever they consist of; not through code of Python."""
    seen: set[int] = set()
    found: set[str] = set()
    ahead = list(values)
    while ahead:
        value = ahead.pop()
        if id(value) in seen or isinstance(value, _CODE):
            continue
        seen.add(id(value))
        if isinstance(value, str):
            found.add(value)
        ahead += gc.get_referents(value)
        if isinstance(value, Mapping):  # the collector does not care for keys that are texts
            ahead += value.keys()
        if isinstance(value, msgspec.Struct):  # nor for what it cannot find in a circle
            ahead += [getattr(value, name) for name in value.__struct_fields__]
    return found

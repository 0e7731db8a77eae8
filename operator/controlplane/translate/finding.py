"""What the mesh does not do although an object asks for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from resources.objects import ObjectKey


class Condition(enum.Enum):
    """The kind of finding, in the words of a status condition's reason."""

    UNSUPPORTED_VALUE = "UnsupportedValue"
    """A field or value that has no effect, or less than its author may think."""
    NOT_APPLIED = "NotApplied"
    """The whole object has no effect."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing an author should know."""

    object: ObjectKey
    condition: Condition
    message: str

    def __str__(self) -> str:
        return f"{self.object}: {self.condition.value}: {self.message}"

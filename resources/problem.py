"""What is wrong with a document, said so that its author can find and mend it."""

from __future__ import annotations

from dataclasses import dataclass

from resources.objects import ObjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fault of one document."""

    place: str
    """The file, or wherever the text came from."""
    message: str
    document: int | None = None
    """Counted from 1; None when the whole file is meant."""
    line: int | None = None
    """Counted from 1 within the file."""
    field: str = ""
    """Path of the field, such as ``$.spec.rules[0].from``; empty when the whole document is meant."""
    remedy: str = ""
    key: ObjectKey | None = None
    """The object that the document would have been, where that could be read; None when it may be any."""

    def __str__(self) -> str:
        where = self.place
        if self.line is not None:
            where += f":{self.line}"
        if self.document is not None:
            where += f" (document {self.document})"
        if self.key is not None and self.key.name:
            where += f": {self.key}"
        text = f"{where}: {self.message}"
        if self.field:
            text += f", at {self.field}"
        if self.remedy:
            text += f"; {self.remedy}"
        return text

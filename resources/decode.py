"""Manifests to objects: everything that can be read is, everything that cannot is a Problem that says where and why."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mesh import expectation
from resources import admission, documents
from resources.base import ObjectMeta
from resources.documents import Document, Path
from resources.objects import CLUSTER_SCOPED, KINDS, KubernetesObject, ObjectKey
from resources.problem import Problem

MAX_PROBLEMS = 100
"""Of one text; a file that is no manifest at all should not fill the log."""

_AT = re.compile(r"^(?P<message>.*?)(?: - at `(?P<in_key>key in )?(?P<path>\$[^`]*)`)?$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING_FIELD = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)
_CHOICE = "Invalid enum value"
_SEGMENT = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def decode_documents(text: str, place: str) -> tuple[list[KubernetesObject], list[Problem]]:
    """Decode a text of one or more YAML or JSON documents, ``List`` kinds unpacked.

    Args:
        text: the documents.
        place: where the text comes from, for the messages: a file's path.

    Returns:
        The objects that are sound, in their order, and what is wrong with the others. Of two objects with one name the
        first counts.
    """
    if len(text) > documents.MAX_TEXT:
        message = f"larger than {documents.MAX_TEXT} characters"
        return [], [Problem(place=place, message=message, remedy="split the file")]
    decoder = _Decoder(place)
    for document in documents.split(text):
        decoder.take(document)
        if len(decoder.problems) >= MAX_PROBLEMS:
            decoder.problems.append(Problem(place=place, message="too many problems: the rest of the file is not read"))
            break
    return list(decoder.objects.values()), decoder.problems


class _Decoder:
    def __init__(self, place: str) -> None:
        self._place = place
        self.objects: dict[ObjectKey, KubernetesObject] = {}
        self.problems: list[Problem] = []
        self._lines: tuple[Document, Mapping[Path, int]] | None = None
        """Of the last document that had a problem: finding them means reading it once more."""

    def take(self, document: Document) -> None:
        try:
            value = documents.read(document)
        except documents.Unreadable as error:
            line = None if error.line is None else document.first_line + error.line + 1
            problem = Problem(place=self._place, document=document.index, line=line, message=error.message)
            self.problems.append(problem)
            return
        if value is not None:
            self._value(document, value, ())

    def _value(self, document: Document, value: Any, path: Path) -> None:
        if not isinstance(value, dict):
            self._report(document, path, "an object is a mapping with apiVersion, kind and metadata")
            return
        kind = value.get("kind")
        if not isinstance(kind, str):
            self._report(document, path, "the object has no kind", remedy="add apiVersion and kind")
            return
        if kind.endswith("List") and kind.removesuffix("List") in ("", *KINDS):
            self._list(document, value, path)
            return
        if kind not in KINDS:
            remedy = f"the kinds that are read are {', '.join(KINDS)}"
            message = f"the kind {kind[:64]!r} is not known"
            self._report(document, (*path, "kind"), message, key=_meant_key(kind, value), remedy=remedy)
            return
        self._object(document, KINDS[kind], value, path)

    def _list(self, document: Document, value: dict[str, Any], path: Path) -> None:
        items = value.get("items", [])
        if path or not isinstance(items, list):
            self._report(document, path, "a List holds objects under items, and no further List")
            return
        item_kind = value["kind"].removesuffix("List")
        for index, item in enumerate(items):
            if len(self.problems) >= MAX_PROBLEMS:
                return
            if item_kind and isinstance(item, dict):
                # The items of a typed list may leave out what the list's own kind says.
                item = {"apiVersion": value.get("apiVersion"), "kind": item_kind, **item}
            self._value(document, item, ("items", index))

    def _object(self, document: Document, kind: type[KubernetesObject], value: dict[str, Any], path: Path) -> None:
        key = _readable_key(kind.__name__, value)
        try:
            decoded = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            inner, message, remedy = explained(str(error), kind)
            self._report(document, (*path, *inner), message, key=key, remedy=remedy)
            return
        if "apiVersion" not in value:
            self._report(document, path, "the object has no apiVersion", key=key, remedy="add apiVersion")
            return
        decoded = with_namespace(decoded)
        violations = admission.violations(decoded)
        for violation in violations:
            self._report(document, (*path, *violation.path), violation.message, key=key, remedy=violation.remedy)
        if violations:
            return
        if decoded.key in self.objects:
            message = "an object of this kind and name stands earlier in this file"
            self._report(document, path, message, key=decoded.key, remedy="the first one counts; remove one")
            return
        self.objects[decoded.key] = decoded

    def _report(
        self, document: Document, path: Path, message: str, *, key: ObjectKey | None = None, remedy: str = ""
    ) -> None:
        if self._lines is None or self._lines[0] is not document:
            self._lines = (document, documents.lines_of(document))
        line = documents.line_at(document, self._lines[1], path)
        self.problems.append(
            Problem(
                place=self._place,
                document=document.index,
                line=line,
                field=format_path(path) if path else "",
                message=message,
                remedy=remedy,
                key=key,
            )
        )


def explained(text: str, kind: type[msgspec.Struct]) -> tuple[Path, str, str]:
    """What msgspec says of a value that does not fit: the field's path, what is wrong with it, and a remedy if any.

    Args:
        text: msgspec's message.
        kind: what the value was to become.
    """
    match = _AT.match(text)
    assert match is not None
    message = match["message"]
    path = parse_path(match["path"] or "$")
    if unknown := _UNKNOWN_FIELD.match(message):
        return (*path, unknown["name"]), "unknown field", expectation.field_remedy(kind, path, unknown["name"])
    if missing := _MISSING_FIELD.match(message):
        return (*path, missing["name"]), "required field is missing", ""
    if match["in_key"]:
        return path, f"{message} as a key", ""
    return path, message, expectation.choice_remedy(kind, path) if message.startswith(_CHOICE) else ""


def with_namespace(decoded: KubernetesObject) -> KubernetesObject:
    """The object with the namespace ``default`` where its kind needs one and it names none."""
    metadata = decoded.metadata
    if metadata.namespace or type(decoded).__name__ in CLUSTER_SCOPED:
        return decoded
    return with_metadata(decoded, msgspec.structs.replace(metadata, namespace="default"))


def with_metadata(decoded: KubernetesObject, metadata: ObjectMeta) -> KubernetesObject:
    """The object with other metadata."""
    return msgspec.structs.replace(decoded, metadata=metadata)


def parse_path(text: str) -> Path:
    """``$.spec.rules[0]`` to its segments; where msgspec leaves a key out (``[...]``) the path ends."""
    segments: list[str | int] = []
    for name, index in _SEGMENT.findall(text.removeprefix("$")):
        if index == "...":
            segments.append("*")
        else:
            segments.append(name or int(index))
    return tuple(segments)


def format_path(path: Path) -> str:
    """Segments to ``$.spec.rules[0]``."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _meant_key(kind: str, value: dict[str, Any]) -> ObjectKey:
    """Which object one of an unknown kind may have been: a misspelt ``Pod`` is that pod, a ``Job`` is none of ours."""
    close = difflib.get_close_matches(kind[:64], KINDS, n=1)
    key = _readable_key(close[0], value) if close else None
    return key or ObjectKey(kind[:64], "", "")


def _readable_key(kind: str, value: dict[str, Any]) -> ObjectKey | None:
    """The object's name, as far as a broken object still tells it."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        return None
    name, namespace = metadata.get("name"), metadata.get("namespace", "default")
    if not isinstance(name, str) or not isinstance(namespace, str):
        return None
    return ObjectKey(kind, "" if kind in CLUSTER_SCOPED else namespace, name)

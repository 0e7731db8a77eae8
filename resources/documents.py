"""Text of YAML and JSON manifests to plain values, safely.

Theory of operation. A manifest is untrusted: it may be huge, nested without end, or hold aliases that multiply (each
level of ten aliases of the level below makes ten times the values). The usual loaders recurse for every level, the
compiled one until the process dies, so the parser's flat stream of events is assembled here, with a bound on depth and
a budget of values in which an alias costs as much as what it stands for.

The stream is split at its ``---`` lines before it is parsed, as kubectl does it: a document that cannot be parsed then
leaves its neighbours alone.

The schema is that of Kubernetes' own tools: YAML 1.1 scalars without timestamps (a date stays text), duplicate keys of
a mapping refused, merge keys taken, tags other than the standard ones refused. ``null`` in a mapping is the same as an
absent field and left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from mesh import expectation

MAX_TEXT = 4 * 1024 * 1024
"""Characters of one file; the API server's own limit for one object is some 1.5 MiB."""
MAX_DEPTH = 100
MAX_VALUES = 200_000
"""Values of one document, aliases counted as what they stand for."""

Path = expectation.Path

_SEPARATOR = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_EMPTY = re.compile(r"(?:[ \t\r]*(?:#[^\n]*|%[^\n]*|\.\.\.[ \t\r]*)?(?:\n|\Z))*")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "tag:yaml.org,2002:merge"
_STRING = "tag:yaml.org,2002:str"
_MAPPING = "tag:yaml.org,2002:map"
_SEQUENCE = "tag:yaml.org,2002:seq"


class Unreadable(Exception):
    """A document that cannot be read; ``line`` counts from 0 within the document. It becomes a Problem at once."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text."""

    index: int
    """Counted from 1."""
    first_line: int
    """Lines of the text before the document."""
    text: str


def split(text: str) -> list[Document]:
    """Cut a text at its ``---`` lines; documents of nothing but comments are left out."""
    cuts = [match.start() for match in _SEPARATOR.finditer(text)]
    marked = set(cuts)
    starts = [0, *cuts]
    documents: list[Document] = []
    lines_before = 0
    for start, end in zip(starts, [*cuts, len(text)], strict=True):
        part = text[start:end]
        # The marker is blanked, not cut off, so that columns and lines stay true.
        body = "   " + part[3:] if start in marked else part
        if not _EMPTY.fullmatch(body):
            documents.append(Document(len(documents) + 1, lines_before, body))
        lines_before += part.count("\n")
    return documents


def read(document: Document) -> Any:
    """The document's value, of dicts, lists, texts, numbers, truth values and None.

    Raises:
        Unreadable: malformed, too large, too deep, or with duplicate keys.
    """
    if document.text.lstrip()[:1] == "{":
        try:
            return _sound(json.loads(document.text, object_pairs_hook=_unique_pairs, parse_int=_bounded_int))
        except (ValueError, RecursionError):
            pass  # flow-style YAML also starts with a brace, and YAML's own error names the line
    return _Assembler(document.text).assemble()


def lines_of(document: Document) -> Mapping[Path, int]:
    """Where each value of a readable document stands, by its path; in lines of the document, from 0."""
    lines: dict[Path, int] = {}
    try:
        _Assembler(document.text, lines).assemble()
    except Unreadable:
        return {}
    return lines


def line_at(document: Document, lines: Mapping[Path, int], path: Path) -> int | None:
    """The line, counted from 1 within the file, of the value at a path, or of the nearest value above that exists."""
    for length in range(len(path), -1, -1):
        line = lines.get(path[:length])
        if line is not None:
            return document.first_line + line + 1
    return None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _sound(value: Any) -> Any:
    """JSON's values without nulls; half a surrogate pair, which nobody could write out again, is a ValueError."""
    if isinstance(value, dict):
        return {_sound(key): _sound(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_sound(inner) for inner in value]
    if isinstance(value, str) and not value.isascii():
        value.encode()
    return value


def _bounded_int(number: str | int) -> int:
    """An integer of 64 bits, which is as far as the API's numbers go."""
    value = int(number)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError("beyond 64 bits")
    return value


@dataclass(slots=True)
class _Frame:
    """A mapping or sequence that is being filled."""

    value: dict[str, Any] | list[Any]
    line: int
    anchor: str | None
    size_before: int
    key: str | None = None
    merging: bool = False
    own_keys: set[str] = field(default_factory=set)


class _Assembler:
    """Builds one document's value from the parser's events."""

    def __init__(self, text: str, lines: dict[Path, int] | None = None) -> None:
        self._text = text
        self.lines = lines
        self._loader: Any = None
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._size = 0
        self._documents = 0
        self._result: Any = None

    def assemble(self) -> Any:
        try:
            self._loader = _LOADER(self._text)
            for event in self._events():
                self._take(event)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line if mark else None
            raise Unreadable(f"malformed YAML: {error.problem or error.context}", line) from error
        except yaml.YAMLError as error:
            raise Unreadable(f"malformed YAML: {str(error).splitlines()[0]}") from error
        finally:
            if self._loader is not None:
                self._loader.dispose()
        return self._result

    def _events(self) -> Iterator[Any]:
        while self._loader.check_event():
            yield self._loader.get_event()

    def _take(self, event: Any) -> None:
        line: int = event.start_mark.line
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise Unreadable("a second document starts without a --- line", line)
        elif isinstance(event, yaml.ScalarEvent):
            self._charge(1, line)
            self._scalar(event, line)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._charge(1, line)
            self._open(event, line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            frame = self._stack.pop()
            if frame.anchor is not None:
                self._anchors[frame.anchor] = (frame.value, self._size - frame.size_before)
            self._place(frame.value, frame.line)
        elif isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            if anchor not in self._anchors:
                raise Unreadable(f"alias *{anchor[:64]} has no finished anchor before it", line)
            value, size = self._anchors[anchor]
            self._charge(size, line)
            self._place(value, line)

    def _charge(self, size: int, line: int) -> None:
        self._size += size
        if self._size > MAX_VALUES:
            raise Unreadable(f"more than {MAX_VALUES} values, aliases counted as what they stand for", line)

    def _open(self, event: Any, line: int) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH} levels", line)
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _MAPPING if mapping else _SEQUENCE):
            raise Unreadable(f"tag {event.tag[:64]!r} is not taken", line)
        if self._stack and isinstance(self._stack[-1].value, dict):
            parent = self._stack[-1]
            if parent.key is None and not parent.merging:
                raise Unreadable("a mapping's key must be text", line)
        self._note(line)
        self._stack.append(_Frame({} if mapping else [], line, event.anchor, self._size - 1))

    def _scalar(self, event: Any, line: int) -> None:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit) if tag is None else _STRING
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None and not frame.merging:
            self._key(frame, event, tag, line)
            return
        value = self._construct(tag, event, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        self._place(value, line)

    def _key(self, frame: _Frame, event: Any, tag: str, line: int) -> None:
        if tag == _MERGE:
            frame.merging = True
            return
        # Keys such as 8080 or "on" are what JSON makes of them: text.
        key = str(event.value)
        if key in frame.own_keys:
            raise Unreadable(f"the key {key[:64]!r} stands twice in one mapping", line)
        frame.own_keys.add(key)
        frame.key = key

    def _construct(self, tag: str, event: Any, line: int) -> Any:
        text = event.value
        if tag in (_STRING, "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value", _MERGE):
            return text
        if tag == "tag:yaml.org,2002:null":
            return None
        node = yaml.ScalarNode(tag, text)
        try:
            if tag == "tag:yaml.org,2002:bool":
                return self._loader.construct_yaml_bool(node)
            if tag == "tag:yaml.org,2002:int" and len(text) < 64:
                return _bounded_int(self._loader.construct_yaml_int(node))
            if tag == "tag:yaml.org,2002:float" and len(text) < 64:
                return self._loader.construct_yaml_float(node)
        except (ValueError, KeyError, OverflowError) as error:
            raise Unreadable(f"{text[:64]!r} is not a value of its type", line) from error
        raise Unreadable(f"tag {tag[:64]!r} is not taken", line)

    def _place(self, value: Any, line: int) -> None:
        if not self._stack:
            self._result = value
            if self.lines is not None:
                self.lines.setdefault((), line)
            return
        frame = self._stack[-1]
        if isinstance(frame.value, list):
            self._note(line)
            frame.value.append(value)
        elif frame.merging:
            frame.merging = False
            for merged in value if isinstance(value, list) else [value]:
                if not isinstance(merged, dict):
                    raise Unreadable("the merge key << takes a mapping or a list of mappings", line)
                for key, inner in merged.items():
                    frame.value.setdefault(key, inner)
        elif (key := frame.key) is None:
            raise Unreadable("a mapping's key must be text", line)
        else:
            self._note(line)
            if value is None:
                frame.value.pop(key, None)
            else:
                frame.value[key] = value
            frame.key = None

    def _note(self, line: int) -> None:
        if self.lines is not None:
            path: list[str | int] = []
            for frame in self._stack:
                if isinstance(frame.value, list):
                    path.append(len(frame.value))
                else:
                    path.append(frame.key if frame.key is not None else "<<")
            self.lines.setdefault(tuple(path), line)


def without_nulls(value: Any) -> Any:
    """The value without the keys of its mappings, however deep, that are null: to the API, and to those who read
    configuration, that is to leave them out."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value

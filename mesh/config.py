"""Configuration files: YAML text to frozen groups, once, at start.

A process takes one file. Its text is composed to YAML nodes, ``${NAME}`` in a value is replaced from the environment,
and the result is decoded into the process's own group of settings. Working on nodes rather than on loaded values does
two things: an unquoted ``${PORT}`` that expands to ``15008`` is a number, as if it had been written there (a quoted one
stays text), and every complaint can name the line as well as the path of the key.

Whatever is not understood is refused: unknown keys, keys given twice, aliases (a few lines of them expand without
bound), files of more than a mebibyte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import yaml

from mesh.errors import ConfigurationError, InternalError

MAX_FILE_BYTES = 1 << 20

_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\}|\{([^}]*)\}?)")
_ERROR_PATH = re.compile(r" - at `(\$[^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""A TCP port; 0 lets the kernel choose."""

Seconds = Annotated[float, msgspec.Meta(gt=0)]
"""A duration."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every group of settings: immutable, and strict about its keys. Subclasses add ``kw_only=True``."""


SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)


def load(path: Path, kind: type[SettingsT], environment: Mapping[str, str] = os.environ) -> SettingsT:
    """Read a YAML file into ``kind``.

    Args:
        path: the file, of at most ``MAX_FILE_BYTES``.
        kind: a frozen ``msgspec.Struct`` that forbids unknown fields, as must every struct it holds. ``pathlib.Path``
            fields are written as text.
        environment: where ``${NAME}`` is looked up; ``$$`` stands for one dollar sign.

    Raises:
        ConfigurationError: the file cannot be read, or something in it is wrong; the message names file, line and
            ``$.path`` of the key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read this configuration file: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path}: larger than {MAX_FILE_BYTES} bytes; is this a configuration file?")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    return decode(text, str(path), kind, environment)


def decode(text: str, place: str, kind: type[SettingsT], environment: Mapping[str, str] = os.environ) -> SettingsT:
    """As ``load``, from text already read; ``place`` stands for the file's name in messages."""
    _require_strict(kind)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            _check(root, "$", place, environment, loader)
        value = {} if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise ConfigurationError(f"{place}{_line(error.problem_mark)}: not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise ConfigurationError(f"{place}: not valid YAML: nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        # PyYAML lets the last three through for ill-formed scalars with an explicit tag.
        raise ConfigurationError(f"{place}: not valid YAML: {error}") from error
    try:
        # A file of comments alone is null in YAML and means "all defaults".
        return msgspec.convert({} if value is None else value, kind, dec_hook=_decode_other)
    except msgspec.ValidationError as error:
        message = str(error)
        found = _ERROR_PATH.search(message)
        key = found[1] if found else "$"
        problem = message[: found.start()] if found else message
        if unknown := _UNKNOWN_FIELD.search(problem):
            from mesh import expectation  # here, since a process whose configuration is right has no use for it

            path = tuple(int(index) if index else name for name, index in _PATH_STEP.findall(key))
            problem += f"; {expectation.field_remedy(kind, path, unknown[1])}"
        mark = None if root is None else _find(root, key).start_mark
        raise ConfigurationError(f"{place}{_line(mark)}: {key}: {problem}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias, else compose as usual."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not taken here: repeat the value", mark)
        return super().compose_node(parent, index)


def _check(node: yaml.Node, key: str, place: str, environment: Mapping[str, str], loader: _Loader) -> None:
    """Expand variables in place and refuse repeated keys."""
    if isinstance(node, yaml.ScalarNode):
        if "$" in node.value:
            text = _expand(node, key, place, environment)
            if node.style is None:  # unquoted: the new text may be a number or a boolean
                node.tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
            node.value = text
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check(item, f"{key}[{index}]", place, environment, loader)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise ConfigurationError(f"{place}{_line(name.start_mark)}: {key}: a key must be plain text")
            if name.value in seen:
                raise ConfigurationError(f"{place}{_line(name.start_mark)}: {key}.{name.value}: given twice")
            seen.add(name.value)
            _check(value, f"{key}.{name.value}", place, environment, loader)


def _expand(node: yaml.ScalarNode, key: str, place: str, environment: Mapping[str, str]) -> str:
    def replacement(match: re.Match[str]) -> str:
        name, malformed = match[1], match[2]
        if name is None:
            if malformed is None:
                return "$"
            raise ConfigurationError(
                f"{place}{_line(node.start_mark)}: {key}: {match[0]!r} is not of the form ${{NAME}}; "
                "write $$ for a dollar sign"
            )
        if name not in environment:
            raise ConfigurationError(
                f"{place}{_line(node.start_mark)}: {key}: the environment variable {name} is not set"
            )
        return environment[name]

    return _VARIABLE.sub(replacement, node.value)


def _find(root: yaml.Node, key: str) -> yaml.Node:
    """The node at a ``$.path`` of msgspec's, or the nearest one above it."""
    node = root
    for name, index in _PATH_STEP.findall(key):
        if name and isinstance(node, yaml.MappingNode):
            child = next((value for label, value in node.value if label.value == name), None)
        elif index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
            child = node.value[int(index)]
        else:
            child = None
        if child is None:
            break
        node = child
    return node


def _line(mark: Any) -> str:
    return "" if mark is None else f":{mark.line + 1}"


def _decode_other(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


_strict: set[type] = set()


def _require_strict(kind: type[msgspec.Struct]) -> None:
    """Hold our own groups to the rules above: a lenient one would ignore a misspelt key in silence."""
    if kind in _strict:
        return
    pending: list[Any] = [kind]
    while pending:
        one = pending.pop()
        if not (isinstance(one, type) and issubclass(one, msgspec.Struct)):
            pending.extend(getattr(one, "__args__", ()))
            continue
        if one in _strict:
            continue
        if not (one.__struct_config__.frozen and one.__struct_config__.forbid_unknown_fields):
            raise InternalError(f"{one.__qualname__} must be frozen and forbid unknown fields: derive it from Settings")
        _strict.add(one)
        pending.extend(field.type for field in msgspec.structs.fields(one))

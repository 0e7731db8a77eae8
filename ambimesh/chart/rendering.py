"""Templates to text: the tree of ``template_codec`` with the values of an installation. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from ambimesh.chart import template_codec as tree
from mesh.errors import ConfigurationError


class Renderer:
    """The templates of one chart, with what their ``$`` is."""

    def __init__(self, files: Mapping[str, str], root: Mapping[str, Any]) -> None:
        """Read the templates.

        Args:
            files: text by name; names that begin with ``_`` only define.
            root: ``Values``, ``Release``, ``Chart``, ``Capabilities``.

        Raises:
            ConfigurationError: a file is not of the subset.
        """
        self._blocks = {name: tree.parse(text, name) for name, text in sorted(files.items())}
        self._root = root
        self._defined = {
            node.name: node.body for block in self._blocks.values() for node in block if isinstance(node, tree.Define)
        }

    def render(self, name: str) -> str:
        """A file's text.

        Raises:
            ConfigurationError: a value is missing, or of a kind that a function does not take.
        """
        try:
            return "".join(self._block(self._blocks[name], self._root, {"$": self._root}))
        except RecursionError:
            raise ConfigurationError(f"{name}: templates include one another without end") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from error

    def _block(self, block: tree.Block, dot: Any, variables: dict[str, Any]) -> Iterator[str]:
        scope = dict(variables)
        for node in block:
            match node:
                case tree.Text(text):
                    yield text
                case tree.Output(value):
                    yield _printed(self._pipeline(value, dot, scope))
                case tree.Assignment(name, value):
                    scope[name] = self._pipeline(value, dot, scope)
                case tree.If(branches, otherwise):
                    yield from self._if(branches, otherwise, dot, scope)
                case tree.With(value, body, otherwise):
                    found = self._pipeline(value, dot, scope)
                    if is_true(found):
                        yield from self._block(body, found, scope)
                    else:
                        yield from self._block(otherwise, dot, scope)
                case tree.Range():
                    yield from self._range(node, dot, scope)

    def _if(
        self,
        branches: Sequence[tuple[tree.Pipeline, tree.Block]],
        otherwise: tree.Block,
        dot: Any,
        scope: dict[str, Any],
    ) -> Iterator[str]:
        for condition, body in branches:
            if is_true(self._pipeline(condition, dot, scope)):
                yield from self._block(body, dot, scope)
                return
        yield from self._block(otherwise, dot, scope)

    def _range(self, node: tree.Range, dot: Any, scope: dict[str, Any]) -> Iterator[str]:
        found = self._pipeline(node.value, dot, scope)
        if isinstance(found, dict):
            pairs: list[tuple[Any, Any]] = sorted(found.items())
        elif isinstance(found, list) or found is None:
            pairs = list(enumerate(found or []))
        else:
            raise ConfigurationError(f"range over {type(found).__name__}")
        for pair in pairs:
            inner = {**scope, **dict(zip(node.names, pair if len(node.names) == 2 else pair[1:], strict=False))}
            yield from self._block(node.body, pair[1], inner)
        if not pairs:
            yield from self._block(node.otherwise, dot, scope)

    def _pipeline(self, pipeline: tree.Pipeline, dot: Any, scope: dict[str, Any]) -> Any:
        piped: list[Any] = []
        for command in pipeline.commands:
            piped = [self._command(command, piped, dot, scope)]
        return piped[0]

    def _command(self, command: tree.Command, piped: list[Any], dot: Any, scope: dict[str, Any]) -> Any:
        arguments = [*(self._operand(each, dot, scope) for each in command.arguments), *piped]
        head = command.head
        if isinstance(head, tree.Function):
            return self._call(head.name, arguments)
        value = self._operand(head, dot, scope)
        if callable(value):
            return value(*arguments)
        if arguments:
            raise ConfigurationError(f"{head} is no function, but is given {len(arguments)} arguments")
        return value

    def _operand(self, operand: tree.Operand, dot: Any, scope: dict[str, Any]) -> Any:
        match operand:
            case tree.Literal(value):
                return value
            case tree.Pipeline():
                return self._pipeline(operand, dot, scope)
            case tree.Function(name):
                return self._call(name, [])
            case tree.Path(start, fields):
                if start != "." and start not in scope:
                    raise ConfigurationError(f"variable {start} is not set here")
                return _field(dot if start == "." else scope[start], start, fields)

    def _call(self, name: str, arguments: list[Any]) -> Any:
        if name == "include":
            template, dot = arguments
            if template not in self._defined:
                raise ConfigurationError(f"no template is called {template}")
            return "".join(self._block(self._defined[template], dot, {"$": dot}))
        if name not in FUNCTIONS:
            raise ConfigurationError(f"function {name} is not of the subset that charts here keep to")
        try:
            return FUNCTIONS[name](*arguments)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"{name}: {error}") from error


def _field(value: Any, start: str, fields: Sequence[str]) -> Any:
    """A field of a field; a missing one is nil, one below nil is an error, as in Go."""
    for position, name in enumerate(fields):
        if not isinstance(value, Mapping):
            path = ".".join([start.rstrip("."), *fields[:position]])
            raise ConfigurationError(f"{path} has no field {name}: it is {type(value).__name__}")
        value = value.get(name)
    return value


def is_true(value: Any) -> bool:
    """Go's idea of truth: nothing, zero and what is empty are false."""
    return value is not None and value is not False and value not in (0, "") and not (_sized(value) and not value)


def _sized(value: Any) -> bool:
    return isinstance(value, (dict, list, str))


def _printed(value: Any) -> str:
    """A value as Go prints it.

    Raises:
        ConfigurationError: it is nil, which Go would print as ``<no value>``, or not a scalar.
    """
    if value is None:
        raise ConfigurationError("nothing to write: the value is missing")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(value)
    raise ConfigurationError(f"a {type(value).__name__} cannot be written as it is; use toYaml")


def _quoted(value: Any) -> str:
    return json.dumps(_printed(value), ensure_ascii=False)


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=False, allow_unicode=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("\n...")


def _indented(width: int, text: str) -> str:
    return "\n".join(" " * width + line for line in text.split("\n"))


def _failed(text: str) -> str:
    raise ConfigurationError(text)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda *values: sum(int(value) for value in values),
    "and": lambda *values: next((one for one in values if not is_true(one)), values[-1]),
    "default": lambda fallback, value=None: value if is_true(value) else fallback,
    "dict": lambda *values: dict(zip(values[::2], values[1::2], strict=True)),
    "eq": lambda one, other: one == other,
    "fail": _failed,
    "gt": lambda one, other: one > other,
    "indent": _indented,
    "join": lambda separator, values: separator.join(_printed(value) for value in values),
    "list": lambda *values: list(values),
    "ne": lambda one, other: one != other,
    "nindent": lambda width, text: "\n" + _indented(width, text),
    "not": lambda value: not is_true(value),
    "or": lambda *values: next((one for one in values if is_true(one)), values[-1]),
    "printf": lambda template, *values: template % values,
    "quote": _quoted,
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "toYaml": _yaml,
    "trunc": lambda length, text: text[:length],
}
"""What templates may call beside ``include``, with Sprig's names and order of arguments."""

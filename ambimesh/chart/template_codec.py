"""The subset of Go's templates that the chart is written in: text to a tree.

Theory of operation. A template is text with actions in ``{{ }}``. ``-`` inside of a brace eats the white space on its
side. Actions are pipelines (their value is written), ``if``/``else if``/``else``, ``range``, ``with``, ``define`` and
assignments to variables; all but the pipelines and assignments end with ``end``. A pipeline is commands joined by
``|``, each of which gets the value before it as its last argument. A command is one operand, or a function followed by
operands. An operand is a literal, a path from the dot (``.Values.mesh``), from the root (``$.Values``), or from a
variable (``$name.field``), or a pipeline in brackets.

What Go has beyond that (``block``, ``template``, ``break``, character constants) is
refused when the chart is read, not when it is rendered: a chart that loads is one this renderer understands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mesh.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number, boolean or nil."""

    value: str | int | bool | None


@dataclass(frozen=True, slots=True)
class Path:
    """Fields below a starting point: ``.`` is the dot, ``$`` the root, ``$name`` a variable."""

    start: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A function by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Command:
    """An operand alone, or something called with operands."""

    head: Operand
    arguments: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each given the value of the one before it."""

    commands: tuple[Command, ...]


Operand = Literal | Path | Function | Pipeline


@dataclass(frozen=True, slots=True)
class Text:
    """Written as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Output:
    """Its value is written."""

    value: Pipeline


@dataclass(frozen=True, slots=True)
class Assignment:
    """A variable of the enclosing block."""

    name: str
    value: Pipeline


@dataclass(frozen=True, slots=True)
class If:
    """The first branch whose condition is true, else ``otherwise``."""

    branches: tuple[tuple[Pipeline, Block], ...]
    otherwise: Block


@dataclass(frozen=True, slots=True)
class With:
    """The body with the dot set, when the value is true."""

    value: Pipeline
    body: Block
    otherwise: Block


@dataclass(frozen=True, slots=True)
class Range:
    """The body once for each element; ``names`` are the variables for key or index, and element."""

    names: tuple[str, ...]
    value: Pipeline
    body: Block
    otherwise: Block


@dataclass(frozen=True, slots=True)
class Define:
    """A template that ``include`` finds by its name."""

    name: str
    body: Block


Node = Text | Output | Assignment | If | With | Range | Define
Block = tuple[Node, ...]

_ACTION = re.compile(r"\{\{(?P<left>-\s)?(?P<body>.*?)(?P<right>\s-)?\}\}", re.DOTALL)
_COMMENT = re.compile(r"\s*/\*.*\*/\s*", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<number>-?\d+)(?![\w.])
      | (?P<path>\$?(?:\.?[A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)*|\$|\.)
      | (?P<sign>:=|\||\(|\)|,)
    )""",
    re.VERBOSE,
)
_UNSUPPORTED = ("template", "block", "break", "continue")
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}


def parse(text: str, place: str) -> Block:
    """Read a template.

    Args:
        text: of the file.
        place: its name, for messages.

    Raises:
        ConfigurationError: it is none of the subset.
    """
    reader = _Reader(list(_pieces(text)), place)
    block, ended_by = reader.block(())
    if ended_by is not None:
        raise reader.error(f"unexpected {ended_by[0]}")
    return block


@dataclass(frozen=True, slots=True)
class _Action:
    """The tokens of one pair of braces."""

    body: str
    line: int


def _pieces(text: str) -> Iterator[Text | _Action]:
    """Text and actions, white space trimmed, comments left out."""
    position, trim = 0, False
    for match in _ACTION.finditer(text):
        between = text[position : match.start()]
        if trim:
            between = between.lstrip()
        if match["left"]:
            between = between.rstrip()
        if between:
            yield Text(between)
        position, trim = match.end(), bool(match["right"])
        if not _COMMENT.fullmatch(match["body"]):
            yield _Action(match["body"], text.count("\n", 0, match.start()) + 1)
    rest = text[position:]
    if trim:
        rest = rest.lstrip()
    if rest:
        yield Text(rest)


class _Reader:
    """Goes through the pieces once."""

    def __init__(self, pieces: list[Text | _Action], place: str) -> None:
        self._pieces = pieces
        self._position = 0
        self._place = place
        self._line = 1

    def error(self, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self._place}:{self._line}: {text}")

    def block(self, ends: tuple[str, ...]) -> tuple[Block, list[str] | None]:
        """Nodes up to one of ``ends``, and the tokens of what ended them; None at the end of the text."""
        nodes: list[Node] = []
        while self._position < len(self._pieces):
            piece = self._pieces[self._position]
            self._position += 1
            if isinstance(piece, Text):
                nodes.append(piece)
                continue
            self._line = piece.line
            tokens = self._tokens(piece.body)
            if tokens[0] in ("end", "else"):
                if tokens[0] not in ends:
                    raise self.error(f"{tokens[0]} without a beginning")
                return tuple(nodes), tokens
            nodes.append(self._node(tokens))
        return tuple(nodes), None

    def _tokens(self, body: str) -> list[str]:
        tokens, position, body = [], 0, body.strip()
        while position < len(body):
            match = _TOKEN.match(body, position)
            if match is None or match.end() == position:
                raise self.error(f"cannot be read: {body[position:][:40]!r}")
            tokens.append(match[match.lastgroup or 0])
            position = match.end()
        if not tokens:
            raise self.error("an empty action")
        return tokens

    def _node(self, tokens: list[str]) -> Node:
        head, rest = tokens[0], tokens[1:]
        if head in _UNSUPPORTED:
            raise self.error(f"{head} is not of the subset that charts here keep to")
        if head == "if":
            return self._if(rest)
        if head == "with":
            value = self.pipeline(rest)
            body, otherwise = self._body_and_else()
            return With(value, body, otherwise)
        if head == "range":
            return self._range(rest)
        if head == "define":
            if len(rest) != 1 or not rest[0].startswith('"'):
                raise self.error("define takes one name in quotes")
            body, ended_by = self.block(("end",))
            self._require(ended_by)
            return Define(json.loads(rest[0]), body)
        if len(tokens) > 2 and tokens[1] == ":=" and head.startswith("$"):
            return Assignment(head, self.pipeline(tokens[2:]))
        return Output(self.pipeline(tokens))

    def _if(self, condition: list[str]) -> If:
        branches: list[tuple[Pipeline, Block]] = []
        while True:
            value = self.pipeline(condition)
            body, ended_by = self.block(("end", "else"))
            branches.append((value, body))
            ended_by = self._require(ended_by)
            if ended_by[0] == "end":
                return If(tuple(branches), ())
            if ended_by[1:2] == ["if"]:
                condition = ended_by[2:]
                continue
            otherwise, ended_by = self.block(("end",))
            self._require(ended_by)
            return If(tuple(branches), otherwise)

    def _range(self, tokens: list[str]) -> Range:
        names: tuple[str, ...] = ()
        if ":=" in tokens:
            at = tokens.index(":=")
            names = tuple(token for token in tokens[:at] if token != ",")
            if not 1 <= len(names) <= 2 or not all(name.startswith("$") for name in names):
                raise self.error("range takes one or two variables")
            tokens = tokens[at + 1 :]
        value = self.pipeline(tokens)
        body, otherwise = self._body_and_else()
        return Range(names, value, body, otherwise)

    def _body_and_else(self) -> tuple[Block, Block]:
        body, ended_by = self.block(("end", "else"))
        if self._require(ended_by) == ["end"]:
            return body, ()
        otherwise, ended_by = self.block(("end",))
        self._require(ended_by)
        return body, otherwise

    def _require(self, ended_by: list[str] | None) -> list[str]:
        if ended_by is None:
            raise self.error("end is missing")
        return ended_by

    def pipeline(self, tokens: list[str]) -> Pipeline:
        """Tokens to a pipeline."""
        commands: list[Command] = []
        operands: list[Operand] = []
        position = 0
        while position <= len(tokens):
            token = tokens[position] if position < len(tokens) else "|"
            if token == "|":
                if not operands:
                    raise self.error("a command is missing")
                commands.append(Command(operands[0], tuple(operands[1:])))
                operands = []
                position += 1
            elif token == "(":
                inner = self._closing(tokens, position)
                operands.append(self.pipeline(tokens[position + 1 : inner]))
                position = inner + 1
            else:
                operands.append(self._operand(token))
                position += 1
        return Pipeline(tuple(commands))

    def _closing(self, tokens: list[str], opening: int) -> int:
        depth = 0
        for position in range(opening, len(tokens)):
            depth += {"(": 1, ")": -1}.get(tokens[position], 0)
            if depth == 0:
                return position
        raise self.error("a bracket is not closed")

    def _operand(self, token: str) -> Operand:
        if token[0] == '"':
            try:
                return Literal(json.loads(token))
            except ValueError:
                raise self.error(f"not a string: {token[:40]}") from None
        if token[0] == "`":
            return Literal(token[1:-1])
        if token.lstrip("-").isdigit():
            return Literal(int(token))
        if token in _CONSTANTS:
            return Literal(_CONSTANTS[token])
        if token[0] in ".$":
            start, _, rest = token.partition(".")
            return Path(start or ".", tuple(field for field in rest.split(".") if field))
        if token.isidentifier():
            return Function(token)
        raise self.error(f"not an operand: {token[:40]}")

"""How commands print: tables for people, JSON and YAML for programs, progress on the terminal's error stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import msgspec
import yaml
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

console = Console(highlight=False, soft_wrap=True, width=2000)
"""Answers. Wider than any terminal, so that rich cuts no cell: output is searched as often as it is looked at."""
progress_console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Everything else: progress, notices, errors."""


class OutputFormat(StrEnum):
    """What ``-o`` takes."""

    SHORT = "short"
    JSON = "json"
    YAML = "yaml"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print rows below their column heads, as kubectl does: no lines, two spaces between columns."""
    console.print(table(columns, rows))


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """Rows below their column heads; no cell is ever cut or wrapped, so that output can be searched."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=True, overflow="ignore")
    for row in rows:
        # Text, not str: brackets as in [fd00::1]:80 would be taken for markup and vanish.
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def say(text: str) -> None:
    """Print a line of an answer as it is."""
    console.print(text, markup=False)


def remark(kind: str, style: str, text: str) -> None:
    """Print a line beside the answer, on the error stream: ``error ...``, ``notice ...``."""
    progress_console.print(Text.assemble((kind, style), " ", text))


def print_value(value: Any, output: OutputFormat) -> None:
    """Print plain values for a program to read."""
    if output is OutputFormat.YAML:
        console.out(yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False), end="", highlight=False)
    else:
        console.out(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), highlight=False)


class Deeds:
    """What a command does: a line for each deed as it is done, or all of them at the end, for a program."""

    def __init__(self, output: OutputFormat) -> None:
        self._output = output
        self._done: list[dict[str, Any]] = []

    def done(self, text: str, **facts: Any) -> None:
        """Something is done: in words, and for a program."""
        if self._output is OutputFormat.SHORT:
            say(text)
        else:
            self._done.append(facts)

    def close(self) -> None:
        """No more comes."""
        if self._output is not OutputFormat.SHORT:
            print_value(self._done, self._output)


@contextmanager
def deeds(output: OutputFormat) -> Iterator[Deeds]:
    """What is done within the block; told also when the block fails, as far as it came."""
    made = Deeds(output)
    try:
        yield made
    finally:
        made.close()


class Progress:
    """Long work as it goes: a spinner on a terminal, and in any case one line per finished step with its time."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._current: tuple[str, float] | None = None

    def step(self, text: str) -> None:
        """A step begins; the one before it has ended well."""
        self.finish()
        self._current = text, time.monotonic()
        self._status.update(Text(text))

    def detail(self, text: str) -> None:
        """How far the step is: on a terminal only."""
        if self._current is not None:
            self._status.update(Text(f"{self._current[0]}: {text}"))

    def finish(self) -> None:
        """The step has ended well."""
        if self._current is not None:
            text, started = self._current
            self._current = None
            took = f" {time.monotonic() - started:.1f} s"
            progress_console.print(Text.assemble(("done", "green"), " ", text, (took, "dim")))


@contextmanager
def progress() -> Iterator[Progress]:
    """Show long work as it goes. A step that is left by an exception is not said to be done."""
    with progress_console.status("starting") as status:
        shown = Progress(status)
        yield shown
        shown.finish()


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """As :func:`progress`, for work that tells nothing but its steps."""
    with progress() as shown:
        yield shown.step

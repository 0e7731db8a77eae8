from __future__ import annotations

import json
import re
from typing import Any

import pytest
import trio
import yaml
from rich.console import Console
from rich.text import Text

from ambimesh import output
from ambimesh.output import OutputFormat


def rendered(columns: list[str], rows: list[list[Any]]) -> str:
    console = Console(width=2000)
    with console.capture() as captured:
        console.print(output.table(columns, rows))
    return captured.get()


def test_tables_are_never_cut_and_brackets_are_no_markup() -> None:
    text = rendered(["A", "B"], [["x" * 300, "[fd00::1]:80"], ["", "[bold]"]])
    assert "x" * 300 + "  [fd00::1]:80" in text
    assert "[bold]" in text


def test_values_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_value({"a": ["b" * 200]}, OutputFormat.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == {"a": ["b" * 200]}
    output.print_value({"a": ["b" * 200]}, OutputFormat.JSON)
    assert json.loads(capsys.readouterr().out) == {"a": ["b" * 200]}


def test_cells_may_have_a_style() -> None:
    assert "missing" in rendered(["A"], [[Text("missing", "red")]])


def test_what_is_said_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("at $.spec.rules[0].from[bold]")
    output.remark("error", "red", "at $.spec.rules[0].from[bold]")
    captured = capsys.readouterr()
    assert captured.out == "at $.spec.rules[0].from[bold]\n"
    assert captured.err == "error at $.spec.rules[0].from[bold]\n"


async def test_each_step_is_told_with_its_time_when_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with output.steps() as step:
        step("first")
        await trio.sleep(0.01)
        step("second")
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"[0-9.]+ s$", "T", line) for line in lines if line] == ["done first T", "done second T"]

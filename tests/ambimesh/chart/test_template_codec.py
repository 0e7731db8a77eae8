"""The subset of Go's templates: what is read, and that the rest is refused when it is read."""

from __future__ import annotations

import pytest

from ambimesh.chart.template_codec import Command, Function, If, Literal, Output, Path, Pipeline, Range, Text, parse
from mesh.errors import ConfigurationError


def test_actions_become_a_tree() -> None:
    assert parse("a {{ .Values.x | quote }} b", "f") == (
        Text("a "),
        Output(Pipeline((Command(Path(".", ("Values", "x")), ()), Command(Function("quote"), ())))),
        Text(" b"),
    )


def test_white_space_is_eaten_on_the_side_of_the_dash() -> None:
    def texts(template: str) -> list[str]:
        return [node.text for node in parse(template, "f") if isinstance(node, Text)]

    assert texts("a \n {{- 1 }} \n b") == ["a", " \n b"]
    assert texts("a \n {{ 1 -}} \n b") == ["a \n ", "b"]
    assert texts("a {{- /* {{ why */ -}} b") == ["a", "b"]
    assert texts("{{ -1 }}") == []
    assert parse("{{ -1 }}", "f") == (Output(Pipeline((Command(Literal(-1), ()),))),)


def test_branches_and_loops_nest() -> None:
    [node] = parse("{{ if eq .a 1 }}x{{ else if .b }}y{{ else }}{{ range $k, $v := .c }}z{{ end }}{{ end }}", "f")
    assert isinstance(node, If)
    assert [branch[1] for branch in node.branches] == [(Text("x"),), (Text("y"),)]
    [inner] = node.otherwise
    assert isinstance(inner, Range)
    assert inner.names == ("$k", "$v")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ if .a }}", "end is missing"),
        ("one\n{{ end }}", "f:2: end without"),
        ("{{ range .a }}{{ else if .b }}{{ end }}{{ end }}", "end without|else"),
        ('{{ template "x" }}', "template is not of the subset"),
        ("{{ break }}", "break is not of the subset"),
        ("{{ }}", "empty"),
        ("{{ (.a }}", "bracket"),
        ("{{ .a | }}", "command is missing"),
        ("{{ 1.5 }}", "cannot be read"),
        ("{{ 'c' }}", "cannot be read"),
        ("{{ define x }}{{ end }}", "name in quotes"),
        ("{{ range $a, $b, $c := .x }}{{ end }}", "one or two"),
        ('{{ "\\x" }}', "not a string"),
    ],
)
def test_the_rest_is_refused_with_its_place(template: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse(template, "f")

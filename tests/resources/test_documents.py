"""Text to plain values: splitting, YAML's and JSON's rules, bounds, and where each value stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from resources.documents import (
    MAX_DEPTH,
    MAX_VALUES,
    Document,
    Unreadable,
    line_at,
    lines_of,
    read,
    split,
    without_nulls,
)


def value_of(text: str) -> Any:
    return read(Document(1, 0, text))


def fault_of(text: str) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        value_of(text)
    return caught.value


def test_documents_keep_their_number_and_first_line() -> None:
    documents = split("# nothing here\n---\na: 1\n--- # second\nb: 2\n---\n\n---\n---x: no marker\n")
    assert [(document.index, document.first_line) for document in documents] == [(1, 1), (2, 3), (3, 7)]
    assert read(documents[0]) == {"a": 1}
    assert read(documents[1]) == {"b": 2}
    assert read(documents[2]) == {"---x": "no marker"}


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment", "---\n---\n# one\n---", "%YAML 1.1\n---\n...\n"])
def test_comments_are_no_documents(text: str) -> None:
    assert split(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("'yes'", "yes"),
        ("0x10", 16),
        ("1.5", 1.5),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("! 80", "80"),
        ("!!str 80", "80"),
        ("80: a\non: b", {"80": "a", "on": "b"}),
        ("a: null\nb: 1", {"b": 1}),
        ('{"a": [1, null], "b": null}', {"a": [1, None]}),
        ("{a: 1}", {"a": 1}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
        ("x: {<<: [{a: 1}, {a: 2, b: 2}]}", {"x": {"a": 1, "b": 2}}),
    ],
)
def test_values(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("a: 1\nb: ]", "malformed YAML", 1),
        ("a: 1\na: 2", "'a' stands twice", 1),
        ('{"a": 1, "a": 2}', "'a' stands twice", 0),
        ("a: *none", "no finished anchor", 0),
        ("a: &a [*a]", "no finished anchor", 0),
        ("a: !!python/none x", "is not taken", 0),
        ("a: !!set {x}", "is not taken", 0),
        ("? [1]\n: 2", "key must be text", 0),
        ("a:\n  <<: 5", "merge key", 1),
        ("a: 99999999999999999999", "is not a value of its type", 0),
        ("a: !!int x", "is not a value of its type", 0),
        ("a: 1\n...\nb: 2", "malformed YAML", 2),
        ("a: 1\r---\rb: 2", "second document", 1),
        ("\x00", "malformed YAML", None),
    ],
)
def test_faults_say_what_and_where(text: str, message: str, line: int | None) -> None:
    error = fault_of(text)
    assert message in error.message
    assert error.line == line


def test_depth_is_bounded() -> None:
    assert value_of("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert "nested deeper" in fault_of("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)).message
    assert "nested deeper" in fault_of("{" + '"a":{' * 5000 + "}" * 5001).message


def test_aliases_cost_what_they_stand_for() -> None:
    levels = ["a0: &a0 [" + ", ".join(["x"] * 10) + "]"]
    levels += [f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]" for level in range(1, 8)]
    assert str(MAX_VALUES) in fault_of("\n".join(levels)).message


def test_each_value_has_its_line() -> None:
    [_, document] = split("a: 1\n---\nspec:\n  ports:\n  - port: 80\n  - {port: 81,\n     name: x}\n")
    lines = lines_of(document)
    assert line_at(document, lines, ("spec", "ports", 1, "name")) == 7
    assert line_at(document, lines, ("spec", "ports", 0, "absent", "deeper")) == 5
    assert line_at(document, lines, ("absent",)) == 3
    assert lines_of(Document(1, 0, "a: [")) == {}
    assert line_at(document, {}, ("spec",)) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(plain)
def test_json_and_yaml_say_the_same(value: Any) -> None:
    assert value_of(json.dumps({"v": value})) == without_nulls({"v": value})
    assert value_of(yaml.safe_dump({"v": value})) == without_nulls({"v": value})


def test_nulls_are_left_out_however_deep() -> None:
    value = {"a": None, "b": [{"c": None, "d": 0}, None], "e": {"f": None}, "g": ""}
    assert without_nulls(value) == {"b": [{"d": 0}, None], "e": {}, "g": ""}
    assert without_nulls({"a": None, "b": {"c": None, "d": [1, None]}}) == {"b": {"d": [1, None]}}

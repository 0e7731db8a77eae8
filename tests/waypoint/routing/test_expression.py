"""Users' expressions: RE2 keeps its promise of linear time, and what is too large is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigurationError
from waypoint.routing.expression import MAX_PATTERN_BYTES, full_match_set, full_matcher, replacer


def test_the_whole_text_must_match() -> None:
    matches = full_matcher("/a[0-9]+")
    assert matches(b"/a12")
    assert not matches(b"/a12/")
    assert not matches(b"x/a12")


def test_case_is_ignored_where_asked() -> None:
    assert full_matcher("/Ab", ignore_case=True)(b"/aB")
    assert not full_matcher("/Ab")(b"/aB")


def test_a_dot_is_any_byte() -> None:
    """Else one byte outside of UTF-8, or a line feed, would evade a policy."""
    assert all(full_matcher("/admin/.*")(b"/admin/" + bytes((byte,))) for byte in range(256))


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(a*)*(a*)*b", "([a-z]+)*Z", "(.*)(.*)(.*)(.*)(.*)x"])
def test_expressions_that_blow_up_elsewhere_end_here(pattern: str) -> None:
    """Backtracking would take 2^60000 steps: that this test ends is what it shows."""
    assert not full_matcher(pattern)(b"a" * 60_000)


@pytest.mark.parametrize(
    "pattern",
    ["(", "(?=a)", "(?!a)", r"(a)\1", "a{1001}", "(a{100}){100}", "((a{9}){9}){99}", "[", "*a", "\ud800", "[[:bad:]]"],
)
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        full_matcher(pattern)
    with pytest.raises(ConfigurationError):
        full_match_set([("a", False), (pattern, True)])


def test_a_long_expression_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="bytes, more than"):
        full_matcher("a" * (MAX_PATTERN_BYTES + 1))
    with pytest.raises(ConfigurationError, match="repeats too much"):
        full_matcher("(abc|def){900}")


@given(
    st.lists(st.tuples(st.sampled_from(["a", "a.*", "[ab]+", "A", "b?a*", "ab|ba"]), st.booleans()), max_size=12),
    st.text("abAB", max_size=5),
)
def test_a_set_says_what_each_expression_says(patterns: list[tuple[str, bool]], text: str) -> None:
    wanted = {
        number
        for number, (pattern, ignore_case) in enumerate(patterns)
        if re.fullmatch(pattern, text, re.IGNORECASE if ignore_case else 0)
    }
    found = full_match_set(patterns)(text.encode())
    assert set(found) == wanted
    assert len(found) == len(wanted)


def test_a_set_of_large_expressions_is_divided_and_still_right() -> None:
    patterns = [(f"x{number}(ab|cd){{200}}", False) for number in range(100)]
    matching = full_match_set(patterns)
    assert matching(b"x77" + b"abcd" * 100) == [77]
    assert matching(b"x77" + b"abcd" * 99) == []


def test_replacing() -> None:
    assert replacer("/(a)/(b)", r"/\2/\1")(b"/a/b/a/b/c") == b"/b/a/b/a/c"
    assert replacer("x", "")(b"/axxb") == b"/ab"


@pytest.mark.parametrize(("pattern", "substitution"), [("a", r"\1"), ("(a)", r"\2"), ("(", "a"), ("(a)", "\\")])
def test_a_substitution_must_fit(pattern: str, substitution: str) -> None:
    with pytest.raises(ConfigurationError):
        replacer(pattern, substitution)

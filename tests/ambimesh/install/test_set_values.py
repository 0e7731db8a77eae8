"""``--set``, read as Helm reads it."""

from __future__ import annotations

import pytest

from ambimesh.install.set_values import parse
from mesh.errors import ConfigurationError

ASSIGNMENTS = {
    "a=1": {"a": 1},
    "a.b.c=x,a.b.d=y": {"a": {"b": {"c": "x", "d": "y"}}},
    "a=true,b=false,c=null": {"a": True, "b": False, "c": None},
    "a={x,2,true}": {"a": ["x", 2, True]},
    "a={}": {"a": []},
    "a=10%": {"a": "10%"},
    "a=-5,b=05": {"a": -5, "b": "05"},
    "a=": {"a": ""},
    r"a\.b=c\,d": {"a.b": "c,d"},
    "a=b=c": {"a": "b=c"},
    "a.b=1,a=2": {"a": 2},
}


@pytest.mark.parametrize("text", ASSIGNMENTS)
def test_assignments(text: str) -> None:
    assert parse([text]) == ASSIGNMENTS[text]


def test_later_ones_win_and_text_may_be_asked_for() -> None:
    assert parse(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}
    assert parse(["a=1,b=true"], as_text=True) == {"a": "1", "b": "true"}


@pytest.mark.parametrize("text", ["", "a", "a.=1", "=1", "a[0]=1", "a..b=1"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--set"):
        parse([text])

"""Which locked requirements an image gets."""

from __future__ import annotations

import pytest

from scripts.image_requirements import needed, read_lock

LOCK = """\
a-lib==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
    # via ambimesh (pyproject.toml)
b==2 \\
    --hash=sha256:bb
    # via
    #   a-lib
    #   c
c==3 \\
    --hash=sha256:cc
    # via ambimesh (pyproject.toml)
d==4 \\
    --hash=sha256:dd
    # via b
e==5 \\
    --hash=sha256:ee
    # via c
"""


def test_the_lock_says_who_wants_what() -> None:
    assert {name: set(entry.wanted_by) for name, entry in read_lock(LOCK).items()} == {
        "a-lib": {"ambimesh"}, "b": {"a-lib", "c"}, "c": {"ambimesh"}, "d": {"b"}, "e": {"c"},
    }  # fmt: skip


def test_what_is_needed_comes_with_what_that_needs_and_its_hashes() -> None:
    text = needed(LOCK, ["a-lib"])
    assert set(read_lock(text)) == {"a-lib", "b", "d"}
    assert "--hash=sha256:ab" in text
    assert needed(LOCK, ["a-lib", "c"]) == LOCK


def test_what_is_not_locked_is_an_error() -> None:
    with pytest.raises(KeyError, match="absent"):
        needed(LOCK, ["absent"])

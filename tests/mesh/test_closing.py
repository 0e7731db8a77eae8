"""What is closed at the end of a block."""

from __future__ import annotations

import pytest

from mesh.closing import Closing


class Kept(Closing):
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_it_is_closed_however_the_block_ends() -> None:
    with Kept() as kept:
        assert kept.closed == 0
    assert kept.closed == 1
    with pytest.raises(ZeroDivisionError), kept:
        raise ZeroDivisionError
    assert kept.closed == 2


def test_what_cannot_be_closed_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Closing().close()

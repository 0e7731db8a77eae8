"""How long the relay looks before it sleeps."""

from __future__ import annotations

import pytest

from mesh.relay.looking import LONGEST, Looking

MILLISECOND = 0.001


@pytest.fixture
def looking() -> Looking:
    return Looking()


def looks_again(looking: Looking, now: float) -> bool:
    """Whether a wake-up that came soon, at this time, has it look again."""
    looking.woken(now - LONGEST / 2, now)
    return looking.seconds == LONGEST


def test_looking_in_vain_is_given_up_step_by_step(looking: Looking) -> None:
    lengths = [looking.seconds]
    while looking.seconds:
        looking.in_vain()
        lengths.append(looking.seconds)
    assert lengths[0] == LONGEST
    assert lengths[1] == LONGEST / 2
    assert 3 <= len(lengths) <= 6
    assert lengths == sorted(lengths, reverse=True)


def test_only_what_came_soon_has_it_look_again(looking: Looking) -> None:
    while looking.seconds:
        looking.in_vain()
    looking.woken(5.0, 5.0 + 2 * LONGEST)
    assert looking.seconds == 0
    looking.woken(6.0, 6.0 + LONGEST / 2)
    assert looking.seconds == LONGEST


def test_being_in_the_way_once_costs_a_millisecond(looking: Looking) -> None:
    """A quiet connection's core is taken away now and then; that is no reason to be slow for long."""
    now = 100.0
    for _ in range(5):
        looking.in_the_way(now)
        assert looking.seconds == 0
        assert not looks_again(looking, now + 0.9 * MILLISECOND)
        assert looks_again(looking, now + 1.1 * MILLISECOND)
        now += 1.0


def test_being_in_the_way_again_and_again_costs_more_and_more(looking: Looking) -> None:
    now = 100.0
    pauses = []
    for _ in range(10):
        looking.in_the_way(now)
        began = now
        while not looks_again(looking, now):
            now += MILLISECOND / 2
        pauses.append(now - began)
    assert pauses[0] == pytest.approx(MILLISECOND, abs=MILLISECOND)
    assert pauses[3] == pytest.approx(8 * MILLISECOND, abs=MILLISECOND)
    assert pauses[-1] == pytest.approx(50 * MILLISECOND, abs=MILLISECOND)
    looking.in_the_way(now + 1.0)
    assert looks_again(looking, now + 1.0 + 1.1 * MILLISECOND)

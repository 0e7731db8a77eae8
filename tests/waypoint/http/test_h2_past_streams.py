"""What is remembered of closed streams: never a violation where there is none, whatever has been forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from waypoint.http.h2_past_streams import Past, PastStreams


def test_numbers_passed_over() -> None:
    past = PastStreams()
    past.skip(1, 4)
    past.skip(8, 8)
    assert [past.look_up(stream) for stream in (1, 3, 5, 7)] == [Past.SKIPPED, Past.SKIPPED, Past.ENDED, Past.ENDED]


def test_streams_reset_from_here() -> None:
    past = PastStreams()
    past.reset(3)
    assert [past.look_up(stream) for stream in (1, 3, 5)] == [Past.ENDED, Past.BORNE, Past.ENDED]


@given(st.lists(st.sampled_from(("ended", "reset", "skipped")), max_size=2000))
def test_memory_is_bounded_and_what_was_forgotten_is_borne(fates: list[str]) -> None:
    past = PastStreams()
    for position, fate in enumerate(fates):
        stream = 2 * position + 1
        if fate == "reset":
            past.reset(stream)
        elif fate == "skipped":
            past.skip(stream, stream + 1)
    for position, fate in enumerate(fates):
        found = past.look_up(2 * position + 1)
        allowed = {
            "ended": (Past.ENDED, Past.BORNE),
            "reset": (Past.BORNE,),
            "skipped": (Past.SKIPPED, Past.BORNE),
        }[fate]
        assert found in allowed
    assert len(past._skipped) <= 256
    assert len(past._reset) <= 256


def test_of_streams_older_than_the_memory_everything_is_borne() -> None:
    past = PastStreams()
    for stream in range(1, 2001, 2):
        past.reset(stream)
    assert past.look_up(1) is Past.BORNE
    assert past.look_up(2001) is Past.ENDED

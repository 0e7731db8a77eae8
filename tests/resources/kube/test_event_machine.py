from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resources.kube.event_codec import Notice
from resources.kube.event_machine import AGAIN_SECONDS, BURST, MAX_WAITING, RATE, TRIES, EventQueue
from resources.objects import ObjectKey


def notice(number: int) -> Notice:
    key = ObjectKey("Pod", "shop", f"web-{number}")
    return Notice(about=key, api_version="v1", reason="Invalid", action="Read", note="no")


def test_the_same_is_told_once_in_a_while() -> None:
    queue = EventQueue(0)
    assert queue.put(notice(1), 0)
    assert not queue.put(notice(1), AGAIN_SECONDS - 1)
    assert queue.put(notice(2), 1)
    assert queue.take(1) == notice(1)
    assert queue.put(notice(1), AGAIN_SECONDS)
    assert [queue.take(AGAIN_SECONDS), queue.take(AGAIN_SECONDS)] == [notice(2), notice(1)]
    assert queue.take(AGAIN_SECONDS) == float("inf")


def test_too_many_are_let_go_of_and_counted() -> None:
    queue = EventQueue(0)
    for number in range(MAX_WAITING + 5):
        queue.put(notice(number), 0)
    assert (len(queue), queue.let_go) == (MAX_WAITING, 5)
    assert isinstance(queue.take(0), Notice)
    assert queue.put(notice(MAX_WAITING), 0), "what was let go of may come again"


def test_what_fails_is_tried_some_more_times_and_may_then_be_noticed_anew() -> None:
    queue = EventQueue(0)
    queue.put(notice(1), 0)
    for _ in range(TRIES):
        assert queue.take(0) == notice(1)
        queue.failed(notice(1))
    assert queue.take(0) == float("inf")
    assert queue.put(notice(1), 1)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_no_more_are_told_than_the_rate_allows(gaps: list[float]) -> None:
    queue, now, told = EventQueue(0), 0.0, 0
    for number in range(500):
        queue.put(notice(number), 0)
    for gap in gaps:
        now += gap
        while isinstance(found := queue.take(now), Notice):
            told += 1
        assert found > 0
        assert told <= BURST + now * RATE + 1

"""Limits of routes: their buckets outlive a version of the route, and go when they are full again; shared ones are the
store's, and somebody decides while it is away."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mesh.model.http_route import HttpRoute, RateLimit
from waypoint.exchange.decision import Answer, Decision, Forward
from waypoint.exchange.facts import Facts
from waypoint.http.message import RequestHead
from waypoint.limiting import Limiter, SharedCounting, WhenAway
from waypoint.testing.exchanges import CLIENT, FixedBackend
from waypoint.testing.wires import ManualClock

ROUTE = HttpRoute(name="r", rate_limits=(RateLimit(name="few", tokens=2, interval_seconds=10.0),))
HEAD = RequestHead(method=b"GET", path=b"/", authority=b"echo")
FACTS = Facts(HEAD, CLIENT, "1.1", 0.0)
PASSED = Forward(FixedBackend())


def go_on() -> Forward:
    return PASSED


def test_a_new_version_of_a_route_fills_nothing_up() -> None:
    clock = ManualClock()
    limiter = Limiter(clock.read)
    first, other = limiter.of("demo/web", ROUTE), limiter.of("demo/other", ROUTE)
    assert [first.check(HEAD, CLIENT, FACTS, go_on) for _ in range(2)] == [PASSED, PASSED]
    refused = limiter.of("demo/web", ROUTE).check(HEAD, CLIENT, FACTS, go_on)
    assert isinstance(refused, Answer)
    assert (refused.status, refused.flag, refused.route) == (429, "RL", "r")
    assert refused.headers == [(b"retry-after", b"5")]
    assert other.check(HEAD, CLIENT, FACTS, go_on) is PASSED
    clock.advance(5)
    assert first.check(HEAD, CLIENT, FACTS, go_on) is PASSED
    assert first.check(HEAD, CLIENT, FACTS, go_on) is not PASSED


def test_buckets_go_when_they_are_as_good_as_new() -> None:
    clock = ManualClock()
    limiter = Limiter(clock.read)
    for _ in range(2):
        limiter.of("demo/web", ROUTE).check(HEAD, CLIENT, FACTS, go_on)
    clock.advance(1)
    limiter.tick(clock.now)
    assert limiter.of("demo/web", ROUTE).check(HEAD, CLIENT, FACTS, go_on) is not PASSED
    clock.advance(21)
    limiter.tick(clock.now)
    assert limiter.of("demo/web", ROUTE).check(HEAD, CLIENT, FACTS, go_on) is PASSED


def test_all_limits_of_a_route_count() -> None:
    limits = (RateLimit(name="a", tokens=9, interval_seconds=1.0), RateLimit(name="b", tokens=1, interval_seconds=1.0))
    route = Limiter(ManualClock().read).of("demo/web", HttpRoute(name="r", rate_limits=limits))
    assert [route.check(HEAD, CLIENT, FACTS, go_on) is PASSED for _ in range(2)] == [True, False]


class Store:
    """Answers as it is told to."""

    def __init__(self, *answers: float | None) -> None:
        self.answers = list(answers)
        self.answering = True
        self.keys: list[tuple[str, bytes]] = []

    async def take(self, limit: Any, key: bytes) -> float | None:
        self.keys.append((limit.name, key))
        return self.answers.pop(0)


class Tasks:
    def __init__(self) -> None:
        self.started: list[Any] = []

    def start(self, function: Any) -> None:
        self.started.append(function)


SHARED = HttpRoute(
    name="r",
    rate_limits=(
        RateLimit(name="ours", tokens=1, interval_seconds=10.0, shared=True),
        RateLimit(name="too", tokens=9, interval_seconds=10.0, shared=True, by_header="x-user"),
    ),
)


def _shared(store: Store, when_away: WhenAway = WhenAway.COUNT_HERE) -> tuple[Limiter, Tasks, CollectorRegistry]:
    tasks, registry = Tasks(), CollectorRegistry()
    answers: Any = store
    run: Any = tasks
    return Limiter(ManualClock().read, SharedCounting(answers, when_away, run, registry)), tasks, registry


async def _decided(limiter: Limiter, tasks: Tasks, facts: Facts = FACTS) -> Decision:
    waits: Any = limiter.of("demo/web", SHARED).check(HEAD, CLIENT, facts, go_on)
    decisions: list[Decision] = []
    waits.start(decisions.append, b"", whole=True)
    await tasks.started.pop()()
    [decision] = decisions
    return decision


async def test_the_store_decides_about_shared_limits() -> None:
    store = Store(0.0, 0.0, 0.0, 3.2)
    limiter, tasks, registry = _shared(store)
    assert await _decided(limiter, tasks) is PASSED
    assert [name for name, _ in store.keys] == ["demo/web|r/ours", "demo/web|r/too"]
    refused = await _decided(limiter, tasks)
    assert isinstance(refused, Answer)
    assert (refused.status, refused.flag, refused.headers) == (429, "RL", [(b"retry-after", b"4")])
    values = {
        sample.labels["answer"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert values == {"admitted": 3, "limited": 1}


@pytest.mark.parametrize(
    ("when_away", "statuses"),
    [(WhenAway.COUNT_HERE, [0, 429]), (WhenAway.ADMIT, [0, 0]), (WhenAway.REFUSE, [500, 500])],
)
@pytest.mark.parametrize("known", [False, True])
async def test_while_the_store_is_away_the_configuration_decides(
    when_away: WhenAway, statuses: list[int], known: bool
) -> None:
    store = Store(None, None)
    limiter, tasks, registry = _shared(store, when_away)
    store.answering = not known
    seen, flags = [], []
    for _ in range(2):
        facts = Facts(HEAD, CLIENT, "1.1", 0.0)
        if known:
            decision = limiter.of("demo/web", SHARED).check(HEAD, CLIENT, facts, go_on)
        else:
            decision = await _decided(limiter, tasks, facts)
        seen.append(decision.status if isinstance(decision, Answer) else 0)
        flags.append(decision.flag if isinstance(decision, Answer) and decision.status == 500 else facts.flags)
    assert seen == statuses
    assert flags == ["RLSE", "RLSE"]
    assert registry.get_sample_value("ambimesh_waypoint_shared_limit_answers_total", {"answer": "away"}) == 2


async def test_a_client_that_has_gone_is_told_nothing_and_a_bug_is_an_answer() -> None:
    limiter, tasks, _ = _shared(Store(0.0, 0.0, 0.0, 0.0))
    waits: Any = limiter.of("demo/web", SHARED).check(HEAD, CLIENT, FACTS, go_on)
    waits.start(pytest.fail, b"", whole=True)
    waits.cancel()
    await tasks.started.pop()()

    def broken() -> Decision:
        raise ValueError

    decisions: list[Any] = []
    failing: Any = limiter.of("demo/web", SHARED).check(HEAD, CLIENT, FACTS, broken)
    failing.start(decisions.append, b"", whole=True)
    await tasks.started.pop()()
    assert [decision.status for decision in decisions] == [500]


def test_without_a_store_each_replica_counts_for_itself() -> None:
    limits = Limiter(ManualClock().read).of("demo/web", SHARED)
    assert limits.check(HEAD, CLIENT, FACTS, go_on) is PASSED
    refused = limits.check(HEAD, CLIENT, FACTS, go_on)
    assert isinstance(refused, Answer)
    assert refused.status == 429

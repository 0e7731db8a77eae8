"""The machine against a model of an API server that fails in every way, at any moment."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.kube.list_watch_machine import (
    ABSENT_SECONDS,
    BACKOFF,
    Availability,
    Command,
    ErrorRead,
    Event,
    EventRead,
    Failed,
    List,
    ListWatchMachine,
    PageRead,
    Probe,
    Probed,
    Refused,
    Remove,
    Report,
    Store,
    Wait,
    Waited,
    Watch,
    WatchEnded,
    WatchOpened,
)


def machine(*versions: str) -> ListWatchMachine:
    return ListWatchMachine(versions or ("v1",), lambda: 0.5)


def item(name: str, value: int) -> bytes:
    return json.dumps([name, value]).encode()


@dataclass
class Model:
    """A server's objects, and what a reader of the machine's commands holds."""

    objects: dict[str, int] = field(default_factory=dict)
    history: list[tuple[int, str, str, int]] = field(default_factory=list)
    version: int = 1
    compacted: int = 0
    held: dict[str, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    reports: list[Report] = field(default_factory=list)
    ever: set[tuple[str, int]] = field(default_factory=set)

    def put(self, name: str) -> None:
        self.version += 1
        event = "MODIFIED" if name in self.objects else "ADDED"
        self.objects[name] = self.version
        self.ever.add((name, self.version))
        self.history.append((self.version, event, name, self.version))

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            self.history.append((self.version, "DELETED", name, self.objects.pop(name)))

    def take(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Store(items, first, last):
                    if first:
                        self.seen = set()
                    for raw in items:
                        name, value = json.loads(raw)
                        self.held[name] = value
                        self.seen.add(name)
                    if last:
                        self.held = {name: value for name, value in self.held.items() if name in self.seen}
                case Remove(raw):
                    self.held.pop(json.loads(raw)[0], None)
                case Report():
                    self.reports.append(command)

    def page(self, step: List) -> Event:
        at, _, after = step.continue_token.partition("|")
        if at and int(at) < self.compacted:
            return Refused(410, "Expired")
        names = sorted(name for name in self.objects if name > after)
        chosen, more = names[:2], len(names) > 2
        version = at or str(self.version)
        items = tuple(item(name, self.objects[name]) for name in chosen)
        return PageRead(items, version, f"{version}|{chosen[-1]}" if more else "")

    def happened_since(self, version: str) -> list[tuple[int, str, str, int]]:
        return [one for one in self.history if one[0] > int(version)]


_CHANGES = st.lists(st.tuples(st.sampled_from("abcdefg"), st.booleans()), max_size=4)
_FAULTS = st.sampled_from(
    [None, None, None, Failed("broken"), Refused(403), Refused(404), Refused(410), Refused(429, "", 3.0), Refused(500),
     Refused(401), ErrorRead(410), ErrorRead(500), WatchEnded(True), WatchEnded(False)]
)  # fmt: skip


@given(st.lists(st.tuples(_CHANGES, _FAULTS, st.booleans()), max_size=40))
def test_whatever_fails_the_reader_ends_with_what_the_server_has(
    turns: list[tuple[list[tuple[str, bool]], Event | None, bool]],
) -> None:
    model, tested = Model(), machine("v2", "v1")
    commands = tested.begin()
    quiet = 0
    for turn in range(len(turns) + 60):
        changes, fault, compact = turns[turn] if turn < len(turns) else ([], None, False)
        for name, present in changes:
            model.put(name) if present else model.delete(name)
        if compact:
            model.compacted = model.version
        model.take(commands)
        # Nothing is ever held that the server never had.
        assert set(model.held.items()) <= model.ever
        steps = [one for one in commands if isinstance(one, List | Watch | Probe | Wait)]
        assert steps == commands[-1:], "one thing to do, and it is the last command"
        commands = _step(model, tested, steps[0], fault)
        quiet = quiet + 1 if turn >= len(turns) and isinstance(steps[0], Watch) else 0
    model.take(commands)
    assert quiet > 0
    assert model.held == model.objects
    assert model.reports[-1].availability is Availability.READ


def _step(model: Model, tested: ListWatchMachine, step: Command, fault: Event | None) -> list[Command]:
    match step:
        case Wait(seconds):
            assert 0 < seconds <= 60
            return tested.handle(Waited())
        case Probe():
            return tested.handle(fault if isinstance(fault, Failed) else Probed(()))
        case List():
            wrong = fault if isinstance(fault, Failed | Refused) else None
            return tested.handle(wrong or model.page(step))
        case Watch():
            if isinstance(fault, Failed | Refused):
                return tested.handle(fault)
            model.take(tested.handle(WatchOpened()))
            if int(step.resource_version) < model.compacted:
                return tested.handle(ErrorRead(410))
            for version, event, name, value in model.happened_since(step.resource_version):
                model.take(tested.handle(EventRead(event, item(name, value), str(version))))
            model.take(tested.handle(EventRead("BOOKMARK", b"", str(model.version))))
            return tested.handle(fault if isinstance(fault, ErrorRead | WatchEnded) else WatchEnded(True))
    raise AssertionError(step)


def _listed(*versions: str) -> ListWatchMachine:
    tested = machine(*versions)
    tested.begin()
    assert tested.handle(PageRead((item("a", 1),), "7")) == [Store((item("a", 1),), True, True), Watch("v1", "7")]
    tested.handle(WatchOpened())
    return tested


def test_a_watch_goes_on_where_the_last_event_or_bookmark_was() -> None:
    tested = _listed()
    tested.handle(EventRead("MODIFIED", item("a", 2), "8"))
    assert tested.handle(EventRead("BOOKMARK", b"", "12")) == []
    assert tested.handle(WatchEnded(True)) == [Watch("v1", "12")]
    assert tested.handle(Failed("reset"))[-1] == Wait(BACKOFF.delay(1, 0.5))
    assert tested.handle(Waited()) == [Watch("v1", "12")]


def test_a_version_that_is_gone_means_to_list_again_at_once_and_later_if_it_stays_so() -> None:
    tested = _listed()
    assert tested.handle(ErrorRead(410)) == [List("v1")]
    assert isinstance(tested.handle(Refused(410))[-1], Wait)


def test_what_is_forbidden_is_said_and_tried_again_and_takes_nothing_away() -> None:
    tested = _listed()
    told, wait = tested.handle(Refused(403, "no"))
    assert told == Report(Availability.DENIED, "no")
    assert isinstance(wait, Wait)
    assert tested.handle(Waited()) == [List("v1")]
    assert tested.handle(Refused(403, "no"))[:-1] == [], "said once"
    assert tested.handle(Waited()) == [List("v1")]
    tested.handle(PageRead((), "9"))
    assert tested.handle(WatchOpened()) == [Report(Availability.READ)]


def test_an_absent_kind_is_tried_in_all_versions_then_later() -> None:
    tested = machine("v2", "v1")
    assert tested.begin() == [List("v2")]
    assert tested.handle(Refused(404)) == [List("v1")]
    assert tested.handle(Refused(404)) == [Probe()]
    told, wait = tested.handle(Probed(()))
    assert told == Report(Availability.ABSENT)
    assert isinstance(wait, Wait)
    assert ABSENT_SECONDS * 0.7 < wait.seconds < ABSENT_SECONDS * 1.3
    assert tested.handle(Waited()) == [List("v2")]


def test_versions_that_nobody_here_knows_are_named() -> None:
    tested = machine("v1")
    tested.begin()
    tested.handle(Refused(404))
    [report, _] = tested.handle(Probed(("v7",)))
    assert isinstance(report, Report)
    assert report.availability is Availability.FOREIGN
    assert "v7 only; v1 can be read" in report.message


def test_objects_go_with_their_definition_once_it_is_missed_twice() -> None:
    tested = _listed("v1")
    assert tested.handle(Refused(404)) == [Probe()]
    assert [type(one) for one in tested.handle(Probed(()))] == [Wait]
    assert tested.handle(Waited()) == [List("v1")]
    assert tested.handle(Refused(404)) == [Probe()]
    assert tested.handle(Probed(()))[:2] == [Store((), True, True), Report(Availability.ABSENT)]


@pytest.mark.parametrize("event", [Failed("x"), Refused(500), WatchEnded(False), ErrorRead(500)])
def test_failures_are_waited_out_longer_and_longer_and_told_at_the_second(event: Event) -> None:
    tested = _listed()
    waits = []
    for turn in range(12):
        commands = tested.handle(event)
        waits.append(commands[-1])
        assert [one for one in commands if isinstance(one, Report)] != [] if turn == 1 else len(commands) == 1
        tested.handle(Waited())
    seconds = [one.seconds for one in waits if isinstance(one, Wait)]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= BACKOFF.maximum
    assert seconds[0] < 1


def test_a_server_that_asks_for_time_gets_it() -> None:
    tested = _listed()
    assert tested.handle(Refused(429, "busy", 7.0))[-1] == Wait(7.0)


def test_a_page_that_cannot_be_had_twice_is_asked_for_from_the_start() -> None:
    tested = machine()
    tested.begin()
    tested.handle(PageRead((), "7", "next"))
    tested.handle(Failed("x"))
    assert tested.handle(Waited()) == [List("v1", "next")]
    tested.handle(Failed("x"))
    assert tested.handle(Waited()) == [List("v1", "")]

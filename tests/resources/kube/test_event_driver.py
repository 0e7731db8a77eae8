"""Events, over a real socket, to an API server's double."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import trio

from resources.kube import event_driver
from resources.kube.client_driver import ApiClient
from resources.kube.event_codec import Notice, event_name
from resources.kube.event_driver import Events
from resources.objects import ObjectKey
from resources.testing.api_server import ApiServer

EVENTS = "events.k8s.io/events"
NOTICE = Notice(
    about=ObjectKey("Pod", "shop", "web"), api_version="v1", uid="u", reason="Invalid", action="Read", note="no"
)


@pytest.fixture
async def events(client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Events]:
    monkeypatch.setattr(event_driver, "RETRY_SECONDS", 0.02)
    made = Events(client, "ambimesh.dev/test", "one")
    made.tell(NOTICE)  # before it runs
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 -- of the double's state
            await trio.sleep(0.01)


async def told(server: ApiServer, count: int) -> list[str]:
    await until(lambda: len(server.cluster.of(EVENTS)) >= count)
    await trio.sleep(0.05)
    return [body["note"] for _, body in server.cluster.of(EVENTS)]


async def test_each_is_told_once(server: ApiServer, events: Events) -> None:
    for _ in range(5):
        events.tell(NOTICE)
        events.tell(replace(NOTICE, note="yes"))
    assert sorted(await told(server, 2)) == ["no", "yes"]
    assert [one.method for one in server.requests if "events" in one.path] == ["POST", "POST"]


async def test_what_another_replica_told_is_counted(server: ApiServer, client: ApiClient, events: Events) -> None:
    await told(server, 1)
    other = Events(client, "ambimesh.dev/test", "two")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.run)
        other.tell(NOTICE)
        await until(lambda: "series" in server.cluster.get((EVENTS, "shop", event_name(NOTICE))))
        nursery.cancel_scope.cancel()
    assert server.cluster.get((EVENTS, "shop", event_name(NOTICE)))["series"]["count"] == 2


async def test_an_object_whose_uid_is_not_known_is_asked_for_and_one_that_is_gone_is_left_out(
    server: ApiServer, events: Events
) -> None:
    server.cluster.put("/pods", {"metadata": {"name": "new", "namespace": "shop", "uid": "u-new"}})
    for name in ("new", "gone"):
        key = ObjectKey("Pod", "shop", name)
        path = f"/api/v1/namespaces/shop/pods/{name}"
        events.tell(replace(NOTICE, about=key, uid="", path=path, note=name))
    assert sorted(await told(server, 2)) == ["new", "no"]
    uids = {body["note"]: body["regarding"]["uid"] for _, body in server.cluster.of(EVENTS)}
    assert uids["new"] == "u-new"


async def test_a_server_that_is_away_is_told_later_and_one_that_forbids_is_not_asked_again(
    server: ApiServer, events: Events
) -> None:
    await told(server, 1)
    server.faults.errors += [500, 500]
    events.tell(replace(NOTICE, note="later"))
    assert sorted(await told(server, 2)) == ["later", "no"]
    server.faults.denied.add(EVENTS)
    server.requests.clear()
    events.tell(replace(NOTICE, note="forbidden"))
    await until(lambda: bool(server.requests))
    await trio.sleep(0.1)
    assert len(server.requests) == 1

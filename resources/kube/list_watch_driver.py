"""Carries out what the machine of one kind asks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Never

import trio

from mesh.errors import MeshError
from resources.kube.client_driver import ApiClient, ApiRefused
from resources.kube.kinds import ApiKind
from resources.kube.list_watch_machine import (
    Command,
    ErrorRead,
    Event,
    Failed,
    List,
    ListWatchMachine,
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
from resources.kube.stream_codec import (
    LineSplitter,
    LineTooLong,
    read_event,
    read_group_versions,
    read_page,
    read_resource_names,
)
from resources.kube.transport_driver import AnswerTooLarge

PAGE = 500
"""Objects of one page at first; fewer where they are so large that a page is more than an answer may be."""
_FEWER = 8
"""By what the number is divided then."""
WATCH_SECONDS = (240, 480)
"""How long a watch is asked to last; a random time, so that not all of them end at once."""
_GONE = 410
Told = Callable[[Store | Remove | Report], None]


class ListWatch:
    """Follows one kind."""

    def __init__(self, client: ApiClient, kind: ApiKind, told: Told) -> None:
        """Begin with nothing.

        Args:
            client: the API server.
            kind: what is followed.
            told: called with everything there is to store or to say, in its order; must not wait.
        """
        self._client = client
        self._kind = kind
        self._told = told
        self._machine = ListWatchMachine(kind.versions, random.random)
        self._page = PAGE

    async def run(self) -> Never:
        """Follow until cancelled."""
        commands: Iterable[Command] = self._machine.begin()
        while True:
            commands = self._machine.handle(await self._do(self._tell(commands)))

    def _tell(self, commands: Iterable[Command]) -> List | Watch | Probe | Wait:
        step: List | Watch | Probe | Wait | None = None
        for command in commands:
            if isinstance(command, Store | Remove | Report):
                self._told(command)
            else:
                step = command
        assert step is not None, "the machine says what comes next"
        return step

    async def _do(self, step: List | Watch | Probe | Wait) -> Event:
        try:
            match step:
                case List():
                    return await self._list(step)
                case Watch():
                    return await self._watch(step)
                case Probe():
                    return await self._probe()
                case Wait(seconds):
                    await trio.sleep(seconds)
                    return Waited()
        except ApiRefused as error:
            return Refused(error.status, error.text, error.retry_after)
        except LineTooLong as error:
            # A watch from the same version would tell it again; a list goes past it, and names what is too large.
            return ErrorRead(_GONE, str(error))
        except MeshError as error:
            return Failed(str(error))

    async def _list(self, step: List) -> Event:
        while True:
            query = {**self._selectors(), "limit": str(self._page)}
            if step.continue_token:
                query["continue"] = step.continue_token
            try:
                return read_page(await self._client.request("GET", self._kind.path(step.version), query))
            except AnswerTooLarge:
                if self._page == 1:
                    raise
                self._page = max(self._page // _FEWER, 1)

    async def _watch(self, step: Watch) -> Event:
        seconds = random.randint(*WATCH_SECONDS)
        query = {
            **self._selectors(),
            "watch": "true",
            "resourceVersion": step.resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        lines = LineSplitter()
        began = trio.current_time()
        with trio.move_on_after(seconds + 30):
            async with self._client.stream(self._kind.path(step.version), query) as stream:
                self._handle(WatchOpened())
                while (data := await stream.read()) is not None:
                    for line in lines.feed(data):
                        event = read_event(line)
                        if isinstance(event, ErrorRead):
                            return event
                        self._handle(event)
        return WatchEnded(lasted=trio.current_time() - began >= 1)

    def _handle(self, event: Event) -> None:
        """Take an event after which the watch goes on."""
        for command in self._machine.handle(event):
            assert isinstance(command, Store | Remove | Report)
            self._told(command)

    async def _probe(self) -> Event:
        kind = self._kind
        if not kind.group:
            return Probed(())
        try:
            versions = read_group_versions(await self._client.request("GET", f"/apis/{kind.group}"))
        except ApiRefused as error:
            if error.status != 404:
                raise
            return Probed(())
        foreign = []
        for version in versions:
            if version not in kind.versions:
                names = read_resource_names(await self._client.request("GET", f"/apis/{kind.group}/{version}"))
                if kind.plural in names:
                    foreign.append(version)
        return Probed(tuple(foreign))

    def _selectors(self) -> dict[str, str]:
        kind = self._kind
        chosen = {"labelSelector": kind.label_selector, "fieldSelector": kind.field_selector}
        return {name: text for name, text in chosen.items() if text}



"""Tells events to the API server. They are for people: nothing waits for them, and nothing rests on them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Never

import structlog
import trio

from mesh.clock import utc_now
from mesh.errors import MeshError
from resources.kube.client_driver import MERGE, ApiClient, ApiRefused
from resources.kube.event_codec import Notice, event_folder, event_name, event_of, repeated
from resources.kube.event_machine import EventQueue

RETRY_SECONDS = 5.0
"""How long nothing is told after an API server that did not answer."""
_FORBIDDEN, _MISSING, _CONFLICT = 403, 404, 409
_log = structlog.get_logger("kubernetes")


class Events:
    """Events of one program."""

    def __init__(self, client: ApiClient, reporter: str, instance: str) -> None:
        """Begin with nothing to tell.

        Args:
            client: the API server.
            reporter: the program, as ``ambimesh.dev/operator``.
            instance: which of them.
        """
        self._client = client
        self._reporter = reporter
        self._instance = instance
        self._queue: EventQueue | None = None
        self._early: list[Notice] = []
        self._put = trio.Event()
        self._complained = ""

    def tell(self, notice: Notice) -> None:
        """Have something told, unless it was told lately. Before :meth:`run`, it is told then."""
        if self._queue is None:
            self._early.append(notice)
        elif self._queue.put(notice, trio.current_time()):
            self._put.set()

    async def run(self) -> Never:
        """Tell until cancelled."""
        queue = self._queue = EventQueue(trio.current_time())
        early, self._early = self._early, []
        for notice in early:
            queue.put(notice, trio.current_time())
        while True:
            self._put = trio.Event()
            found = queue.take(trio.current_time())
            if isinstance(found, Notice):
                await self._tell(queue, found)
            else:
                with trio.move_on_after(found) if found < math.inf else trio.CancelScope():
                    await self._put.wait()

    async def _tell(self, queue: EventQueue, notice: Notice) -> None:
        try:
            await self._send(notice)
        except ApiRefused as error:
            # Its namespace goes, or is gone; or events are not ours to write, which the log says once.
            if error.status not in (_FORBIDDEN, _MISSING):
                queue.failed(notice)
            self._complain(error)
            return
        except MeshError as error:
            queue.failed(notice)
            self._complain(error)
            await trio.sleep(RETRY_SECONDS)
            return
        queue.done(notice)

    async def _send(self, notice: Notice) -> None:
        if not notice.uid and notice.path:
            found = await self._client.get(notice.path)
            notice = replace(notice, uid=found["metadata"].get("uid", ""))
        now = utc_now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        folder = event_folder(notice)
        try:
            await self._client.create(folder, event_of(notice, self._reporter, self._instance, now))
        except ApiRefused as error:
            if error.status != _CONFLICT:
                raise
            path = f"{folder}/{event_name(notice)}"
            change = repeated(await self._client.get(path), now)
            await self._client.request("PATCH", path, body=change, content_type=MERGE)

    def _complain(self, error: MeshError) -> None:
        if str(error) != self._complained:
            self._complained = str(error)
            _log.warning("event_not_told", error=self._complained)

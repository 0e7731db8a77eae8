"""One running worker, as the supervisor has it."""

from __future__ import annotations

from itertools import count

import trio

from mesh.errors import ConnectionLost
from ztunnel.fanout.channel_driver import Channel
from ztunnel.fanout.messages_codec import Answer, Report, ToWorker, encode
from ztunnel.supervisor.counts import WorkerCounts


class WorkerLink:
    """A worker's channel, what was asked over it and not answered yet, and what the worker has counted."""

    def __init__(self, number: int, channel: Channel, counts: WorkerCounts) -> None:
        self.number = number
        self.channel = channel
        self.counts = counts
        self.pid = 0
        """0 until it was forked."""
        self.heard_at = trio.current_time()
        self.ended = trio.Event()
        self.status = 0
        """Exit status, or a signal's number below zero; of a worker that has ended."""
        self._numbers = count(1)
        self._waiting: dict[int, tuple[trio.Event, list[Answer]]] = {}
        self._lost = False

    def send(self, message: ToWorker, descriptor: int | None = None) -> None:
        """Tell the worker something."""
        self.channel.send(encode(message), descriptor)

    def next_number(self) -> int:
        """For the next message that is answered."""
        return next(self._numbers)

    def expect(self, number: int) -> Expected:
        """Wait for the answer to the message of this number, which is sent right after."""
        waiting: tuple[trio.Event, list[Answer]] = trio.Event(), []
        if self._lost:
            waiting[0].set()
        else:
            self._waiting[number] = waiting
        return Expected(self, number, waiting)

    def answered(self, answer: Answer) -> None:
        """The worker has answered; what nobody waits for any more is dropped."""
        waiting = self._waiting.pop(answer.number, None)
        if waiting is not None:
            waiting[1].append(answer)
            waiting[0].set()

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._waiting.pop(number, None)

    def lose(self) -> None:
        """The worker is gone: nothing will be answered."""
        self._lost = True
        for event, _ in self._waiting.values():
            event.set()
        self._waiting.clear()

    async def report(self, what: str) -> bytes:
        """Ask the worker to tell of itself.

        Raises:
            ConnectionLost: it has ended.
        """
        number = self.next_number()
        expected = self.expect(number)
        self.send(Report(number=number, what=what))
        return (await expected.answer()).content


class Expected:
    """An answer that is to come."""

    def __init__(self, link: WorkerLink, number: int, waiting: tuple[trio.Event, list[Answer]]) -> None:
        self._link = link
        self._number = number
        self._waiting = waiting

    async def answer(self) -> Answer:
        """Wait for it.

        Raises:
            ConnectionLost: the worker has ended without an answer.
        """
        event, answers = self._waiting
        try:
            await event.wait()
        finally:
            self._link.forget(self._number)
        if not answers:
            raise ConnectionLost(f"worker {self._link.number} has ended")
        return answers[0]

"""The list and watch of one kind, as a machine: what to ask next, and what to make of the answer.

Theory of operation. A list says what there is at one resource version, page by page; a watch from that version says
what happened since. When a watch ends, the next one begins where it left off. When the server no longer knows that
version (410 Gone), everything is listed again; objects that the list lacks are gone then, and not before.

What is known stays known, whatever fails. A server that cannot be reached, a right that is taken away, a page that
cannot be read: each is reported, waited out (longer each time, with jitter) and tried again. Only a list that was read
to its end takes objects away, and a kind that the server, asked twice, does not have any more.

A kind may be absent: nobody has installed its definition. Its versions are tried in turn, then the server is asked
whether it has the kind in versions that are not known here, and all that again some time later.

The machine holds no objects. It is told what happened (``handle``) and answers with commands: what to store, what to
report, and, after everything but an event of a watch under way, one thing to do next.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from mesh.backoff import Backoff

BACKOFF = Backoff(initial=0.25, maximum=30.0)
ABSENT_SECONDS = 15.0
"""How often an absent kind is looked for."""
DENIED_SECONDS = 20.0
"""How often a kind that may not be read is tried."""


class Availability(enum.Enum):
    """How things stand with a kind."""

    UNKNOWN = "unknown"
    """Not yet heard of."""
    READ = "read"
    ABSENT = "absent"
    """The server does not have it: its definition is not installed."""
    FOREIGN = "foreign"
    """The server has it in versions only that are not known here."""
    DENIED = "denied"
    """The server does not let us."""
    AWAY = "away"
    """The server does not answer, or not sensibly."""


# -- what happened -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PageRead:
    """A page of a list has arrived."""

    items: tuple[bytes, ...]
    resource_version: str
    continue_token: str = ""
    """Empty for the last page."""


@dataclass(frozen=True, slots=True)
class WatchOpened:
    """The server has begun to answer a watch."""


@dataclass(frozen=True, slots=True)
class EventRead:
    """A line of a watch has arrived."""

    type: str
    item: bytes
    resource_version: str


@dataclass(frozen=True, slots=True)
class ErrorRead:
    """A watch tells an error, and will end."""

    code: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """The server has ended a watch in good order, as it does every few minutes."""

    lasted: bool
    """Whether it was open for a second at least; one that ends at once is a failure."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was answered with an error."""

    status: int
    message: str = ""
    retry_after: float = 0.0
    """Seconds the server asks to wait; 0 if it does not."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A request was not answered, or an answer broke off or cannot be read."""

    reason: str


@dataclass(frozen=True, slots=True)
class Probed:
    """The server was asked for the kind in any version."""

    foreign_versions: tuple[str, ...]
    """Unknown ones in which it has the kind."""


@dataclass(frozen=True, slots=True)
class Waited:
    """A wait is over."""


Event = PageRead | WatchOpened | EventRead | ErrorRead | WatchEnded | Refused | Failed | Probed | Waited

# -- what to do --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class List:
    """Ask for a page of the list."""

    version: str
    continue_token: str = ""


@dataclass(frozen=True, slots=True)
class Watch:
    """Ask for what happens from a resource version on."""

    version: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask in which versions the server has the kind."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Store:
    """Objects are there, or have changed."""

    items: tuple[bytes, ...]
    first: bool = False
    """A list begins: note the names from here on."""
    last: bool = False
    """A list ends: objects that were not named since ``first`` are no more."""


@dataclass(frozen=True, slots=True)
class Remove:
    """An object is no more."""

    item: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """How things stand, where that has changed."""

    availability: Availability
    message: str = ""


NextStep = List | Watch | Probe | Wait
Command = NextStep | Store | Remove | Report


class ListWatchMachine:
    """Keeps one kind current."""

    def __init__(self, versions: tuple[str, ...], random_unit: Callable[[], float]) -> None:
        """Begin with nothing.

        Args:
            versions: in which the kind can be read, the preferred one first.
            random_unit: a number from 0 up to, without, 1; for jitter.
        """
        self._versions = versions
        self._random_unit = random_unit
        self._turn = 0
        """Which version is used."""
        self._tried = 0
        """Versions that the server turned out not to have, in a row."""
        self._resource_version = ""
        """Where a watch goes on; empty: list first."""
        self._continue = ""
        self._paging = False
        self._failures = 0
        self._absences = 0
        self._listed = False
        """Whether a list has been read to its end, so that there may be objects."""
        self._told = Report(Availability.UNKNOWN)

    def begin(self) -> list[Command]:
        """What to do first."""
        return [self._next()]

    def handle(self, event: Event) -> list[Command]:
        """Take what happened; the last command, if it is a ``NextStep``, is what to do next."""
        match event:
            case PageRead():
                return self._page(event)
            case WatchOpened():
                return self._report(Availability.READ)
            case EventRead():
                return self._event(event)
            case ErrorRead(code, message):
                return self._refused(Refused(code, message))
            case WatchEnded(lasted):
                if lasted:
                    self._failures = 0
                    return [self._next()]
                return self._failed("the API server ends every watch at once")
            case Refused():
                return self._refused(event)
            case Failed(reason):
                return self._failed(reason)
            case Probed(foreign_versions):
                return self._absent(foreign_versions)
            case Waited():
                return [self._next()]

    def _next(self) -> NextStep:
        version = self._versions[self._turn]
        if self._resource_version:
            return Watch(version, self._resource_version)
        return List(version, self._continue)

    def _page(self, page: PageRead) -> list[Command]:
        first, last = not self._paging, not page.continue_token
        self._paging = not last
        self._continue = page.continue_token
        self._failures = self._tried = self._absences = 0
        stored = Store(page.items, first, last)
        if not last:
            return [stored, self._next()]
        self._listed = True
        self._resource_version = page.resource_version or "0"
        return [stored, self._next()]

    def _event(self, event: EventRead) -> list[Command]:
        self._failures = 0
        if event.resource_version:
            self._resource_version = event.resource_version
        match event.type:
            case "ADDED" | "MODIFIED":
                return [Store((event.item,))]
            case "DELETED":
                return [Remove(event.item)]
        return []  # a bookmark, or a type that later servers have

    def _refused(self, refused: Refused) -> list[Command]:
        match refused.status:
            case 410:
                # At once, unless that was the answer to the last attempt, too: then later.
                self._failures += 1
                self._start_over()
                return [self._next()] if self._failures == 1 else [self._pause()]
            case 404:
                return self._not_found()
            case 403:
                # Who may list and not watch is listed again and again.
                self._start_over()
                told = self._report(Availability.DENIED, refused.message)
                return [*told, Wait(self._spread(DENIED_SECONDS))]
        message = f"{refused.status}: {refused.message}"
        if refused.status == 401:
            message = f"the API server does not take our credentials ({message})"
        return self._failed(message, refused.retry_after)

    def _not_found(self) -> list[Command]:
        self._start_over()
        self._tried += 1
        self._turn = (self._turn + 1) % len(self._versions)
        return [self._next()] if self._tried < len(self._versions) else [Probe()]

    def _absent(self, foreign_versions: tuple[str, ...]) -> list[Command]:
        self._tried = 0
        self._absences += 1
        commands: list[Command] = []
        if self._listed and self._absences > 1:
            # Twice in a row: it is not a server that is just starting.
            self._listed = False
            commands.append(Store((), first=True, last=True))
        if foreign_versions:
            theirs, ours = ", ".join(foreign_versions), ", ".join(self._versions)
            text = f"the API server has it in the versions {theirs} only; {ours} can be read here"
            commands += self._report(Availability.FOREIGN, text)
        elif not self._listed:
            commands += self._report(Availability.ABSENT)
        return [*commands, Wait(self._spread(ABSENT_SECONDS))]

    def _failed(self, reason: str, at_least: float = 0.0) -> list[Command]:
        self._failures += 1
        if self._paging and self._failures > 1:
            # A page that cannot be had twice may never be had: its token may be what is wrong.
            self._start_over()
        told = self._report(Availability.AWAY, reason) if self._failures > 1 or not self._listed else []
        return [*told, self._pause(at_least)]

    def _start_over(self) -> None:
        self._resource_version = self._continue = ""
        self._paging = False

    def _pause(self, at_least: float = 0.0) -> Wait:
        return Wait(max(BACKOFF.delay(self._failures, self._random_unit()), min(at_least, 60.0)))

    def _spread(self, seconds: float) -> float:
        return seconds * (0.75 + self._random_unit() / 2)

    def _report(self, availability: Availability, message: str = "") -> list[Command]:
        report = Report(availability, message)
        if report == self._told:
            return []
        self._told = report
        return [report]

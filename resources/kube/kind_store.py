"""What is known of one kind: the objects that can be read, and what is wrong with the others. Pure.

An object that can no longer be read stays as it was, under a problem that says why. A list takes away what it does not
name; where it holds an object that does not even tell its name, it takes nothing away, because it might be any.
"""

from __future__ import annotations

from collections.abc import Callable

from resources.kube.kinds import ApiKind, Need
from resources.kube.list_watch_machine import Availability, Remove, Report, Store
from resources.kube.object_codec import PLACE, decode_object, named
from resources.objects import KubernetesObject, ObjectKey
from resources.problem import Problem

_REMEDIES = {
    Availability.DENIED: "grant this program's service account get, list and watch on it",
    Availability.FOREIGN: "install its definition in a version that can be read",
    Availability.AWAY: "what was read before stays in force until it answers",
}
_MESSAGES = {
    Availability.DENIED: "may not be read",
    Availability.FOREIGN: "cannot be read",
    Availability.AWAY: "cannot be followed",
}


class KindStore:
    """The objects of one kind, by what a list-watch tells."""

    def __init__(self, kind: ApiKind, in_force: Callable[[], set[ObjectKey]]) -> None:
        """Begin with nothing.

        Args:
            kind: what it is of.
            in_force: names of its objects that were stored and not removed; asked for when a list ends.
        """
        self.kind = kind
        self._in_force = in_force
        self._troubles: dict[ObjectKey, Problem] = {}
        self._nameless: Problem | None = None
        self._report = Report(Availability.UNKNOWN)
        self._seen: set[ObjectKey] | None = None
        """Names in the list that is being read; None when one in it could not be read."""
        self._listed = False

    @property
    def waited_for(self) -> str | None:
        """Why nothing can be said yet; None when the kind has been read, or does not have to be."""
        if self._listed or self._report.availability in (Availability.ABSENT, Availability.FOREIGN):
            return None
        if self._report.availability is Availability.DENIED and self.kind.need is Need.OPTIONAL:
            return None
        problem = self._availability_problem()
        return str(problem) if problem is not None else f"{self.kind.plural} have not been read yet"

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the kind, then with its objects."""
        found = [problem for problem in (self._availability_problem(), self._nameless) if problem is not None]
        return found + [self._troubles[key] for key in sorted(self._troubles)]

    def take(self, told: Store | Remove | Report) -> dict[ObjectKey, KubernetesObject | None]:
        """Take what a list-watch tells; what that changes, None for an object that is no more."""
        match told:
            case Report():
                self._report = told
                return {}
            case Remove(item):
                key = named(self.kind, item)
                if key is None:
                    return {}
                self._troubles.pop(key, None)
                return {key: None}
            case Store():
                return self._store(told)

    def _store(self, told: Store) -> dict[ObjectKey, KubernetesObject | None]:
        changes: dict[ObjectKey, KubernetesObject | None] = {}
        if told.first:
            self._seen = set()
            self._nameless = None
        for item in told.items:
            value = decode_object(self.kind, item)
            if isinstance(value, Problem):
                self._trouble(value)
                continue
            key = value.key
            if self._seen is not None:
                self._seen.add(key)
            self._troubles.pop(key, None)
            changes[key] = value
        if told.last:
            self._listed = True
            if self._seen is not None:
                # What this very page names is among what was seen, so that it need not be in force already.
                gone = self._in_force() - self._seen
                changes |= dict.fromkeys(gone)
                self._troubles = {key: one for key, one in self._troubles.items() if key in self._seen}
            self._seen = None
        return changes

    def _trouble(self, problem: Problem) -> None:
        if problem.key is None or not problem.key.name:
            self._nameless = problem
            self._seen = None
            return
        self._troubles[problem.key] = problem
        if self._seen is not None:
            self._seen.add(problem.key)

    def _availability_problem(self) -> Problem | None:
        availability = self._report.availability
        if availability not in _MESSAGES:
            return None
        message = f"{self.kind.plural} {_MESSAGES[availability]}: {self._report.message}"
        return Problem(place=PLACE, message=message, remedy=_REMEDIES[availability])

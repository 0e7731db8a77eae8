"""What became of an object, in the words of its ``status``: written to the API where there is one, shown where not."""

from __future__ import annotations

from dataclasses import dataclass

from resources.gateway import ParentReference

CONTROLLER_NAME = "ambimesh.dev/mesh-controller"
"""Who we are in a route's ``status.parents`` and in a GatewayClass."""


@dataclass(frozen=True, slots=True)
class StatusCondition:
    """One entry of ``conditions``."""

    type: str
    status: bool
    reason: str
    message: str = ""

    def __str__(self) -> str:
        text = f"{self.type}={self.status} ({self.reason})"
        return f"{text}: {self.message}" if self.message else text


@dataclass(frozen=True, slots=True)
class ParentStatus:
    """A route's attachment to one parent, or a BackendTLSPolicy's to one target (the API's ``ancestor``)."""

    parent: ParentReference
    conditions: tuple[StatusCondition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStatus:
    """All that is known."""

    conditions: tuple[StatusCondition, ...] = ()
    parents: tuple[ParentStatus, ...] = ()
    """Of a route: one for each parent that is ours; of a BackendTLSPolicy: one for each Service it targets."""

    def __bool__(self) -> bool:
        return bool(self.conditions or self.parents)


NO_STATUS = ObjectStatus()

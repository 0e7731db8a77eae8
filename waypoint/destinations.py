"""The destinations that this waypoint serves, as the control plane says, and the labels of workloads.

A handler of the xDS client beside ``mesh.state.store``: each resource is taken or refused on its own, and what was good
stays in force. A changed destination is another object, made with the former one at hand, whose connections it takes
over: a request is finished by the routes it began with, and the next one takes the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from mesh.errors import InvalidMessage, MeshError
from mesh.model.waypoint import Destination
from mesh.xds.codec import DESTINATION_TYPE, LABELS_TYPE
from mesh.xds.discovery_codec import Rejected, Resource
from mesh.xds.waypoint_codec import decode_destination, decode_labels

_NO_LABELS: Mapping[str, str] = MappingProxyType({})

Compiled = TypeVar("Compiled")


class Destinations(Generic[Compiled]):
    """What is served, by key. One per process."""

    def __init__(self, waypoint: str) -> None:
        """Start with nothing.

        Args:
            waypoint: ``namespace/name`` of our Gateway; destinations of another one are refused.
        """
        self._waypoint = waypoint
        self._prepare: Callable[[Destination, Compiled | None], Compiled]
        self._labels_changed: Callable[[], None] = _nothing
        self._dropped: Callable[[Compiled], None] = _ignore
        self._by_key: dict[str, Compiled] = {}
        self._by_host: dict[str, Compiled] = {}
        self._hosts: dict[str, tuple[str, ...]] = {}
        self._models: dict[str, Destination] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._answered: set[str] = set()

    def serve_by(
        self,
        prepare: Callable[[Destination, Compiled | None], Compiled],
        labels_changed: Callable[[], None] | None = None,
        dropped: Callable[[Compiled], None] | None = None,
    ) -> None:
        """Say what is made of destinations, before the first one comes.

        Args:
            prepare: makes of a destination what serves it, given what served its former version, so that counters,
                token buckets and health outlive a change of routes. Raises a MeshError if it cannot be served.
            labels_changed: told after labels have.
            dropped: told what served a destination that is this waypoint's no more.
        """
        self._prepare = prepare
        if dropped is not None:
            self._dropped = dropped
        if labels_changed is not None:
            self._labels_changed = labels_changed

    @property
    def synchronized(self) -> bool:
        """Whether the control plane has answered for both types."""
        return self._answered >= {DESTINATION_TYPE, LABELS_TYPE}

    def models(self) -> list[Destination]:
        """What the control plane said, by key."""
        return [self._models[key] for key in sorted(self._models)]

    @property
    def by_key(self) -> Mapping[str, Compiled]:
        """All that is served."""
        return self._by_key

    def get(self, key: str) -> Compiled | None:
        """What serves a service (``namespace/hostname``) or a workload (its uid)."""
        return self._by_key.get(key)

    def at_host(self, host: str) -> Compiled | None:
        """What serves a host name."""
        return self._by_host.get(host)

    def labels_of(self, uid: str) -> Mapping[str, str]:
        """A workload's labels; empty for one that is not known."""
        return self._labels.get(uid, _NO_LABELS)

    # -- mesh.xds.client_driver.ResourceHandler ------------------------------------------------------------------------

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> list[Rejected]:
        """Take one response in."""
        take, drop = (
            (self._take_destination, self._drop_destination)
            if type_url == DESTINATION_TYPE
            else (self._take_labels, self._drop_labels)
        )
        for name in removed:
            drop(name)
        rejected = []
        for resource in updated:
            try:
                take(resource)
            except MeshError as error:
                rejected.append(Rejected(resource.name, str(error)))
        if type_url == LABELS_TYPE:
            self._labels_changed()
        return rejected

    def applied(self, type_url: str) -> None:
        """A whole response is in."""
        self._answered.add(type_url)

    def _take_destination(self, resource: Resource) -> None:
        value = decode_destination(resource.payload)
        if value.waypoint != self._waypoint or resource.name != value.name:
            raise InvalidMessage(
                f"the resource is called {resource.name[:256]!r} but describes {value.key[:256]!r} of waypoint "
                f"{value.waypoint[:256]!r}; this is {self._waypoint}"
            )
        compiled = self._prepare(value, self._by_key.get(value.key))
        self._drop_hosts(value.key)
        self._by_key[value.key] = compiled
        self._models[value.key] = value
        self._hosts[value.key] = value.hosts
        for host in value.hosts:
            self._by_host[host] = compiled

    def _drop_destination(self, name: str) -> None:
        key = name.removeprefix(f"{self._waypoint}|")
        self._models.pop(key, None)
        former = self._by_key.pop(key, None)
        if former is not None:
            self._drop_hosts(key)
            self._dropped(former)

    def _drop_hosts(self, key: str) -> None:
        for host in self._hosts.pop(key, ()):
            self._by_host.pop(host, None)

    def _take_labels(self, resource: Resource) -> None:
        value = decode_labels(resource.payload)
        if resource.name != value.uid:
            raise InvalidMessage(f"the resource {resource.name[:256]!r} describes {value.uid[:256]!r}")
        self._labels[value.uid] = MappingProxyType(dict(value.labels))

    def _drop_labels(self, name: str) -> None:
        self._labels.pop(name, None)


def _nothing() -> None:
    """Nobody is told."""


def _ignore(_former: object) -> None:
    """Nobody is told."""

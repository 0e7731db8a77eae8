"""The state of the mesh, decoded once here and handed to every worker as it came.

What the supervisor's own state refuses, no worker sees. A worker that starts later is sent all that is in force, in the
same form. Updates are numbered; a worker names the last one it has applied in what it reports, so that the supervisor
can tell what was judged by an older state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.state.store import MeshState
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.xds.discovery_codec import Rejected, Resource
from ztunnel.fanout.messages_codec import StateUpdate

_BATCH = 128
"""Resources in one message, as many as the control plane's client applies at a time."""

Send = Callable[[StateUpdate], None]


class SharedState:
    """A ``mesh.xds.client_driver.ResourceHandler``."""

    def __init__(self, state: MeshState, broadcast: Send) -> None:
        """``broadcast`` reaches the workers that were ``replay``ed to."""
        self._state = state
        self._broadcast = broadcast
        # In this order: a workload whose policies are not known is denied, so they come first.
        self._resources: dict[str, dict[str, bytes]] = {AUTHORIZATION_TYPE: {}, ADDRESS_TYPE: {}}
        self._whole: set[str] = set()
        self.version = 0

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
        """See ``ResourceHandler``."""
        rejected = self._state.apply(type_url, updated, removed)
        kept = self._resources.get(type_url)
        if kept is None:
            return rejected
        refused = {each.name for each in rejected}
        good = [(each.name, each.payload) for each in updated if each.name not in refused]
        for name in removed:
            kept.pop(name, None)
        kept.update(good)
        self._tell(StateUpdate(version=self.version + 1, type_url=type_url, updated=good, removed=list(removed)))
        return rejected

    def applied(self, type_url: str) -> None:
        """See ``ResourceHandler``."""
        self._state.applied(type_url)
        if type_url in self._resources and type_url not in self._whole:
            self._whole.add(type_url)
            self._tell(StateUpdate(version=self.version + 1, type_url=type_url, whole=True))

    def _tell(self, update: StateUpdate) -> None:
        self.version = update.version
        self._broadcast(update)

    def replay(self, send: Send) -> None:
        """Send all that is in force to one worker."""
        for type_url, resources in self._resources.items():
            names = list(resources)
            for start in range(0, len(names), _BATCH):
                part = [(name, resources[name]) for name in names[start : start + _BATCH]]
                send(StateUpdate(version=0, type_url=type_url, updated=part))
        for type_url in self._resources:
            send(StateUpdate(version=self.version, type_url=type_url, whole=type_url in self._whole))

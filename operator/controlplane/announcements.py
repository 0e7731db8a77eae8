"""What the operator says to the cluster beside making waypoints: objects' status, events, roots, nodes' taints.

Only where the Kubernetes API is the source, and only by the replica that leads; whom it refuses, every replica says.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from controlplane.ca.authentication import Caller
from controlplane.ca.issuer import Issuer
from controlplane.config import OperatorSettings
from controlplane.kube.happenings_driver import Happenings
from controlplane.kube.node_taint_driver import NodeTaints
from controlplane.kube.node_taints import freed_nodes
from controlplane.kube.status_writer_driver import StatusWriter
from controlplane.kube.trust_bundle import enrolled_namespaces
from controlplane.kube.trust_bundle_driver import TrustBundles
from controlplane.pipeline import Observer
from controlplane.platform import Platform
from controlplane.translate.delta import Delta
from controlplane.translate.translator import Translator
from resources.object_set import ObjectSet


class Announcements:
    """All that is announced."""

    def __init__(
        self, platform: Platform, settings: OperatorSettings, issuer: Issuer, translator: Translator
    ) -> None:
        self._leadership = platform.leadership
        self._namespace = platform.namespace
        self._classes = frozenset(settings.translation().waypoint_classes)
        self._issuer = issuer
        self._translator = translator
        self._bundles: TrustBundles | None = None
        self._statuses: StatusWriter | None = None
        self._happenings: Happenings | None = None
        self._taints: NodeTaints | None = None
        if platform.client is not None:
            self._statuses = StatusWriter(platform.client, platform.source, translator)
            self._happenings = Happenings(
                platform.client, platform.source, translator, platform.namespace, socket.gethostname()
            )
            self._bundles = TrustBundles(platform.client, self._happenings.roots_not_published)
            self._taints = NodeTaints(platform.client)

    @property
    def observers(self) -> tuple[Observer, ...]:
        """To be told of every update."""
        found: list[Callable[[ObjectSet, Delta], None]] = []
        if self._bundles is not None:
            found.append(self._namespaces_changed)
        if self._statuses is not None:
            found.append(self._statuses.update)
        if self._happenings is not None:
            found.append(self._happenings.update)
        if self._taints is not None:
            found.append(self._nodes_changed)
        return tuple(found)

    def roots_changed(self) -> None:
        """The authority signs, or is trusted, by other roots."""
        if self._bundles is not None:
            wanted = enrolled_namespaces(self._translator.objects, self._namespace, self._classes)
            self._bundles.update(self._issuer.roots, wanted)

    def refused(self, caller: Caller, reason: str) -> None:
        """A caller got no certificate."""
        if self._happenings is not None:
            self._happenings.refused(caller, reason)

    async def run(self) -> None:
        """Announce whenever this replica leads; until cancelled."""
        if self._bundles is None or self._statuses is None or self._happenings is None or self._taints is None:
            return
        async with trio.open_nursery() as telling:
            telling.start_soon(self._happenings.run_events)
            while True:
                await self._leadership.wait_until_leads()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._bundles.run)
                    nursery.start_soon(self._statuses.run)
                    nursery.start_soon(self._happenings.run)
                    nursery.start_soon(self._taints.run)
                    await self._leadership.wait_until_follows()
                    nursery.cancel_scope.cancel()

    def _namespaces_changed(self, objects: ObjectSet, delta: Delta) -> None:
        if any(key.kind in ("Namespace", "Gateway") for key in delta.objects):
            self.roots_changed()

    def _nodes_changed(self, objects: ObjectSet, delta: Delta) -> None:
        agents = (key for key in delta.objects if key.kind == "Pod" and key.namespace == self._namespace)
        if self._taints is not None and (any(agents) or any(key.kind == "Node" for key in delta.objects)):
            self._taints.update(freed_nodes(objects, self._namespace))

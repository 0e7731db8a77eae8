"""Takes the taint from nodes whose agent is ready; done by the replica that writes."""

from __future__ import annotations

from typing import Never

import structlog
import trio

from controlplane.kube.node_taints import without_taint
from mesh.errors import MeshError
from resources.kube.client_driver import MERGE, ApiClient, ApiRefused
from resources.kube.kinds import API_KINDS

RETRY_SECONDS = 5.0
_CONFLICT, _GONE = 409, 404
_log = structlog.get_logger("controlplane.nodes")


class NodeTaints:
    """Frees nodes."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._wanted: frozenset[str] = frozenset()
        self._changed = trio.Event()
        self._problems: dict[str, str] = {}

    def update(self, nodes: frozenset[str]) -> None:
        """Which nodes have the taint and should not, as of now."""
        if nodes != self._wanted:
            self._wanted = nodes
            self._changed.set()

    async def run(self) -> Never:
        """Take taints away until cancelled; to be run while this replica leads."""
        while True:
            self._changed = trio.Event()
            for node in sorted(self._wanted):
                await self._free(node)
            # Those that are free now are wanted until the source has seen it; others are tried again.
            with trio.move_on_after(RETRY_SECONDS if self._wanted else float("inf")):
                await self._changed.wait()

    async def _free(self, node: str) -> None:
        kind = API_KINDS["Node"]
        path = kind.path(kind.versions[0], "", node)
        try:
            patch = without_taint(await self._client.get(path))
            if patch is not None:
                await self._client.request("PATCH", path, body=patch, content_type=MERGE)
                _log.info("node_freed", node=node, reason="its agent is ready")
        except MeshError as error:
            # Gone, or changed by somebody else in between: neither is for the log.
            passing = isinstance(error, ApiRefused) and error.status in (_CONFLICT, _GONE)
            if not passing and self._problems.get(node) != str(error):
                self._problems[node] = str(error)
                _log.error("node_not_freed", node=node, error=str(error), effect="it takes no pods; tried again")
        else:
            self._problems.pop(node, None)

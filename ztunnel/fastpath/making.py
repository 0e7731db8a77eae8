"""The fast path of a node, as its settings and its kernel allow."""

from __future__ import annotations

import structlog

from mesh.state.store import MeshState
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import L4Metrics
from ztunnel.config import FastPathGroup
from ztunnel.fastpath.manager import FastPath
from ztunnel.kernel_maps import KernelMaps

_log = structlog.get_logger("fastpath")


def make_fast_path(
    settings: FastPathGroup, maps: KernelMaps, state: MeshState, metrics: L4Metrics, access_log: AccessLog
) -> FastPath | None:
    """The one writer of the kernel's verdicts; None, and no verdict holds, when it is switched off."""
    if not settings.enabled:
        maps.fast_path.stop(splice=False)
        return None
    splice = settings.splice and maps.abilities.splice
    _log.info("same-node fast path is on", splice=splice)
    return FastPath(maps.fast_path, state, metrics, access_log, splice=splice)

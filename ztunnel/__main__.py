"""``python -m ztunnel --config FILE``."""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mesh.errors import MeshError
from mesh.tls.suites import use_mesh_configuration

if TYPE_CHECKING:
    from ztunnel.config import ZtunnelSettings

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT = 8 << 20


def main() -> int:
    """Start ztunnel; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ztunnel", description="The node proxy of ambimesh.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see ztunnel/config.py")
    arguments = parser.parse_args()
    _prepare_process()
    # Imported only now: OpenSSL reads its configuration when it is first loaded, and modules that the compiled form
    # replaces must not have been imported before it is chosen.
    from mesh import compiled

    compiled.choose()
    from mesh import config
    from ztunnel.config import ZtunnelSettings
    from ztunnel.cores import number_of_workers

    status = 0
    try:
        settings = config.load(arguments.config, ZtunnelSettings)
        workers = number_of_workers(settings.workers)
        if workers == 1:
            _be_everything(settings)
        else:
            _be_one_of_several(settings, workers)
    except* MeshError as group:
        for error in group.exceptions:
            print(f"ztunnel: {error}", file=sys.stderr)  # noqa: T201 -- the command line's answer
        status = 1
    return status


def _be_everything(settings: ZtunnelSettings) -> None:
    import trio

    from ztunnel.app import run

    trio.run(run, settings)


def _be_one_of_several(settings: ZtunnelSettings, workers: int) -> None:
    """Fork, and be what this process has become."""
    # All that workers need is imported before the fork, and the collector kept off it, so that its pages stay shared.
    import trio

    from ztunnel.supervisor.app import run_supervisor
    from ztunnel.supervisor.spawner import SpawnerHandle, WorkerStart, fork_spawner
    from ztunnel.worker.app import run_worker

    gc.collect()
    gc.freeze()
    become = fork_spawner()
    if isinstance(become, SpawnerHandle):
        trio.run(run_supervisor, settings, become, workers)
    elif isinstance(become, WorkerStart):
        trio.run(run_worker, settings, become)


def _prepare_process() -> None:
    """What must be so before the libraries load."""
    use_mesh_configuration()
    # structlog loads rich, if it is there, for coloured tracebacks that a node proxy never prints: 7 MB on every node.
    sys.modules["rich"] = None  # type: ignore[assignment]
    # It loads asyncio, too, for loggers that are used from there: 2.5 MB. An empty stand-in does while it loads.
    sys.modules["asyncio"] = ModuleType("asyncio")
    import structlog  # noqa: F401

    del sys.modules["asyncio"]
    # OpenSSL's and the relay's buffers of some hundred KiB come and go with every turn. By default the C library maps
    # and unmaps memory for each, and the page faults cost bulk traffic some ten percent.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


if __name__ == "__main__":
    sys.exit(main())

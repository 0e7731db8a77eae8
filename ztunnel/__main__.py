"""``python -m ztunnel --config FILE``."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import MeshError, leaves
from mesh.process import prepare_proxy

if TYPE_CHECKING:
    from ztunnel.config import ZtunnelSettings


def main() -> int:
    """Start ztunnel; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ztunnel", description="The node proxy of ambimesh.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see ztunnel/config.py")
    arguments = parser.parse_args()
    prepare_proxy()
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
        for error in leaves(group):
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


if __name__ == "__main__":
    sys.exit(main())

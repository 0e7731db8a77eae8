"""``python -m waypoint --config FILE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mesh.errors import MeshError, leaves
from mesh.process import prepare_proxy


def main() -> int:
    """Start a waypoint; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m waypoint", description="A layer-7 proxy of ambimesh.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see waypoint/config.py")
    arguments = parser.parse_args()
    prepare_proxy()
    # Imported only now: OpenSSL reads its configuration when it is first loaded, and modules that the compiled form
    # replaces must not have been imported before it is chosen.
    from mesh import compiled

    compiled.choose()
    import trio

    from mesh import config
    from waypoint.app import run
    from waypoint.config import WaypointSettings

    status = 0
    try:
        trio.run(run, config.load(arguments.config, WaypointSettings))
    except* MeshError as group:
        for error in leaves(group):
            print(f"waypoint: {error}", file=sys.stderr)  # noqa: T201 -- the command line's answer
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

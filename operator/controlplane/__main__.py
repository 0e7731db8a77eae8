"""``python -m controlplane --config FILE``."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

import msgspec
import trio

from controlplane.app import run
from controlplane.config import KubernetesGroup, OperatorSettings, SourceGroup
from mesh import config
from mesh.errors import MeshError, leaves
from mesh.telemetry import log


def main(arguments: list[str] | None = None) -> int:
    """Run the operator; the exit status is 1 when it cannot run, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m controlplane", description="The mesh's operator.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration file (YAML)")
    parser.add_argument(
        "--source",
        choices=["kubernetes"],
        help="kubernetes: read the Kubernetes API, whatever source the file names",
    )
    chosen = parser.parse_args(arguments)
    failed = False
    try:
        settings = config.load(chosen.config, OperatorSettings)
        if chosen.source == "kubernetes" and settings.source.kubernetes is None:
            settings = msgspec.structs.replace(settings, source=SourceGroup(kubernetes=KubernetesGroup()))
        log.configure(settings.log.format, settings.log.level)
        trio.run(functools.partial(run, settings))
    except* MeshError as group:
        for error in leaves(group):
            sys.stderr.write(f"operator: {error}\n")
        failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The node agent: ``python -m cni --config FILE [uninstall]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import trio

from cni.agent import app
from cni.agent.configuration import AgentSettings
from mesh.config import load
from mesh.errors import MeshError
from mesh.telemetry import log


def main(arguments: list[str] | None = None) -> int:
    """Run the agent, or take it off the node; 1 with a line on standard error when it cannot."""
    parser = argparse.ArgumentParser(prog="python -m cni", description="The ambimesh node agent.")
    parser.add_argument("--config", type=Path, required=True, help="the agent's YAML file")
    parser.add_argument("action", nargs="?", choices=["run", "uninstall"], default="run")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.config, AgentSettings)
        log.configure(settings.log.format, settings.log.level)
        trio.run(app.uninstall if options.action == "uninstall" else app.run, settings)
    except MeshError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except BaseExceptionGroup as group:
        cause = _only_cause(group)
        if cause is None:
            raise
        sys.stderr.write(f"{cause}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _only_cause(group: BaseExceptionGroup[BaseException]) -> MeshError | None:
    """The one MeshError a nursery wrapped; None when something else is in it, which is a bug to be shown whole."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found if isinstance(found, MeshError) else None


if __name__ == "__main__":
    sys.exit(main())

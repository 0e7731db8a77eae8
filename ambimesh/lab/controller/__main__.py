"""``python -m ambimesh.lab.controller --config FILE``: the stand-in for scheduler and controllers."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import trio

from ambimesh.lab.controller.driver import run_controllers
from ambimesh.lab.daemon import until_told_to_stop
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.settings import ControllerSettings
from mesh import config
from mesh.telemetry import log


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(prog="ambimesh.lab.controller")
    parser.add_argument("--config", type=Path, required=True)
    settings = config.load(parser.parse_args().config, ControllerSettings)
    log.configure(settings.log.format, settings.log.level)
    layout = LabLayout.named(settings.lab, settings.state_root)
    nodes = [node.name for node in layout.nodes(settings.nodes)]
    trio.run(until_told_to_stop, partial(run_controllers, layout.cluster, nodes, layout.tokens))


if __name__ == "__main__":
    main()

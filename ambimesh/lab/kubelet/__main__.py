"""``python -m ambimesh.lab.kubelet --config FILE``: the stand-in for one node's kubelet and kube-proxy."""

from __future__ import annotations

import argparse
from pathlib import Path

import trio

from ambimesh.lab.daemon import until_told_to_stop
from ambimesh.lab.kubelet.node import Node
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.settings import KubeletSettings
from mesh import config
from mesh.telemetry import log


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(prog="ambimesh.lab.kubelet")
    parser.add_argument("--config", type=Path, required=True)
    settings = config.load(parser.parse_args().config, KubeletSettings)
    log.configure(settings.log.format, settings.log.level)
    layout = LabLayout.named(settings.lab, settings.state_root)
    node = Node(layout, layout.node(settings.node), settings.cgroup)
    trio.run(until_told_to_stop, node.run)


if __name__ == "__main__":
    main()

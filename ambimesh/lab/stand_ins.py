"""How the lab's own daemons are started: what stands in for Kubernetes, and knows nothing of the mesh."""

from __future__ import annotations

import sys
from pathlib import Path

from ambimesh.lab.processes import ProcessSpec
from ambimesh.lab.record import Lab
from ambimesh.lab.settings import ControllerSettings, KubeletSettings
from mesh.config import Settings

CONTROLLER = "controller"


def kubelet_name(node: str) -> str:
    """The process name of a node's kubelet stand-in."""
    return f"kubelet-{node}"


def stand_ins(lab: Lab) -> list[tuple[ProcessSpec, Settings]]:
    """Each daemon with the settings its configuration file holds."""
    layout = lab.layout
    controller = ControllerSettings(lab=layout.name, state_root=layout.state_root, nodes=lab.record.nodes)
    cgroup = lab.cgroup / "control" / CONTROLLER
    process = _daemon(lab, CONTROLLER, "ambimesh.lab.controller", layout.control_netns, cgroup)
    found: list[tuple[ProcessSpec, Settings]] = [(process, controller)]
    for node in lab.nodes:
        cgroup = lab.node_cgroup(node)
        settings = KubeletSettings(lab=layout.name, state_root=layout.state_root, node=node.index, cgroup=cgroup)
        name = kubelet_name(node.name)
        found.append((_daemon(lab, name, "ambimesh.lab.kubelet", node.netns, cgroup / "kubelet"), settings))
    return found


def _daemon(lab: Lab, name: str, module: str, netns: Path, cgroup: Path) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-m", module, "--config", str(lab.layout.config / f"{name}.yaml")),
        netns=str(netns),
        cgroup=str(cgroup),
    )

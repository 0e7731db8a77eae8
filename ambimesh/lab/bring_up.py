"""Bringing a lab up: the order of things, and their undoing when one fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import trio
import yaml

from ambimesh.lab import cgroups, fabric, mesh_processes, preflight, record
from ambimesh.lab.layout import MAX_NODES, LabLayout, NodeLayout
from ambimesh.lab.mesh_processes import Planned
from ambimesh.lab.processes import Processes, ProcessSpec
from ambimesh.lab.programs import run
from ambimesh.lab.readiness import READY_SECONDS, wait_for_process
from ambimesh.lab.record import DEFAULT_CERTIFICATE_SECONDS, Lab, LabRecord, ProcessSettings
from ambimesh.lab.stand_ins import stand_ins
from ambimesh.lab.take_down import take_down
from mesh.errors import ConfigurationError, MeshError
from resources.base import ObjectMeta
from resources.folder_store import FolderStore
from resources.objects import Namespace

_PROGRAMS_BYTES = 256 << 20
"""At most, for the plugins of all nodes; what is not used is not taken."""
_NAMESPACES = ("default", "kube-system", "istio-system", "ambimesh-system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What lab is asked for."""

    layout: LabLayout
    nodes: int = 2
    mesh: bool = True
    """Whether the mesh's processes run in it; without, pods talk to one another as in any cluster."""
    certificate_lifetime_seconds: int = DEFAULT_CERTIFICATE_SECONDS
    workers: int | Literal["auto"] | None = None
    """Processes of each ztunnel that move bytes; None leaves it to ztunnel's own default."""
    settings: ProcessSettings = ProcessSettings()  # noqa: RUF009 -- frozen


async def bring_up(wish: Wish, step: Callable[[str], None]) -> Lab:
    """Make a lab and start its processes; on failure nothing of it stays.

    Args:
        wish: the lab.
        step: told what is being done.

    Raises:
        ConfigurationError: there is a lab of this name already, or the wish makes no sense.
        EnvironmentLacks: the machine lacks something, or a process failed (its last log lines are in the message).
    """
    if not 1 <= wish.nodes <= MAX_NODES:
        raise ConfigurationError(f"a lab has 1 to {MAX_NODES} nodes, not {wish.nodes}")
    preflight.load_bridge_filter()
    preflight.require(preflight.checks(wish.mesh))
    layout = wish.layout
    if layout.root.exists():
        raise ConfigurationError(
            f"there is a lab {layout.name} already; look at it: ambimesh lab status; remove it: ambimesh lab down"
        )
    cgroup = cgroups.find_hierarchy() / layout.name
    lab = Lab(
        layout,
        LabRecord(
            name=layout.name,
            nodes=wish.nodes,
            mesh=wish.mesh,
            cgroup=str(cgroup),
            certificate_lifetime_seconds=wish.certificate_lifetime_seconds,
            workers=wish.workers,
            settings=wish.settings,
        ),
    )
    try:
        await _build(lab, step)
    except BaseException as failure:
        with trio.CancelScope(shield=True):
            try:
                await take_down(lab, lambda _: None)
            except MeshError as error:
                failure.add_note(f"and cleaning up: {error}")
        raise
    return lab


async def _build(lab: Lab, step: Callable[[str], None]) -> None:
    layout = lab.layout
    step("making namespaces and links")
    layout.root.mkdir(parents=True)
    record.write(lab)
    for folder in (layout.config, layout.logs / "pods", layout.pids, layout.tokens, layout.namespaces, layout.cluster):
        folder.mkdir(parents=True)
    layout.tokens.chmod(0o700)
    layout.programs.mkdir()
    await run(["mount", "-t", "tmpfs", "-o", f"mode=0755,size={_PROGRAMS_BYTES}", "programs", str(layout.programs)])
    for node in lab.nodes:
        lay_out_node(node)
        (lab.node_cgroup(node) / "pods").mkdir(parents=True)
    await fabric.build(layout, lab.nodes)
    store = FolderStore(layout.cluster)
    for name in _NAMESPACES:
        store.apply(Namespace(metadata=ObjectMeta(name=name)))
    planned = [Planned(spec, msgspec.to_builtins(settings, enc_hook=str)) for spec, settings in stand_ins(lab)]
    if lab.record.mesh:
        step("mounting the BPF filesystem")
        layout.bpffs.mkdir()
        await run(["mount", "-t", "bpf", "bpf", str(layout.bpffs)])
        await _start_mesh(lab, [one.spec for one in planned], step)
    step("starting controllers and kubelets")
    await _start(lab, planned)


async def _start_mesh(lab: Lab, stand_ins: Sequence[ProcessSpec], step: Callable[[str], None]) -> None:
    """The mesh's processes in the order in which they need one another, each kind ready before the next starts."""
    # The agents mark the kubelets' cgroups, so these have to be there before their processes are.
    for spec in stand_ins:
        Path(spec.cgroup).mkdir(parents=True, exist_ok=True)
    step("starting the operator")
    await _start(lab, [mesh_processes.operator_process(lab, mesh_processes.make_tokens(lab))])
    step("starting agents: compiling and loading eBPF programs")
    plugin = await mesh_processes.find_plugin(lab)
    for node in lab.nodes:
        (lab.node_cgroup(node) / "ztunnel").mkdir(parents=True)
    await _start(lab, [mesh_processes.agent_process(lab, node, plugin) for node in lab.nodes])
    step("starting ztunnels")
    await _start(lab, [mesh_processes.ztunnel_process(lab, node) for node in lab.nodes])


async def _start(lab: Lab, planned: Sequence[Planned]) -> None:
    """Start processes beside one another and wait until all of them are ready."""
    processes = Processes(lab.layout)
    for one in planned:
        file = lab.layout.config / f"{one.spec.name}.yaml"
        file.write_text(yaml.safe_dump(one.settings, sort_keys=False))
        Path(one.spec.cgroup).mkdir(parents=True, exist_ok=True)
        await processes.start(one.spec)
    for one in planned:
        await wait_for_process(processes, one.spec, READY_SECONDS)


def lay_out_node(node: NodeLayout) -> None:
    """Make a node's folders and its CNI configuration: bridge and host-local, as a cluster's administrator would."""
    for folder in (node.cni_config, node.cni_programs, node.run, node.pods):
        folder.mkdir(parents=True)
    (node.cni_config / "10-lab.conflist").write_text(json.dumps(network_configuration(node), indent=2) + "\n")


def network_configuration(node: NodeLayout) -> dict[str, object]:
    """The conflist of a node: a bridge that is the pods' gateway, with addresses of both families."""
    return {
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "isDefaultGateway": True,
                # A pod may reach itself by way of a Service address.
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(node.root / "ipam"),
                    "ranges": [[{"subnet": node.pods_ipv4}], [{"subnet": node.pods_ipv6}]],
                },
            }
        ],
    }

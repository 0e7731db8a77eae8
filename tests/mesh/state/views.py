"""The state of the mesh as a test has it."""

from __future__ import annotations

from mesh.model.service import Service
from mesh.model.workload import Workload
from mesh.state.store import MeshState


def state_of(*values: Workload | Service) -> MeshState:
    """What a proxy on node1 knows when it has been told of these."""
    made = MeshState("node1")
    for value in values:
        if isinstance(value, Workload):
            made.services.replace_endpoint(made.workloads.put(value), value)
        else:
            made.services.put(value)
    return made

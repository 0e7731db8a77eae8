"""Asking a node's ztunnel what it works from, at its admin port in the node's namespace."""

from __future__ import annotations

from ambimesh.dump_codec import ADMIN_PORT, Dump, body_of, read_dump
from ambimesh.lab.http_client import get
from ambimesh.lab.record import Lab
from mesh.errors import ConfigurationError


async def ask(lab: Lab, node: str, path: str, method: str = "GET") -> bytes:
    """What the admin port of a node's ztunnel answers.

    Raises:
        ConfigurationError: the lab runs without the mesh.
        ConnectFailed: ztunnel does not answer.
        InvalidMessage: it refuses; the message holds why.
    """
    if not lab.record.mesh:
        raise ConfigurationError(f"lab {lab.layout.name} runs without the mesh: there is no ztunnel in it")
    answer = await get(lab.node(node).netns, ADMIN_PORT, path, method=method, timeout=10.0)
    return body_of(f"ztunnel of {node}", f"{method} {path}", answer.status, answer.body)


async def fetch(lab: Lab, node: str) -> Dump:
    """The ``/config_dump`` of a node's ztunnel.

    Raises:
        InvalidMessage: its answer is not a dump.
        MeshError: as :func:`ask`.
    """
    return read_dump(await ask(lab, node, "/config_dump"), f"ztunnel of {node} answered 200 and")

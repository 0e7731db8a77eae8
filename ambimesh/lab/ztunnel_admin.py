"""Asking a node's ztunnel what it works from, at its admin port in the node's namespace."""

from __future__ import annotations

from typing import Any

import msgspec

from ambimesh.lab.http_client import get
from ambimesh.lab.mesh_processes import ZTUNNEL_ADMIN_PORT
from ambimesh.lab.record import Lab
from mesh.errors import ConfigurationError, InvalidMessage

Dump = dict[str, Any]
"""``/config_dump``: lists of flat objects by section."""


async def ask(lab: Lab, node: str, path: str, method: str = "GET") -> bytes:
    """What the admin port of a node's ztunnel answers.

    Raises:
        ConfigurationError: the lab runs without the mesh.
        ConnectFailed: ztunnel does not answer.
        InvalidMessage: it refuses; the message holds why.
    """
    if not lab.record.mesh:
        raise ConfigurationError(f"lab {lab.layout.name} runs without the mesh: there is no ztunnel in it")
    answer = await get(lab.node(node).netns, ZTUNNEL_ADMIN_PORT, path, method=method, timeout=10.0)
    if answer.status != 200:
        said = answer.body[:200].decode(errors="replace")
        raise InvalidMessage(f"ztunnel of {node} answered {answer.status} to {method} {path}: {said}")
    return answer.body


async def fetch(lab: Lab, node: str) -> Dump:
    """The ``/config_dump`` of a node's ztunnel.

    Raises:
        InvalidMessage: its answer is not a dump.
        MeshError: as :func:`ask`.
    """
    body = await ask(lab, node, "/config_dump")
    try:
        dump = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidMessage(f"ztunnel of {node} answered 200 and no JSON: {body[:100]!r}") from error
    if not isinstance(dump, dict):
        raise InvalidMessage(f"ztunnel of {node} answered 200 and no object: {body[:100]!r}")
    return dump

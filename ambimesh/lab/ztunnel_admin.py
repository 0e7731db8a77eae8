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


async def fetch(lab: Lab, node: str) -> Dump:
    """The ``/config_dump`` of a node's ztunnel.

    Raises:
        ConfigurationError: the lab runs without the mesh.
        ConnectFailed: ztunnel does not answer.
        InvalidMessage: its answer is not a dump.
    """
    if not lab.record.mesh:
        raise ConfigurationError(f"lab {lab.layout.name} runs without the mesh: there is no ztunnel in it")
    answer = await get(lab.node(node).netns, ZTUNNEL_ADMIN_PORT, "/config_dump", timeout=10.0)
    try:
        dump = msgspec.json.decode(answer.body)
    except msgspec.DecodeError as error:
        said = f"{answer.status} and no JSON: {answer.body[:100]!r}"
        raise InvalidMessage(f"ztunnel of {node} answered {said}") from error
    if answer.status != 200 or not isinstance(dump, dict):
        raise InvalidMessage(f"ztunnel of {node} answered {answer.status} to /config_dump")
    return dump

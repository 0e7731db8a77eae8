"""What is remembered of an installation, in the cluster itself: a ConfigMap in the mesh's namespace. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ambimesh.install.planning import Key
from mesh.errors import ConfigurationError

NAME = "ambimesh-installation"
MANAGER = "ambimesh"


class Worked(msgspec.Struct, frozen=True, kw_only=True):
    """The last installation of which everything came up."""

    version: str
    values: dict[str, Any]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An installation made by ``ambimesh install``.

    Fields that are not known are passed over: who goes back to an older version reads what a newer one wrote.
    """

    version: str
    """Of the chart."""
    values: dict[str, Any]
    """That differ from the chart's own: kept by an upgrade."""
    objects: list[Key]
    """What was applied, in its order."""
    complete: bool
    """Whether everything came up."""
    worked: Worked | None = None
    """What to go back to while this is not complete."""


def to_object(record: Record, namespace: str) -> dict[str, Any]:
    """The ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "ambimesh", "app.kubernetes.io/managed-by": MANAGER},
        },
        "data": {"record.json": msgspec.json.encode(record).decode()},
    }


def from_object(value: dict[str, Any]) -> Record:
    """Read the ConfigMap.

    Raises:
        ConfigurationError: somebody else has written it, or another version.
    """
    try:
        return msgspec.json.decode(value.get("data", {}).get("record.json", ""), type=Record)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"ConfigMap {NAME} is not as this version of ambimesh writes it: {error}; remedy: use the version that "
            "installed the mesh, or delete the ConfigMap and install anew"
        ) from error


def make(
    version: str, values: dict[str, Any], keys: Iterable[Key], *, complete: bool, before: Record | None = None
) -> Record:
    """A record of what was applied, after the one before it."""
    worked = None if complete else last_working(before)
    return Record(version=version, values=values, objects=list(keys), complete=complete, worked=worked)


def last_working(record: Record | None) -> Worked | None:
    """What an installation can go back to; None if nothing has ever come up."""
    if record is not None and record.complete:
        return Worked(version=record.version, values=record.values)
    return None if record is None else record.worked

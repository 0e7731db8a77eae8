"""A pod as the agent sees it, whatever the source of pods is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ebpf.pods import FastPathUse
from mesh.addresses import IpBytes
from mesh.errors import InvalidValue

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class PodName(NamedTuple):
    """Namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """One pod of this node."""

    uid: str
    """Checked by ``checked_uid``: it names files and pinned objects."""
    namespace: str
    name: str
    service_account: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[IpBytes, ...] = ()
    """Empty until the pod has been given some."""
    fast_path: FastPathUse = FastPathUse.AUTOMATIC
    """By its annotation or its namespace's."""
    host_network: bool = False
    leaving: bool = False
    """It is being deleted; its processes may still run."""
    ended: bool = False
    """It has run to its end, and its processes are gone."""

    @property
    def key(self) -> PodName:
        """Namespace and name."""
        return PodName(self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """The pods of this node and the labels of all namespaces, at one moment."""

    serial: int = 0
    """Grows with every change; 0 is the empty view before the first reading."""
    complete: bool = False
    """No object of the source is unreadable. Absence from a view that is not complete means nothing."""
    pods: Mapping[PodName, PodFacts] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name to labels."""


def checked_uid(uid: str) -> str:
    """The uid, when it can safely be part of a file name.

    Raises:
        InvalidValue: it cannot.
    """
    if not _UID.fullmatch(uid):
        raise InvalidValue(f"{uid[:64]!r} is no pod uid: letters, digits, '.', '_', '-', at most 128 of them")
    return uid

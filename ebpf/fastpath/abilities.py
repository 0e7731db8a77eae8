"""What the loader found this kernel able to do for the fast path, as it left it in the map ``metadata``."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ebpf.layout import ABILITY_SPLICE, Metadata
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths
from mesh.errors import EnvironmentLacks


@dataclass(frozen=True, slots=True)
class Abilities:
    """The outcome of the self-test."""

    splice: bool
    """Payload may go past TCP, with bounded queues. Without, fast connections are plain TCP."""


def read_abilities(paths: PinPaths) -> Abilities:
    """Of the programs that are loaded.

    Raises:
        EnvironmentLacks: none are, or loading has not come to its end.
    """
    with PinnedMap(paths, "metadata", ctypes.c_uint32, Metadata) as metadata:
        value = metadata.get(ctypes.c_uint32(0))
    if value is None or value.abi_version == 0:
        raise EnvironmentLacks("the node's programs are being loaded")
    return Abilities(bool(value.abilities & ABILITY_SPLICE))

"""Counters of the programs by reason, and how full the maps are."""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass
from pathlib import Path

from ebpf import syscall
from ebpf.layout import MAPS
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths
from ebpf.reasons import Reason
from mesh.closing import Closing

_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
_NOT_SIZED = frozenset(
    {"connections", "counters", "metadata", "fast_state", "fast_generations", "fast_talkers", "listener_turns"}
)


def possible_cpus(text: str) -> int:
    """How many values a per-CPU element has: one more than the last number of ``0-3`` or ``0,2-7``."""
    return int(text.strip().replace(",", "-").split("-")[-1]) + 1


class Counters(Closing):
    """The counters of one node's programs, since they were first loaded.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def __init__(self, paths: PinPaths) -> None:
        self._map = PinnedMap(paths, "counters", ctypes.c_uint32, ctypes.c_uint64)
        self._values = struct.Struct(f"={possible_cpus(_POSSIBLE_CPUS.read_text(encoding='ascii'))}Q")

    def close(self) -> None:
        """Close the map."""
        self._map.close()

    def read(self) -> dict[Reason, int]:
        """All counters, summed over CPUs. Segments are counted, so a SYN sent again counts again."""
        return {reason: self._read(reason) for reason in Reason}

    def _read(self, reason: Reason) -> int:
        key = ctypes.c_uint32(reason)
        values = ctypes.create_string_buffer(self._values.size)
        arguments = struct.pack("=IIQQQ", self._map.fd, 0, ctypes.addressof(key), ctypes.addressof(values), 0)
        result = syscall.call(syscall.MAP_LOOKUP, arguments)
        if result == -errno.ENOENT:
            return 0  # a reason newer than the pinned map
        if result < 0:
            syscall.fail(-result, "reading counters")
        return sum(self._values.unpack(values.raw))


@dataclass(frozen=True, slots=True)
class MapUsage:
    """How full one map is."""

    name: str
    entries: int
    capacity: int

    @property
    def nearly_full(self) -> bool:
        """Whether nine tenths are used."""
        return self.entries * 10 >= self.capacity * 9


def map_usage(paths: PinPaths) -> list[MapUsage]:
    """The use of every sized map; costs a walk through them (milliseconds when tens of thousands of entries are there).

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """
    usages: list[MapUsage] = []
    for name, layout in MAPS.items():
        if name in _NOT_SIZED:
            continue
        with PinnedMap(paths, name, layout.key, layout.value) as table:
            usages.append(MapUsage(name, table.count(), table.capacity))
    return usages

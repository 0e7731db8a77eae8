"""A pinned map as a typed table.

Every opener compares the map's key and value sizes with the mirror in ``ebpf.layout``. Objects are not safe for use by
two threads at once: the argument block of the system call is made once and used again.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Generic, TypeVar

from ebpf import syscall
from ebpf.layout import MAPS
from ebpf.paths import PinPaths
from mesh.closing import Closing
from mesh.errors import InternalError

Key = TypeVar("Key", bound="ctypes.Structure | ctypes.c_uint32 | ctypes.c_uint64 | ctypes.c_int")
Value = TypeVar("Value", bound="ctypes.Structure | ctypes.c_uint32 | ctypes.c_uint64 | ctypes.c_int")


class _ElementAttributes(ctypes.Structure):
    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class _BatchAttributes(ctypes.Structure):
    _fields_ = (
        ("in_batch", ctypes.c_uint64),
        ("out_batch", ctypes.c_uint64),
        ("keys", ctypes.c_uint64),
        ("values", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("map_fd", ctypes.c_uint32),
        ("element_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


_BATCH = 4096


class PinnedMap(Closing, Generic[Key, Value]):
    """One pinned map.

    Raises:
        EnvironmentLacks: it is not pinned there.
        InternalError: its sizes are not those of the mirror.
    """

    def __init__(self, paths: PinPaths, name: str, key: type[Key], value: type[Value]) -> None:
        layout = MAPS[name]
        if layout.key is not key or layout.value is not value:
            raise InternalError(f"map {name} holds {layout.key.__name__} -> {layout.value.__name__}")
        self.name = name
        self.fd = syscall.require_pin(paths.maps / name)
        self._key_type = key
        self._value_type = value
        self._attributes = _ElementAttributes(map_fd=self.fd)
        self._block = (ctypes.c_char * ctypes.sizeof(self._attributes)).from_buffer(self._attributes)
        info = syscall.map_info(self.fd)
        if (info.key_size, info.value_size) != (ctypes.sizeof(key), ctypes.sizeof(value)):
            self.close()
            raise InternalError(
                f"pinned map {paths.maps / name}: {info.key_size} and {info.value_size} bytes, "
                f"expected {ctypes.sizeof(key)} and {ctypes.sizeof(value)}"
            )

    def close(self) -> None:
        """Close the descriptor; the map lives on in bpffs."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._attributes.map_fd = 0xFFFFFFFF  # the number may be another file's soon

    def _run(self, command: int, key: Key | None, value: Key | Value | None, flags: int = 0) -> int:
        attributes = self._attributes
        attributes.key = ctypes.addressof(key) if key is not None else 0
        attributes.value = ctypes.addressof(value) if value is not None else 0
        attributes.flags = flags
        return syscall.call(command, self._block)

    def get(self, key: Key) -> Value | None:
        """The value of a key; None if there is none."""
        value = self._value_type()
        result = self._run(syscall.MAP_LOOKUP, key, value)
        if result == -errno.ENOENT:
            return None
        if result < 0:
            syscall.fail(-result, f"reading map {self.name}")
        return value

    def set(self, key: Key, value: Value) -> None:
        """Write a value.

        Raises:
            ConfigurationError: the map is full.
        """
        result = self._run(syscall.MAP_UPDATE, key, value)
        if result < 0:
            syscall.fail(-result, f"writing map {self.name}")

    def remove(self, key: Key) -> bool:
        """Delete a key. False if it was not there."""
        result = self._run(syscall.MAP_DELETE, key, None)
        if result == -errno.ENOENT:
            return False
        if result < 0:
            syscall.fail(-result, f"deleting from map {self.name}")
        return True

    def __iter__(self) -> Iterator[Key]:
        """All keys. A key that is deleted while this runs may make it begin again, so bound it by the map's size."""
        key: Key | None = None
        for _ in range(self.capacity + 1):
            following = self._key_type()
            result = self._run(syscall.MAP_NEXT_KEY, key, following)
            if result == -errno.ENOENT:
                return
            if result < 0:
                syscall.fail(-result, f"listing map {self.name}")
            yield following
            key = following

    def items(self) -> Iterator[tuple[Key, Value]]:
        """All entries; those that vanish meanwhile are left out."""
        for key in list(self):
            value = self.get(key)
            if value is not None:
                yield key, value

    def records(self, *, take: bool = False) -> list[tuple[bytes, bytes]]:
        """All entries as they are in memory, read in batches: some tenths of a microsecond each.

        Args:
            take: delete what is read.
        """
        key_size, value_size = ctypes.sizeof(self._key_type), ctypes.sizeof(self._value_type)
        keys = ctypes.create_string_buffer(_BATCH * key_size)
        values = ctypes.create_string_buffer(_BATCH * value_size)
        cursor = ctypes.create_string_buffer(max(8, key_size))
        attributes = _BatchAttributes(
            out_batch=ctypes.addressof(cursor),
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(values),
            map_fd=self.fd,
        )
        block = (ctypes.c_char * ctypes.sizeof(attributes)).from_buffer(attributes)
        command = syscall.MAP_LOOKUP_AND_DELETE_BATCH if take else syscall.MAP_LOOKUP_BATCH
        found: list[tuple[bytes, bytes]] = []
        while True:
            attributes.count = _BATCH
            result = syscall.call(command, block)
            if result not in (0, -errno.ENOENT):
                syscall.fail(-result, f"reading map {self.name}")
            size = int(attributes.count)
            key_bytes = ctypes.string_at(keys, size * key_size)
            value_bytes = ctypes.string_at(values, size * value_size)
            found += [
                (key_bytes[i * key_size : (i + 1) * key_size], value_bytes[i * value_size : (i + 1) * value_size])
                for i in range(size)
            ]
            if result == -errno.ENOENT:
                return found
            attributes.in_batch = ctypes.addressof(cursor)

    @property
    def capacity(self) -> int:
        """How many entries fit."""
        return syscall.map_info(self.fd).max_entries

    def count(self) -> int:
        """How many entries there are, by batches where the map's type allows them."""
        keys = ctypes.create_string_buffer(_BATCH * ctypes.sizeof(self._key_type))
        values = ctypes.create_string_buffer(_BATCH * ctypes.sizeof(self._value_type))
        # The cursor is a key for some types and a bucket number for others.
        cursor = ctypes.create_string_buffer(max(8, ctypes.sizeof(self._key_type)))
        attributes = _BatchAttributes(
            out_batch=ctypes.addressof(cursor),
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(values),
            map_fd=self.fd,
        )
        block = (ctypes.c_char * ctypes.sizeof(attributes)).from_buffer(attributes)
        total = 0
        while True:
            attributes.count = _BATCH
            result = syscall.call(syscall.MAP_LOOKUP_BATCH, block)
            if result in (-errno.EOPNOTSUPP, -524):  # 524 is the kernel's own ENOTSUPP
                return sum(1 for _ in self)
            if result not in (0, -errno.ENOENT):
                syscall.fail(-result, f"counting map {self.name}")
            total += int(attributes.count)
            if result == -errno.ENOENT:
                return total
            attributes.in_batch = ctypes.addressof(cursor)

"""The bpf file system: told from others, mounted where it is missing, and locked while programs are changed."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.errors import EnvironmentLacks

_LIBC = ctypes.CDLL(None, use_errno=True)
_UNMOUNT_LAZILY = 2


def is_bpffs(path: Path) -> bool:
    """Whether this folder is the mount point of a bpf file system."""
    resolved = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            fields, _, rest = line.partition(" - ")
            point = fields.split()[4].replace("\\040", " ")
            if point == resolved and rest.split()[0] == "bpf":
                return True
    return False


def mount_bpffs(path: Path) -> None:
    """Mount a bpf file system, made with its folder if need be; nothing happens if one is mounted there.

    Raises:
        EnvironmentLacks: not permitted, or the kernel has none.
    """
    path.mkdir(parents=True, exist_ok=True)
    if is_bpffs(path):
        return
    if _LIBC.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") != 0:
        code = ctypes.get_errno()
        raise EnvironmentLacks(f"cannot mount a bpf file system at {path}: {os.strerror(code)}; run as root")


def unmount_bpffs(path: Path) -> None:
    """Unmount; what was pinned there only is released. Nothing happens if none is mounted.

    Raises:
        EnvironmentLacks: not permitted.
    """
    if is_bpffs(path) and _LIBC.umount2(os.fsencode(path), _UNMOUNT_LAZILY) != 0:
        code = ctypes.get_errno()
        raise EnvironmentLacks(f"cannot unmount the bpf file system at {path}: {os.strerror(code)}; run as root")


def require_bpffs(path: Path) -> None:
    """Check that pins at this path will be kept by the kernel.

    Raises:
        EnvironmentLacks: it is no bpf file system.
    """
    if not is_bpffs(path):
        raise EnvironmentLacks(f"{path} is not a bpf file system; mount one: mount -t bpf bpf {path}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock against other processes that load or detach the same node's programs."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

"""bpf(2), typed: the few commands that the mesh uses on maps, links, programs and pins.

Everything here is a thin call on file descriptors. Failures that have a meaning for callers (no such element, the pin
exists not) are return values; all others are translated to ``mesh.errors`` with the likely cause.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mesh.errors import ConfigurationError, EnvironmentLacks, InternalError, MeshError

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_BPF = _SYSCALL_NUMBERS.get(os.uname().machine, 280)

# Commands, enum bpf_cmd of linux/bpf.h.
MAP_LOOKUP = 1
MAP_UPDATE = 2
MAP_DELETE = 3
MAP_NEXT_KEY = 4
PROGRAM_LOAD = 5
OBJECT_PIN = 6
OBJECT_GET = 7
PROGRAM_ATTACH = 8
PROGRAM_TEST_RUN = 10
OBJECT_INFO = 15
MAP_LOOKUP_BATCH = 24
MAP_LOOKUP_AND_DELETE_BATCH = 25
LINK_CREATE = 28
LINK_UPDATE = 29
LINK_DETACH = 34

# enum bpf_prog_type and enum bpf_attach_type.
PROGRAM_SCHED_CLS = 3
PROGRAM_SOCK_OPS = 13
PROGRAM_SK_MSG = 16
PROGRAM_CGROUP_SOCK_ADDR = 18
PROGRAM_CGROUP_SOCKOPT = 25
PROGRAM_SK_LOOKUP = 30
ATTACH_SOCK_OPS = 3
ATTACH_SK_MSG = 7
ATTACH_INET4_CONNECT = 10
ATTACH_INET6_CONNECT = 11
ATTACH_SETSOCKOPT = 22
ATTACH_INET4_GETPEERNAME = 29
ATTACH_INET6_GETPEERNAME = 30
ATTACH_INET4_GETSOCKNAME = 31
ATTACH_INET6_GETSOCKNAME = 32
ATTACH_SK_LOOKUP = 36


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map; sizes in bytes."""

    kind: int
    key_size: int
    value_size: int
    max_entries: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of a link. A link whose target is gone has target 0."""

    program_id: int
    cgroup_id: int
    """For a link to a cgroup."""
    netns_inode: int
    """For a link to a network namespace."""


def call(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """One bpf(2). Returns its result, or minus errno."""
    block = ctypes.create_string_buffer(attributes, len(attributes)) if isinstance(attributes, bytes) else attributes
    return prepared(block)(command)


def prepared(attributes: ctypes.Array[ctypes.c_char]) -> Callable[[int], int]:
    """:func:`call` for one block that is used again and again, as its owner has filled it: less work for each call."""
    reference, size, syscall = ctypes.byref(attributes), len(attributes), _LIBC.syscall

    def call_with(command: int) -> int:
        result: int = syscall(_BPF, command, reference, size)
        return result if result >= 0 else -ctypes.get_errno()

    return call_with


def fail(code: int, what: str) -> NoReturn:
    """Raise the error that this errno of bpf(2) means.

    Args:
        code: a positive errno.
        what: what was tried, for the message.
    """
    raise translate(code, what) from OSError(code, os.strerror(code))


def translate(code: int, what: str) -> MeshError:
    """The error that this errno of bpf(2) means."""
    name = errno.errorcode.get(code, str(code))
    if code == errno.EPERM:
        return EnvironmentLacks(f"{what}: {name}: run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN")
    if code in (errno.ENOSPC, errno.E2BIG):
        return ConfigurationError(f"{what}: {name}: the map is full; raise its size in map_sizes and load afresh")
    if code == errno.ENOMEM:
        return EnvironmentLacks(f"{what}: {name}: no kernel memory; look at RLIMIT_MEMLOCK and cgroup limits")
    if code == errno.ENOENT:
        return EnvironmentLacks(f"{what}: {name}: not there; have the node's programs been loaded from this bpffs?")
    if code in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
        return EnvironmentLacks(f"{what}: {name}: the kernel does not take it; run `ambimesh check` for what it lacks")
    return InternalError(f"{what}: {name}: {os.strerror(code)}")


# -- pins ------------------------------------------------------------------------------------------------------------


def pin(fd: int, path: Path) -> None:
    """Give an object a name in bpffs. Raises like ``fail``; InternalError (EEXIST) if the name is taken."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    result = call(OBJECT_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))
    if result < 0:
        fail(-result, f"pinning {path}")


def open_pin(path: Path) -> int | None:
    """A new descriptor of a pinned object, which the caller closes; None if nothing is pinned there."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    result = call(OBJECT_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))
    if result == -errno.ENOENT:
        return None
    if result < 0:
        fail(-result, f"opening {path}")
    return result


def require_pin(path: Path) -> int:
    """A new descriptor of a pinned object.

    Raises:
        EnvironmentLacks: nothing is pinned there.
    """
    fd = open_pin(path)
    if fd is None:
        fail(errno.ENOENT, f"opening {path}")
    return fd


# -- information -----------------------------------------------------------------------------------------------------


def _info(fd: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    result = call(OBJECT_INFO, struct.pack("=IIQ", fd, size, ctypes.addressof(buffer)))
    if result < 0:
        fail(-result, "asking the kernel about a BPF object")
    return buffer.raw


def map_info(fd: int) -> MapInfo:
    """Type and sizes of a map."""
    kind, _, key_size, value_size, max_entries = struct.unpack_from("=IIIII", _info(fd, 80))
    return MapInfo(kind, key_size, value_size, max_entries)


def link_info(fd: int) -> LinkInfo:
    """Program and target of a link."""
    raw = _info(fd, 32)
    (program_id,) = struct.unpack_from("=I", raw, 8)
    (cgroup_id,) = struct.unpack_from("=Q", raw, 16)
    (netns_inode,) = struct.unpack_from("=I", raw, 16)
    return LinkInfo(program_id, cgroup_id, netns_inode)


def program_id(fd: int) -> int:
    """The kernel's number of a loaded program."""
    return int(struct.unpack_from("=I", _info(fd, 16), 4)[0])


# -- links -----------------------------------------------------------------------------------------------------------


def create_link(program: int, target: int, attach_type: int, what: str) -> int:
    """Attach a program to a cgroup or network namespace (its descriptor). Returns the link's descriptor."""
    result = call(LINK_CREATE, struct.pack("=IIII", program, target, attach_type, 0))
    if result < 0:
        fail(-result, f"attaching {what}")
    return result


def update_link(link: int, program: int) -> bool:
    """Put another program into a link, without a moment in between. False if the link's target is gone."""
    result = call(LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0))
    if result in (-errno.ENOLINK, -errno.EINVAL, -errno.ENOENT):
        return False
    if result < 0:
        fail(-result, "replacing a program in its link")
    return True


def attach_to_map(program: int, sockets: int) -> None:
    """Let a program judge what the sockets of a sockhash send; those entered before keep theirs. Ends with the map."""
    result = call(PROGRAM_ATTACH, struct.pack("=IIII", sockets, program, ATTACH_SK_MSG, 0))
    if result < 0:
        fail(-result, "attaching a program to a map of sockets")


def detach_link(link: int) -> None:
    """Detach at once, whoever else holds the link. A link that is detached already stays so."""
    result = call(LINK_DETACH, struct.pack("=I", link))
    if result < 0 and result != -errno.ENOLINK:
        fail(-result, "detaching a link")


# -- programs --------------------------------------------------------------------------------------------------------

# r0 = 1; exit
_TRIVIAL_PROGRAM = struct.pack("=BBhi", 0xB7, 0, 0, 1) + struct.pack("=BBhi", 0x95, 0, 0, 0)


def load_trivial_program(program_type: int, attach_type: int) -> int:
    """Load ``return 1``: a probe of what the kernel offers. Returns a descriptor, or minus errno."""
    code = ctypes.create_string_buffer(_TRIVIAL_PROGRAM, len(_TRIVIAL_PROGRAM))
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        program_type,
        len(_TRIVIAL_PROGRAM) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        0,
        0,
        0,
        0,
        0,
        b"mesh_probe",
        0,
        attach_type,
    )
    return call(PROGRAM_LOAD, attributes)

"""Whether this kernel's splice does what the fast path needs, tried on two sockets of this process.

Part of the loader's child process (``python -m ebpf.loader selftest`` does nothing else): what is compiled and attached
here ends with it. The kernel must deliver what is
spliced, in order with TCP, charge it to the receiver's queue until it is read, and hold in the fields that the programs
read (by offsets from its type information) what they are taken for. That includes how a socket's owner waits.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
from pathlib import Path
from typing import Any

from ebpf import syscall
from ebpf.listeners import socket_cookie
from mesh.errors import EnvironmentLacks

_SOURCE = Path(__file__).resolve().parent / "programs" / "selftest.bpf.c"
_BULK = 200_000
_SECONDS = 5.0
_OWNERS = [1, 2, 1, 3]
"""``OWNER_*`` of ``programs/owners.h``, as ``_owners`` is to find them."""


class _Noted(ctypes.Structure):
    """``struct noted`` of the program."""

    _fields_ = (
        ("cookie", ctypes.c_uint64),
        ("bytes_acked", ctypes.c_uint64),
        ("rmem_alloc", ctypes.c_uint32),
        ("rcvlowat", ctypes.c_uint32),
        ("write_seq", ctypes.c_uint32),
        ("copied_seq", ctypes.c_uint32),
        ("snd_una", ctypes.c_uint32),
        ("owner", ctypes.c_uint32),
        ("owned", ctypes.c_uint32),
        ("other_owned", ctypes.c_uint32),
        ("zero", ctypes.c_uint32),
    )


def run_selftest(bcc: Any, flags: list[str]) -> None:
    """Try it out, in some tenths of a second.

    Args:
        bcc: the module.
        flags: the compiler's, with the offsets.

    Raises:
        EnvironmentLacks: the splice is not to be used here; the text says what was wrong.
    """
    try:
        module = bcc.BPF(src_file=os.fsencode(_SOURCE), cflags=[f"-I{_SOURCE.parent}", *flags])
        program = module.load_func(b"selftest_sk_msg", syscall.PROGRAM_SK_MSG)
    except Exception as error:
        raise EnvironmentLacks(f"the kernel refused the program that tries it: {error}") from error
    sockets = bcc.lib.bpf_table_fd(module.module, b"sockets")
    syscall.attach_to_map(program.fd, sockets)
    # The loader runs in the node's own network namespace, whose programs do not concern two sockets of loopback.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = socket.create_connection(listener.getsockname(), _SECONDS)
        second, _ = listener.accept()
    with first, second:
        second.settimeout(_SECONDS)
        for number, sock in ((1, first), (2, second)):
            _enter(sockets, number, sock)
        try:
            _converse(module, first, second)
        except OSError as error:
            raise EnvironmentLacks(f"two spliced sockets did not get on: {error}") from error


def _enter(sockets: int, number: int, sock: socket.socket) -> None:
    key, value = ctypes.c_uint32(number), ctypes.c_uint32(sock.fileno())
    result = syscall.call(
        syscall.MAP_UPDATE, struct.pack("=IIQQQ", sockets, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
    )
    if result < 0:
        raise EnvironmentLacks(f"a socket cannot be entered in a sockhash: {os.strerror(-result)}")


def _converse(module: Any, first: socket.socket, second: socket.socket) -> None:
    # The kernel makes a cookie when it is first asked for one.
    source, cookie = socket_cookie(first.fileno()), socket_cookie(second.fileno())
    by_tcp, spliced = os.urandom(1000), os.urandom(_BULK)
    first.sendall(by_tcp)
    _expect(second, by_tcp)
    module[b"splicing_from"][ctypes.c_int(0)] = ctypes.c_uint64(source)
    first.sendall(spliced)
    full = _note(module, second, first)
    _expect(second, spliced)
    empty = _note(module, second, first)
    module[b"splicing_from"][ctypes.c_int(0)] = ctypes.c_uint64(0)
    last = _note(module, first, second)
    owners = _owners(module, second, first)
    for wrong, what in (
        (full.cookie != cookie, "sk_cookie"),
        (full.rmem_alloc < _BULK or full.rmem_alloc > 3 * _BULK, "sk_rmem_alloc, with data waiting"),
        (empty.rmem_alloc >= _BULK, "sk_rmem_alloc, after reading"),
        (full.rcvlowat > 1, "sk_rcvlowat"),
        (empty.write_seq != (full.write_seq + 1) & 0xFFFFFFFF, "write_seq"),
        (empty.copied_seq != full.copied_seq, "copied_seq: the splice changes it"),
        (last.write_seq != empty.copied_seq, "write_seq and copied_seq of two ends"),
        (last.bytes_acked not in (len(by_tcp), len(by_tcp) + 1), "bytes_acked"),  # one more: the SYN
        (last.snd_una != last.write_seq, "snd_una"),
        ((empty.owned, empty.other_owned) != (1, 0), "sk_lock.owned, of who sends and of who does not"),
        (owners != _OWNERS, f"O_NONBLOCK and epoll sets: {owners}"),
    ):
        if wrong:
            raise EnvironmentLacks(f"this kernel does not keep count of spliced data as the program expects ({what})")


def _owners(module: Any, sender: socket.socket, receiver: socket.socket) -> list[int]:
    """How the program says that a socket's owner waits: not in the kernel, there, by levels, by edges."""
    found = [_note(module, sender, receiver).owner]
    sender.settimeout(None)
    found.append(_note(module, sender, receiver).owner)
    sender.settimeout(_SECONDS)
    with select.epoll() as levels, select.epoll() as edges:
        levels.register(sender.fileno(), select.EPOLLIN)
        found.append(_note(module, sender, receiver).owner)
        edges.register(sender.fileno(), select.EPOLLIN | select.EPOLLET)
        found.append(_note(module, sender, receiver).owner)
    return found


def _note(module: Any, sender: socket.socket, receiver: socket.socket) -> _Noted:
    """Let a socket say one byte by TCP; what the program noted before."""
    sender.sendall(b"n")
    _expect(receiver, b"n")
    return _read(module)


def _read(module: Any) -> _Noted:
    return _Noted.from_buffer_copy(bytes(module[b"noted"][ctypes.c_int(0)]))


def _expect(sock: socket.socket, data: bytes) -> None:
    received = b""
    while len(received) < len(data):
        part = sock.recv(1 << 20)
        if not part:
            break
        received += part
    if received != data:
        raise EnvironmentLacks("spliced data did not arrive as they were sent")

"""Run one program inside namespaces and a cgroup: ``launch.py JSON``.

This file is executed by path with ``python -I -S`` and imports the standard library only, because it runs once per
container, probe and CNI plugin, and importing more would cost more than the program it starts.

It is not ``ip netns exec``, which mounts a fresh ``/sys`` and so hides the cgroup and BPF filesystems. The order
matters: the cgroup first (its path may be unreachable later), then the namespaces, then the program.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any, NoReturn

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_SLAVE = 1 << 19

EXIT_CANNOT_RUN = 126
EXIT_NOT_FOUND = 127
"""What a shell answers for a command that cannot be executed, and for one that is not there (POSIX 2.8.2)."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _enter(spec: dict[str, Any]) -> None:
    if spec.get("cgroup"):
        with open(f"{spec['cgroup']}/cgroup.procs", "w", encoding="ascii") as procs:
            procs.write("0")
    if spec.get("netns"):
        descriptor = os.open(spec["netns"], os.O_RDONLY | os.O_CLOEXEC)
        _checked(_libc.setns(descriptor, _CLONE_NEWNET), f"cannot enter {spec['netns']}")
        os.close(descriptor)
    if spec.get("hosts"):
        _checked(_libc.unshare(_CLONE_NEWNS), "cannot make a mount namespace")
        # Slave, not private: an unmount of /run/netns/... outside must reach us, or we would keep that namespace alive.
        _checked(_libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None), "cannot change mount propagation")
        source = os.fsencode(spec["hosts"])
        _checked(_libc.mount(source, b"/etc/hosts", None, _MS_BIND, None), "cannot mount /etc/hosts")
    if spec.get("hostname"):
        _checked(_libc.unshare(_CLONE_NEWUTS), "cannot make a UTS namespace")
        name = os.fsencode(spec["hostname"])
        _checked(_libc.sethostname(name, len(name)), "cannot set the host name")


def _become_daemon(spec: dict[str, Any]) -> None:
    """Continue in a child with a session of its own; the parent records the child and ends."""
    child = os.fork()
    if child:
        with open(f"/proc/{child}/stat", encoding="ascii", errors="replace") as stat:
            start_time = int(stat.read().rpartition(")")[2].split()[19])
        temporary = spec["pid_file"] + ".new"
        with open(temporary, "w", encoding="ascii") as record:
            json.dump({"pid": child, "start_time": start_time}, record)
        os.rename(temporary, spec["pid_file"])
        os._exit(0)
    os.setsid()
    nothing = os.open("/dev/null", os.O_RDONLY)
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def main() -> None:
    """Read the one argument and become the program it names.

    Keys: ``argv``; optional ``cgroup`` (folder), ``netns`` (path), ``hosts`` (file to show as /etc/hosts),
    ``hostname``, ``environment`` (the whole environment), ``cwd``, ``pid_file`` and ``log`` (both: become a daemon).
    """
    spec = json.loads(sys.argv[1])
    argv = spec["argv"]
    try:
        _enter(spec)
        if spec.get("pid_file"):
            _become_daemon(spec)
        os.chdir(spec.get("cwd", "/"))
    except FileNotFoundError as error:
        _give_up(argv, f"no {error.filename}", EXIT_NOT_FOUND)
    except OSError as error:
        _give_up(argv, str(error), EXIT_CANNOT_RUN)
    # Python ignores SIGPIPE; a program started by a container runtime finds the default.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, spec.get("environment", os.environ))
    except FileNotFoundError:
        _give_up(argv, "not found", EXIT_NOT_FOUND)
    except OSError as error:
        _give_up(argv, str(error), EXIT_CANNOT_RUN)


def _give_up(argv: list[str], why: str, status: int) -> NoReturn:
    sys.stderr.write(f"cannot start {argv[0]!r}: {why}\n")
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()

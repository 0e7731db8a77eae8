"""What ``ps`` shows, and whose death ends whom."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

from mesh.errors import EnvironmentLacks

SUPERVISOR: Final = "ztunnel"
SPAWNER: Final = "ztunnel-spawner"

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15


def worker_name(number: int) -> str:
    """Of a worker's process; at most 15 characters, which is all the kernel keeps."""
    return f"ztunnel-work-{number}"


def name_process(name: str) -> None:
    """Let ``ps`` show this name (``comm``) for the calling process."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def end_with(parent: int) -> None:
    """Have the kernel kill this process as soon as its parent ends, however it ends.

    Args:
        parent: the parent's id, as it was when this process was forked.

    Raises:
        EnvironmentLacks: it has ended already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise EnvironmentLacks("the process that started this one has ended")

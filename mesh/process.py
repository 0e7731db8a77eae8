"""What a process that carries traffic sets up for itself: libraries, memory, descriptors, the garbage collector."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from types import ModuleType

from mesh.tls.suites import use_mesh_configuration

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT = 8 << 20
_GC_YOUNG = 20_000
"""Allocations between two collections. Connections are freed by their reference counts; the collector finds only rare
cycles, and walking tens of thousands of live objects often would show in latencies."""


def prepare_proxy() -> None:
    """What must be so before the libraries load: to be called before anything else is imported."""
    use_mesh_configuration()
    # structlog loads rich, if it is there, for coloured tracebacks that a proxy never prints: 7 MB of each.
    sys.modules["rich"] = None  # type: ignore[assignment]
    # It loads asyncio, too, for loggers that are used from there: 2.5 MB. An empty stand-in does while it loads.
    sys.modules["asyncio"] = ModuleType("asyncio")
    import structlog  # noqa: F401

    del sys.modules["asyncio"]
    # OpenSSL's and the relay's buffers of some hundred KiB come and go with every turn. By default the C library maps
    # and unmaps memory for each, and the page faults cost bulk traffic some ten percent.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def collect_rarely() -> None:
    """Let the garbage collector run seldom."""
    gc.set_threshold(_GC_YOUNG, 50, 50)


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as the machine lets it; returns how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

"""What a process that carries traffic sets up for itself: libraries, memory, descriptors, the garbage collector."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

from mesh.errors import EnvironmentLacks
from mesh.tls.suites import use_mesh_configuration

_LIBC = ctypes.CDLL(None)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_KEPT = 8 << 20
_GC_YOUNG = 20_000
"""Allocations between two collections. Connections are freed by their reference counts; the collector finds only rare
cycles, and walking tens of thousands of live objects often would show in latencies."""


_OF_ASYNCIO: Final = ("asyncio",)
"""structlog has loggers that are used from there: 2.5 MB."""
_OF_SERVERS: Final = ("http.server", "socketserver", "urllib.request", "wsgiref", "wsgiref.simple_server")
"""prometheus_client can serve and push pages by itself, with the standard library's servers and clients: 1.3 MB."""


def prepare_proxy() -> None:
    """What must be so before the libraries load: to be called before anything else is imported."""
    use_mesh_configuration()
    # structlog loads rich, if it is there, for coloured tracebacks that a proxy never prints: 7 MB of each.
    sys.modules["rich"] = None  # type: ignore[assignment]
    with _without(_OF_ASYNCIO):
        import structlog  # noqa: F401
    with _without(_OF_SERVERS):
        import prometheus_client  # noqa: F401
    if hasattr(_LIBC, "mallopt"):
        # OpenSSL's and the relay's buffers of some hundred KiB come and go with every turn. By default the C library
        # maps and unmaps memory for each, and the page faults cost bulk traffic some ten percent.
        _LIBC.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        _LIBC.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        # Threads of this process take turns anyway, and an arena for each holds free what the others could use.
        _LIBC.mallopt(_M_ARENA_MAX, 1)


class _Absent(ModuleType):
    """Stands in for a module while those that never use it load: each name in it is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Whatever imports these modules meanwhile gets stand-ins; whoever does later gets the modules."""
    stand_ins = {name: _Absent(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def release() -> str:
    """The release that is running, as its installation calls it.

    What ``importlib.metadata`` answers, without the parsers of mail and archives that it loads: 0.9 MB.

    Raises:
        EnvironmentLacks: it is not installed.
    """
    for folder in sys.path:
        for found in Path(folder or ".").glob("ambimesh-*.dist-info"):
            return found.name.removeprefix("ambimesh-").removesuffix(".dist-info")
    raise EnvironmentLacks("ambimesh is not installed for this Python (no ambimesh-*.dist-info in its path)")


QUIET_SECONDS: Final = 5.0
"""Without a connection for so long a process is at rest."""


class Rest:
    """Has the C library give back the memory that a process does not need when it is at rest.

    It keeps what was freed for the next to come, up to some megabytes, and after a start or a load nothing may come for
    long.
    """

    def __init__(self, now: float) -> None:
        self._busy_at = now
        self._done = False

    def tick(self, now: float, *, busy: bool) -> bool:
        """Once per second, monotonic; returns whether memory was given back.

        Args:
            now: monotonic seconds.
            busy: there are connections, or have been since the last tick.
        """
        if busy:
            self._busy_at = now
            self._done = False
        elif not self._done and now - self._busy_at >= QUIET_SECONDS:
            self._done = True
            if hasattr(_LIBC, "malloc_trim"):
                _LIBC.malloc_trim(0)
            return True
        return False


def collect_rarely() -> None:
    """Let the garbage collector run seldom."""
    gc.set_threshold(_GC_YOUNG, 50, 50)


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as the machine lets it; returns how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

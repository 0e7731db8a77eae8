"""``python -m ztunnel --config FILE``."""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path
from types import ModuleType

from mesh.errors import MeshError
from mesh.tls.suites import use_mesh_configuration

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT = 8 << 20


def main() -> int:
    """Start ztunnel; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ztunnel", description="The node proxy of ambimesh.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see ztunnel/config.py")
    arguments = parser.parse_args()
    _prepare_process()
    # Imported only now: OpenSSL reads its configuration when it is first loaded, and modules that the compiled form
    # replaces must not have been imported before it is chosen.
    from mesh import compiled

    compiled.choose()
    import trio

    from mesh import config
    from ztunnel.app import run
    from ztunnel.config import ZtunnelSettings

    status = 0
    try:
        trio.run(run, config.load(arguments.config, ZtunnelSettings))
    except* MeshError as group:
        for error in group.exceptions:
            print(f"ztunnel: {error}", file=sys.stderr)  # noqa: T201 -- the command line's answer
        status = 1
    return status


def _prepare_process() -> None:
    """What must be so before the libraries load."""
    use_mesh_configuration()
    # structlog loads rich, if it is there, for coloured tracebacks that a node proxy never prints: 7 MB on every node.
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


if __name__ == "__main__":
    sys.exit(main())

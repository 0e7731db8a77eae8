"""The command line of ``python -m cni.installer``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import trio

from cni.installer.driver import Installation, Look, install_once, keep_installed, uninstall_once
from mesh.errors import MeshError
from mesh.telemetry import log


def run(arguments: list[str] | None = None) -> int:
    """Install (waiting until there is a configuration to chain into), keep installed, or uninstall."""
    parser = argparse.ArgumentParser(prog="python -m cni.installer", description="Chain ambimesh-cni into a CNI.")
    parser.add_argument("action", choices=["install", "uninstall"])
    parser.add_argument("--net-dir", type=Path, default=Path("/etc/cni/net.d"), help="default %(default)s")
    parser.add_argument("--bin-dir", type=Path, default=Path("/opt/cni/bin"), help="default %(default)s")
    parser.add_argument("--binary", type=Path, help="the built plugin to copy into --bin-dir")
    parser.add_argument("--agent-socket", type=Path, default=Path("/run/ambimesh/cni.sock"), help="default %(default)s")
    parser.add_argument("--watch", action="store_true", help="with install: stay, and repair when others rewrite it")
    options = parser.parse_args(arguments)
    log.configure("text", "info")
    installation = Installation(
        net_directory=options.net_dir,
        binary_directory=options.bin_dir,
        binary=options.binary,
        agent_socket=options.agent_socket,
    )
    try:
        if options.action == "uninstall":
            uninstall_once(installation)
        elif options.watch or install_once(installation) is None:
            trio.run(_install, installation, options.watch)
    except MeshError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _install(installation: Installation, stay: bool) -> None:
    with trio.CancelScope() as scope:

        def report(look: Look) -> None:
            if look.path is not None and not stay:
                scope.cancel()

        await keep_installed(installation, report)


if __name__ == "__main__":
    sys.exit(run())

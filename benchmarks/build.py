"""Compiles the load generator."""

from __future__ import annotations

from pathlib import Path

from ambimesh.lab.programs import run

SOURCE = Path(__file__).parent / "load" / "rr.c"
TARGET = Path(__file__).parent.parent / ".build" / "bin" / "rr"


async def build_rr() -> Path:
    """Compile ``rr`` if its source is newer than it.

    Raises:
        EnvironmentLacks: gcc is not installed or refuses.
    """
    if not TARGET.is_file() or TARGET.stat().st_mtime <= SOURCE.stat().st_mtime:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        await run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(TARGET), str(SOURCE)])
    return TARGET

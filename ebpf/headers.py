"""Kernel headers for bcc's compiler.

The programs use stable interfaces only, so headers of any near kernel version serve, not just the running one's.
Debian splits them into an architecture package and a ``-common`` one; bcc wants one folder, so ``merge_headers`` makes
one of symbolic links. ``python -m ebpf.headers TARGET`` does it from the command line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from mesh.errors import EnvironmentLacks, MeshError

SOURCES = Path("/usr/src")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_REMEDY = "install them (Debian: linux-headers-cloud-amd64 or linux-headers-amd64), then run python -m ebpf.headers"
_MARKER = Path("include/linux/kconfig.h")


def merge_headers(target: Path, sources: Path = SOURCES) -> Path:
    """Make one folder of symbolic links of the newest pair of Debian header packages.

    Args:
        target: replaced if it exists.
        sources: where the packages are installed.

    Returns:
        The target.

    Raises:
        EnvironmentLacks: no such pair is installed.
    """
    pair = _newest_pair(sources)
    if pair is None:
        raise EnvironmentLacks(f"no kernel headers in {sources}; {_REMEDY}")
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _merge(unfinished, pair)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return target


def _newest_pair(sources: Path) -> list[Path] | None:
    """The architecture folder and the common one, newest version first."""
    architecture = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    found: list[tuple[list[int], Path, Path]] = []
    for common in sources.glob("linux-headers-*-common"):
        stem = common.name.removesuffix("common")
        for folder in sources.glob(f"{stem}*{architecture}"):
            version = [int(number) for number in re.findall(r"\d+", stem)]
            found.append((version, folder, common))
    if not found:
        return None
    _, folder, common = max(found, key=lambda item: (item[0], item[1].name))
    return [folder, common]


def _merge(target: Path, folders: list[Path]) -> None:
    target.mkdir(parents=True)
    owners: dict[str, list[Path]] = {}
    for folder in folders:
        for entry in folder.iterdir():
            owners.setdefault(entry.name, []).append(entry)
    for name, entries in owners.items():
        if len(entries) > 1 and all(entry.is_dir() for entry in entries):
            _merge(target / name, entries)
        else:
            (target / name).symlink_to(entries[0])


def find_headers() -> Path:
    """The headers to compile with.

    Looked for in this order: ``BCC_KERNEL_SOURCE``, this checkout's ``.build/kernel-headers``, the running kernel's.

    Raises:
        EnvironmentLacks: none of them is there; the message names the places looked at.
    """
    candidates = [
        Path(__file__).resolve().parent.parent / ".build" / "kernel-headers",
        Path("/lib/modules") / os.uname().release / "build",
    ]
    if named := os.environ.get("BCC_KERNEL_SOURCE"):
        candidates.insert(0, Path(named))
    for candidate in candidates:
        if (candidate / _MARKER).exists():
            return candidate
    places = ", ".join(str(candidate) for candidate in candidates)
    raise EnvironmentLacks(f"no kernel headers at {places}; {_REMEDY}")


def main(arguments: list[str]) -> int:
    """Run ``merge_headers`` for the command line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m ebpf.headers TARGET\n")
        return 2
    try:
        target = merge_headers(Path(arguments[0]))
    except MeshError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

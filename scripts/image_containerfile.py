"""Builds a Containerfile with buildah on a machine that reaches no registry, and tries what came out.

The base that a Containerfile names is an image of Debian's; here one is made of debootstrap's root, with this machine's
apt settings. Everything else is the Containerfile's: its steps, its user, its environment, its entry point. buildah
works in a chroot and copies layers whole, so that it needs neither a daemon nor a kernel's overlay.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BASE = "localhost/debian-base"
PACKAGE = "buildah"


class Buildah:
    """Images in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        """Begin with none.

        Raises:
            SystemExit: buildah is not there.
        """
        program = shutil.which("buildah")
        if program is None:
            raise SystemExit(f"image: no buildah; remedy: apt-get install --no-install-recommends {PACKAGE}")
        store = ["--root", str(folder / "storage"), "--runroot", str(folder / "storage-run")]
        self._command = [program, *store, "--storage-driver", "vfs"]
        self._log = folder / "buildah.log"
        self._folder = folder

    def base(self, root: Path, files: Sequence[Path]) -> None:
        """Make the base image of a root file system, with files of this machine at their places."""
        container = self._run("from", "scratch").strip()
        self._run("add", container, str(root), "/")
        for file in files:
            self._run("add", container, str(file), str(file))
        self._run("commit", "--rm", container, BASE)

    def build(self, containerfile: Path, context: Path, tag: str) -> None:
        """Build a Containerfile as it stands."""
        steps = ["--isolation", "chroot", "--network", "host", "--build-arg", f"BASE={BASE}", "--pull-never"]
        self._run("build", *steps, "-t", tag, "-f", str(containerfile), str(context))

    def settings(self, tag: str) -> dict[str, Any]:
        """What an image says of how it is run."""
        found: dict[str, Any] = json.loads(self._run("inspect", "--type", "image", tag))["OCIv1"]["config"]
        return found

    def mounted(self, tag: str) -> Path:
        """An image's file system, to look at and to run things in."""
        return Path(self._run("mount", self._run("from", "--pull-never", tag).strip()).strip())

    def forget(self) -> None:
        """Take everything away."""
        self._run("umount", "--all")
        self._run("rm", "--all")
        self._run("rmi", "--all", "--force")
        shutil.rmtree(self._folder / "storage", ignore_errors=True)
        shutil.rmtree(self._folder / "storage-run", ignore_errors=True)

    def _run(self, *arguments: str) -> str:
        ran = subprocess.run([*self._command, *arguments], capture_output=True, text=True)
        with self._log.open("a") as log:
            log.write(f"$ buildah {' '.join(arguments)}\n{ran.stdout}{ran.stderr}")
        if ran.returncode:
            end = "\n".join((ran.stdout + ran.stderr).splitlines()[-20:])
            raise SystemExit(f"image: buildah {arguments[0]} ended with {ran.returncode}:\n{end}")
        return ran.stdout


def differences(settings: dict[str, Any], wished: dict[str, Any]) -> list[str]:
    """What an image says otherwise than the archive of the same component does."""
    found = [
        f"{key}: {settings.get(key)!r} instead of {value!r}"
        for key, value in wished.items()
        if key != "Env" and settings.get(key) != value
    ]
    missing = set(wished["Env"]) - set(settings.get("Env") or ())
    return found + [f"Env lacks {each}" for each in sorted(missing)]

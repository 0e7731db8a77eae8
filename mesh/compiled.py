"""Which form of the hot modules this process runs: compiled by mypyc, or the Python they are written in.

Theory of operation. What a proxy does for every connection and every message is compiled from the very modules one
reads here (``scripts/compile_hot.py``, run by ``make setup``); the compiled form lies in a folder outside the packages,
beside a manifest. :func:`choose`, called before any of those modules is imported, puts a finder in front of Python's
own that answers for exactly the compiled modules.

An edited checkout never runs stale code: compiled modules call one another, and have constants and types of the modules
they import built in. So the manifest holds the digest of each compiled source and of every source of ours that these
import, directly or not; if one of them differs, or the interpreter does, all modules run in their pure form and the
log says why. There is no mixture.

:data:`VARIABLE` in the environment is ``off`` to force the pure form, or another folder to take the compiled form from;
an image sets it to wherever its build put them.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

VARIABLE = "AMBIMESH_COMPILED"
OFF = "off"
MANIFEST = "manifest.json"
SOURCES = Path(__file__).resolve().parents[1]
"""The folder that holds the packages."""
FOLDER = SOURCES / ".build" / "compiled"


@dataclass(frozen=True, slots=True)
class Form:
    """What runs, for logs and people."""

    compiled: bool
    detail: str
    """Where the compiled form comes from, or why it is not used."""

    @property
    def name(self) -> str:
        """In a word."""
        return "compiled" if self.compiled else "pure"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a build has made."""

    interpreter: str
    files: Mapping[str, str]
    """Extension modules by import name, relative to the folder."""
    sources: Mapping[str, str]
    """SHA-256 of each source it was made from, relative to the folder of the packages."""


class Unusable(Exception):
    """The compiled form cannot be used; the text says why, and what to do."""


def interpreter() -> str:
    """What extension modules depend on."""
    return f"{sys.implementation.cache_tag} {platform.python_version()} {importlib.machinery.EXTENSION_SUFFIXES[0]}"


def digest(file: Path) -> str:
    """Of a source, as in the manifest."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_manifest(folder: Path, sources: Path = SOURCES) -> Manifest:
    """The manifest of a folder whose contents match this interpreter and these sources.

    Raises:
        Unusable: they do not.
    """
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        manifest = Manifest(content["interpreter"], dict(content["files"]), dict(content["sources"]))
    except FileNotFoundError:
        raise Unusable(f"nothing is compiled in {folder}: run make setup") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{folder / MANIFEST} cannot be read ({error!r}): run make setup") from error
    if manifest.interpreter != interpreter():
        raise Unusable(f"compiled for {manifest.interpreter}, this is {interpreter()}: run make setup")
    for name, expected in manifest.sources.items():
        try:
            same = digest(sources / name) == expected
        except OSError:
            same = False
        if not same:
            raise Unusable(f"{name} has changed since it was compiled: run make setup")
    for name in manifest.files.values():
        if not (folder / name).is_file():
            raise Unusable(f"{folder / name} is missing: run make setup")
    return manifest


class CompiledFinder(importlib.abc.MetaPathFinder):
    """Finds the compiled modules, and nothing else."""

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self._files = {name: str(folder / file) for name, file in files.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Python's question to each finder in turn."""
        file = self._files.get(fullname)
        if file is None:
            return None
        loader = importlib.machinery.ExtensionFileLoader(fullname, file)
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


_form = Form(compiled=False, detail="this process has not asked for it")


def current() -> Form:
    """What this process runs."""
    return _form


def examine(environment: Mapping[str, str] = os.environ) -> Form:
    """What a process started now would run; changes nothing."""
    try:
        folder, _ = _usable(environment)
    except Unusable as error:
        return Form(compiled=False, detail=str(error))
    return Form(compiled=True, detail=str(folder))


def choose(environment: Mapping[str, str] = os.environ) -> Form:
    """Use the compiled form in this process, if it can be used. OpenSSL starts here, for its digests."""
    global _form
    try:
        folder, manifest = _usable(environment)
        early = _imported(manifest.files)
        if early:
            raise Unusable(f"{early[0]} was imported before the compiled form was asked for")
    except Unusable as error:
        _form = Form(compiled=False, detail=str(error))
    else:
        sys.meta_path.insert(0, CompiledFinder(folder, manifest.files))
        _form = Form(compiled=True, detail=str(folder))
    return _form


def _usable(environment: Mapping[str, str]) -> tuple[Path, Manifest]:
    wanted = environment.get(VARIABLE, "")
    if wanted == OFF:
        raise Unusable(f"{VARIABLE}={OFF}")
    folder = Path(wanted) if wanted else FOLDER
    return folder, read_manifest(folder)


def _imported(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in sys.modules]

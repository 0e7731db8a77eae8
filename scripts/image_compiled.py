"""The compiled form of the hot modules as one image holds it: the part that is of the packages the image has.

``make setup`` compiles the modules of ztunnel and of waypoints at once, and its manifest names the sources of both,
which ``mesh/compiled.py`` compares before it uses anything. An image has the packages of one of them, so it gets a
manifest of these. That loses no check: the packages of an image import nothing of the others (or it could not run), so
what a kept module was compiled from is kept, too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from mesh.compiled import MANIFEST
from scripts.compile_hot import GROUPS

_LIBRARY = "__mypyc"
"""What the names of the groups' libraries end in."""


def copy_compiled(source: Path, target: Path, packages: Collection[str]) -> None:
    """Copy as much of a compiled form as an image with these packages uses.

    Args:
        source: the folder that ``make setup`` filled.
        target: a folder that is not there yet.
        packages: the top names that the image has.
    """
    manifest = json.loads((source / MANIFEST).read_bytes())
    files = {name: file for name, file in manifest["files"].items() if _is_used(name, packages)}
    sources = {file: digest for file, digest in manifest["sources"].items() if file.partition("/")[0] in packages}
    target.mkdir(parents=True)
    for file in files.values():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / file, target / file)
    (target / MANIFEST).write_text(json.dumps({**manifest, "files": files, "sources": sources}, indent=1))


def _is_used(name: str, packages: Collection[str]) -> bool:
    group = GROUPS.get(name.removesuffix(_LIBRARY)) if name.endswith(_LIBRARY) else None
    modules = [name] if group is None else group
    return any(module.partition(".")[0] in packages for module in modules)

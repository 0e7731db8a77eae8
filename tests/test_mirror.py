"""Every module is tested from its mirror image.

A module of ``mesh/xds/`` must be imported by a test file in ``tests/mesh/xds/`` or above it (in ``tests/mesh/``), or
lend that file its name; one of ``operator/controlplane/`` by one in ``tests/operator/`` or ``tests/controlplane/``. A
module that a tested one of the same folder imports is a part of it and tested through it. What has no test stands in
the table with a reason.
"""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

WITHOUT_A_TEST_OF_ITS_OWN: dict[str, str] = {
    "*/__main__.py": "a few lines that call main; the lab tier runs every one of them",
}


def _modules() -> list[Path]:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return sorted(
        path.relative_to(ROOT)
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    )


def _import_name(module: Path) -> str:
    parts = module.with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "operator" else parts)


@cache
def _imports(test: Path) -> frozenset[str]:
    """Every dotted name a file imports; ``from a import b`` may mean the module a or the module a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def _mirrors(module: Path) -> list[Path]:
    """Test folders that count as a module's mirror image: its own, and those above it."""
    starts = [ROOT / "tests" / module.parent]
    if module.parts[0] == "operator":
        starts += [ROOT / "tests" / "operator", ROOT / "tests" / Path(*module.parent.parts[1:])]
    folders: list[Path] = []
    for start in starts:
        folder = start
        while folder != ROOT / "tests":
            folders.append(folder)
            folder = folder.parent
    return folders


def _has_a_test(module: Path) -> bool:
    name = _import_name(module)
    own = f"test_{module.stem}"
    return any(
        test.stem == own or test.stem.startswith(f"{own}_") or name in _imports(test)
        for folder in _mirrors(module)
        for test in folder.glob("test_*.py")
    )


@cache
def _tested() -> frozenset[Path]:
    """Modules with a test, and their parts."""
    modules = _modules()
    tested = {module for module in modules if _has_a_test(module)}
    pending = list(tested)
    while pending:
        whole = pending.pop()
        imported = _imports(ROOT / whole)
        parts = {module for module in modules if module.parent == whole.parent and _import_name(module) in imported}
        pending += parts - tested
        tested |= parts
    return frozenset(tested)


def test_every_module_is_tested_from_its_mirror_image() -> None:
    untested = [
        module.as_posix()
        for module in _modules()
        if not any(module.match(pattern) for pattern in WITHOUT_A_TEST_OF_ITS_OWN) and module not in _tested()
    ]
    assert untested == [], "write a test, or state in the table above why there is none"


def test_the_table_holds_nothing_superfluous() -> None:
    unneeded = [
        pattern
        for pattern in WITHOUT_A_TEST_OF_ITS_OWN
        if not any(module.match(pattern) and module not in _tested() for module in _modules())
    ]
    assert unneeded == []


def test_test_files_lie_in_mirrored_folders() -> None:
    """A test under a name that is not the source's would never be looked for there."""
    allowed = {"operator", "controlplane", "interop"}
    stray = [
        folder.relative_to(ROOT).as_posix()
        for folder in (ROOT / "tests").rglob("*")
        if folder.is_dir()
        and any(folder.glob("test_*.py"))
        and not (ROOT / folder.relative_to(ROOT / "tests")).is_dir()
        and folder.relative_to(ROOT / "tests").parts[0] not in allowed
    ]
    assert stray == []

"""The rules about files that no other tool holds: packaging, charters, sizes, locks, and what must not be committed."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
GENERATED = re.compile(r"_pb2\.pyi?$")


def _git_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    paths = (ROOT / name for name in listed.decode().split("\0") if name)
    return sorted(path for path in paths if path.is_file())


FILES = _git_files()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _packages() -> list[Path]:
    """Folders that are import packages."""
    return [path.parent for path in FILES if path.name == "__init__.py"]


def _top_packages() -> set[str]:
    return {_relative(folder) for folder in _packages() if folder.parent in (ROOT, ROOT / "operator")}


def test_operator_is_no_package() -> None:
    """It would shadow the standard library's module of this name."""
    assert not (ROOT / "operator/__init__.py").exists()
    import operator

    assert operator.add(1, 1) == 2


KITS = ["tests/e2e/kit", "tests/vm/kit"]
"""What tests of several components import, and what runs tests elsewhere; they hold no tests."""


def test_tests_are_no_package() -> None:
    assert [_relative(folder) for folder in _packages() if "tests" in folder.relative_to(ROOT).parts] == KITS
    assert [test for kit in KITS for test in (ROOT / kit).rglob("test_*.py")] == []


def test_every_package_is_shipped_linted_and_typed() -> None:
    """A package left out of one of these lists would be missing from the wheel, or unchecked."""
    packages = _top_packages() - {"benchmarks"}
    tool = PROJECT["tool"]
    assert set(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == packages
    assert set(tool["importlinter"]["root_packages"]) == {Path(package).name for package in packages}
    typed = set(tool["mypy"]["files"])
    assert {package.split("/")[0] for package in packages} | {"tests", "benchmarks", "scripts"} == typed


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without __init__.py imports all the same, and is left out of the wheel's and the linter's view."""
    tops = tuple(f"{package}/" for package in _top_packages())
    modules = [path for path in FILES if path.suffix == ".py" and _relative(path).startswith(tops)]
    assert [_relative(path) for path in modules if not (path.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("folder", _packages(), ids=_relative)
def test_a_package_has_a_charter_and_no_code(folder: Path) -> None:
    tree = ast.parse((folder / "__init__.py").read_text())
    charter = ast.get_docstring(tree)
    assert charter is not None, "say what belongs here and what does not"
    assert len(charter) >= 40
    assert len(tree.body) == 1, "no code and no re-exports: importing a package must import nothing else"


def test_files_are_of_a_size_to_be_read() -> None:
    long = {
        _relative(path): count
        for path in FILES
        if path.suffix in {".py", ".c", ".h"} and not GENERATED.search(path.name)
        for count in [len(path.read_text().splitlines())]
        if count > MAX_LINES
    }
    assert long == {}, "split by responsibility"


def _pattern(*parts: str) -> re.Pattern[str]:
    """Joined here, so that this file does not hold what it forbids."""
    return re.compile("".join(parts))


FORBIDDEN = {
    "a path of somebody's machine": _pattern(r"(?<![\w./-])/(?:wo", r"rk|ho", r"me/\w+|tmp/v", r"\d)(?![\w-])"),
    "a registry's address": _pattern(
        *(r"py", r"pi\.org|python", r"hosted\.org|deb\.deb", r"ian\.org"),
        *(r"|registry\.npm", r"js|crates\.", r"io|proxy\.go", r"lang"),
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_files_hold_nothing_of_one_machine(what: str) -> None:
    found = []
    for path in FILES:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a binary file: the next test
        found += [
            f"{_relative(path)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if FORBIDDEN[what].search(line)
        ]
    assert found == [], f"{what} does not belong into a file of the project"


PICTURES = {"benchmarks/results.png", "benchmarks/results-layer7.png"}
"""The only binary files: what `make bench` draws."""


def test_no_other_binary_is_committed() -> None:
    assert [_relative(path) for path in FILES if b"\0" in path.read_bytes()[:8192]] in ([], sorted(PICTURES))


# -- locked requirements ----------------------------------------------------------------------------------------------

LOCKS = ("runtime.txt", "dev.txt")
"""Of the checkout's environment; `envoy.txt` and `go.txt` belong to those that benchmarks and the tests' kit make."""
_PIN = re.compile(r"([a-z0-9-]+)==([^ ;]+)(?: ; [^\\]+)? \\")
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


def _lock(name: str) -> dict[str, str]:
    """Versions by name; fails for any line that is neither a pin, nor a hash, nor a comment."""
    pins: dict[str, str] = {}
    for number, line in enumerate((ROOT / "requirements" / name).read_text().splitlines(), 1):
        pin = _PIN.fullmatch(line)
        if pin:
            pins[pin[1]] = pin[2]
        else:
            assert _HASH.fullmatch(line) or line.lstrip().startswith("#"), f"{name}:{number}: {line!r}"
    return pins


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_exact_versions_with_hashes_and_nothing_else(name: str) -> None:
    pins = _lock(name)
    assert len(pins) > 10
    blocks = (ROOT / "requirements" / name).read_text().split(" \\\n    --hash", 1)
    assert len(blocks) == 2
    text = (ROOT / "requirements" / name).read_text()
    assert len(re.findall(r"^[a-z].* \\\n    --hash=sha256:", text, re.MULTILINE)) == len(pins), "a pin without hash"


def test_the_locks_agree() -> None:
    runtime, dev = _lock("runtime.txt"), _lock("dev.txt")
    assert {name: dev.get(name) for name in runtime} == runtime


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_satisfies_the_project(name: str) -> None:
    wanted = [*PROJECT["project"]["dependencies"]]
    if name == "dev.txt":
        for extra in PROJECT["project"]["optional-dependencies"].values():
            wanted += extra
    pins = _lock(name)
    for text in wanted:
        requirement = Requirement(text)
        version = pins.get(_canonical(requirement.name))
        assert version is not None, f"{requirement.name} is not locked: run make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{text}, but {version} is locked"

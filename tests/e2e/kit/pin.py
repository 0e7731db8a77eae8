"""Pins the programs: writes the ``go.mod`` and ``go.sum`` beside each ``main.go`` for the versions in ``versions.py``.

    python -m tests.e2e.kit.pin

Run it after a change of a version, and commit what it wrote. Kubernetes is no module that others can require as it is:
its own ``go.mod`` takes the libraries it publishes from folders of its checkout. The same libraries are published as
modules under the minor version (v1.34.4 is v0.34.4 there), so its replacements are written again with these.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.kit import versions

PROGRAMS = Path(__file__).parent / "programs"
_STAGED = re.compile(r"^\t(k8s\.io/[a-z0-9-]+) => \./staging/", re.MULTILINE)
_LANGUAGE = re.compile(r"^go (\S+)$", re.MULTILINE)


def module_file(name: str, language: str, requirements: dict[str, str], staged: list[str]) -> str:
    """A ``go.mod`` before ``go mod tidy`` completes it: requirements by module, ``staged`` libraries at one version."""
    lines = [f"module ambimesh.dev/tests/{name}", "", f"go {language}", ""]
    lines += [f"require {module} {version}" for module, version in requirements.items()]
    if staged:
        lines += ["", "replace ("]
        lines += [f"\t{module} => {module} {versions.KUBERNETES_LIBRARIES}" for module in staged]
        lines += [")"]
    return "\n".join(lines) + "\n"


def _go(*arguments: str, folder: Path) -> str:
    return subprocess.run(["go", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def _published(module: str, version: str) -> str:
    """The ``go.mod`` that a module was published with."""
    (PROGRAMS / "go.mod").unlink(missing_ok=True)
    found = json.loads(_go("mod", "download", "-json", f"{module}@{version}", folder=PROGRAMS))
    return Path(found["GoMod"]).read_text()


def _language(text: str) -> str:
    found = _LANGUAGE.search(text)
    if found is None:
        sys.exit("a published go.mod names no Go version")
    return found[1]


def _write(name: str, text: str) -> None:
    folder = PROGRAMS / name
    (folder / "go.sum").unlink(missing_ok=True)
    (folder / "go.mod").write_text(text)
    _go("mod", "tidy", folder=folder)


def main() -> None:
    """Write both modules."""
    kubernetes = _published("k8s.io/kubernetes", versions.KUBERNETES)
    _write(
        "kubernetes",
        module_file(
            "kubernetes",
            _language(kubernetes),
            {"k8s.io/kubernetes": versions.KUBERNETES},
            _STAGED.findall(kubernetes),
        ),
    )
    module = "github.com/coredns/coredns"
    coredns = _published(module, versions.COREDNS)
    _write("coredns", module_file("coredns", _language(coredns), {module: versions.COREDNS}, []))


if __name__ == "__main__":
    main()

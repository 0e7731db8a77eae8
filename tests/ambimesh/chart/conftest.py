"""The real Helm, to compare with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def helm() -> Path:
    """Helm, built from its Go module by the first run."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed: Helm is built from its Go module")
    program = ROOT / ".build" / "bin" / "helm"
    subprocess.run(["sh", str(ROOT / "deploy" / "helm" / "tool" / "build.sh"), str(program)], check=True)
    return program

"""The real Helm, to compare with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.kit import build, toolchain

ROOT = Path(__file__).parents[3]
_SOURCE = ROOT / "deploy" / "helm" / "tool"


@pytest.fixture(scope="session")
def helm() -> Path:
    """Helm, built from its Go module by the first run."""
    program = build.cache_folder() / "helm"
    environment = {**os.environ, "GO": toolchain.find_go(_SOURCE, build.cache_folder(), print)}
    subprocess.run(["sh", str(_SOURCE / "build.sh"), str(program)], check=True, env=environment)
    return program

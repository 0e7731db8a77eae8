"""The plugin's binary, built once per run."""

import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "cni" / "plugin" / "build.sh"


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("plugin") / "ambimesh-cni"
    subprocess.run([BUILD, output], check=True, timeout=120)
    return output

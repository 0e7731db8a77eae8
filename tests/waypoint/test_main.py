"""The command line: what cannot be is one line and exit status 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "waypoint", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("text", [None, "gateway: ["])
def test_an_unusable_file_is_one_line(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "waypoint.yaml"
    if text is not None:
        file.write_text(text)
    done = run("--config", str(file))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("waypoint: ")
    assert "waypoint.yaml" in line


def test_no_arguments_is_a_usage() -> None:
    done = run()
    assert done.returncode == 2
    assert "--config" in done.stderr

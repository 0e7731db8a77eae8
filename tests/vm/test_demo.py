"""The main job as users see it first: every line of ``ambimesh demo`` on Debian's kernel, with cgroup v2 alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ambimesh.demo.run import LAST

pytestmark = [pytest.mark.vm, pytest.mark.lab]


def test_every_line_is_shown() -> None:
    command = [sys.executable, "-m", "ambimesh", "demo"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{LAST} of {LAST} lines shown" in done.stdout, done.stdout

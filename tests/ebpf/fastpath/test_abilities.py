"""What the loader leaves for ztunnel to know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebpf.fastpath.abilities import read_abilities
from ebpf.paths import PinPaths
from mesh.errors import EnvironmentLacks

pytestmark = pytest.mark.root


def test_this_kernel_passes_the_loaders_self_test(node: Any) -> None:
    assert read_abilities(node.paths).splice


def test_before_programs_are_loaded_there_is_nothing_to_know() -> None:
    with pytest.raises(EnvironmentLacks):
        read_abilities(PinPaths(Path("/sys/fs/bpf"), "no-such-node"))

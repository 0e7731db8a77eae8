"""How large the tests are whose size is what they show: 1 by themselves, ten times that in ``make test-root``."""

from __future__ import annotations

import os
import resource

SCALE = float(os.environ.get("AMBIMESH_TEST_SCALE", "1"))
"""Multiplies bytes and connections."""


def scaled(everyday: int, most: int | None = None) -> int:
    """A size for this run.

    Args:
        everyday: for a scale of 1.
        most: what the machine can do at all, ports for instance.
    """
    wanted = int(everyday * SCALE)
    return wanted if most is None else min(wanted, most)


def admit_many_descriptors() -> None:
    """Raise this process's limit of open files to what it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controlplane.kube.real_plane import prepare
from tests.e2e.kit.control_plane import ControlPlane, running_control_plane
from tests.resources.kube.served import client, server

__all__ = ["client", "server"]


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """An API server of these tests' own: they stop it, and give it definitions."""
    with running_control_plane() as running:
        prepare(running)
        yield running

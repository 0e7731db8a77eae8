from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from resources.kube.client_driver import ApiClient
from resources.kube.credentials_driver import ApiSettings
from resources.testing.api_server import ApiServer
from tests.controlplane.kube.real_plane import prepare
from tests.e2e.kit.control_plane import ControlPlane, running_control_plane


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer().serve() as running:
        yield running


@pytest.fixture
async def client(server: ApiServer, tmp_path: Path) -> AsyncIterator[ApiClient]:
    made = ApiClient(ApiSettings(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig")))
    yield made
    await made.close()


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """An API server of these tests' own: they stop it, and give it definitions."""
    with running_control_plane() as running:
        prepare(running)
        yield running

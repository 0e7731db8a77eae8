"""An API server's double and a client of it, as fixtures; a ``conftest.py`` that wants them imports them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from resources.kube.client_driver import ApiClient
from resources.kube.credentials_driver import ApiSettings
from resources.testing.api_server import ApiServer


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer().serve() as running:
        yield running


@pytest.fixture
async def client(server: ApiServer, tmp_path: Path) -> AsyncIterator[ApiClient]:
    made = ApiClient(ApiSettings(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig")))
    yield made
    await made.close()

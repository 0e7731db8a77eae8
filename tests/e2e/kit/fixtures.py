"""Fixtures for tests that need an API server; ``tests/conftest.py`` makes them known to all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.e2e.kit.control_plane import ControlPlane, Wish, running_control_plane


@pytest.fixture(scope="session")
def kubernetes_api() -> Iterator[ControlPlane]:
    """etcd and an API server, one for the whole session: keep to a namespace of your own (`kubernetes_namespace`)."""
    with running_control_plane() as plane:
        yield plane


@pytest.fixture(scope="session")
def kubernetes_controllers() -> Iterator[ControlPlane]:
    """The same with the controller manager; another API server than `kubernetes_api`."""
    with running_control_plane(Wish(controllers=True)) as plane:
        yield plane


@pytest.fixture
def kubernetes_namespace(kubernetes_api: ControlPlane) -> Iterator[str]:
    """A namespace of `kubernetes_api` with its default service account, which no controller is there to make."""
    name = f"test-{secrets.token_hex(4)}"
    kubernetes_api.kubectl("create", "namespace", name)
    kubernetes_api.kubectl("create", "serviceaccount", "default", "--namespace", name)
    yield name
    # Without controllers it stays "Terminating", and its objects stay; they go with the session.
    kubernetes_api.kubectl("delete", "namespace", name, "--wait=false")

"""Fixtures for tests that need an API server or a whole cluster; ``tests/conftest.py`` makes them known to all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.e2e.kit import mesh_images
from tests.e2e.kit.cluster import Cluster, running_cluster
from tests.e2e.kit.control_plane import ControlPlane, Wish, running_control_plane
from tests.e2e.kit.mesh import Mesh
from tests.e2e.kit.traces import Traces
from tests.e2e.kit.waiting import eventually


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


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, one cluster for the whole session; when it has ended, nothing of it may be left on the machine."""
    with running_cluster([mesh_images.application_image(), *mesh_images.mesh_images()]) as running:
        yield running
        traces = Traces.of(running.folder)

    def nothing_is_left() -> None:
        assert traces.left() == []

    # The kernel takes a moment to bury what was killed.
    eventually(nothing_is_left)


@pytest.fixture(scope="session")
def cluster_mesh(cluster: Cluster) -> Iterator[Mesh]:
    """The mesh in it, installed once, with the kinds of policies; the last of all tests takes it out."""
    made = Mesh(cluster)
    made.install()
    made.define_policies()
    yield made
    # Also after a failure: the nodes' end is to find nothing of it.
    if made.is_installed:
        made.uninstall()
    made.forget_policies()


@pytest.fixture(scope="module")
def cluster_namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the cluster for a module's tests."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--namespace", name, "--for=create", "serviceaccount/default", "--timeout=60s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--timeout=100s")

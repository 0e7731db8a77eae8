"""A real API server."""

from __future__ import annotations

import pytest

from ambimesh.cluster.client_driver import Cluster
from tests.e2e.kit.control_plane import ControlPlane
from tests.e2e.kit.fixtures import kubernetes_api, kubernetes_namespace

__all__ = ["kubernetes_api", "kubernetes_namespace"]


@pytest.fixture
def cluster(kubernetes_api: ControlPlane) -> Cluster:
    return Cluster(kubeconfig=str(kubernetes_api.kubeconfig))

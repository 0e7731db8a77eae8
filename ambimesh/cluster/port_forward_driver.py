"""A request to a port that a pod serves on its loopback only: through the API server's port-forward."""

from __future__ import annotations

import http.client
from typing import Any

import kubernetes
from kubernetes.stream import portforward

from ambimesh.cluster.client_driver import Cluster
from mesh.errors import ConnectFailed

_SECONDS = 20.0


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket that is there already."""

    def __init__(self, stream: Any) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self.sock = stream

    def connect(self) -> None:
        """Nothing to do."""


def get(
    cluster: Cluster, namespace: str, pod: str, port: int, path: str, *, method: str = "GET"
) -> tuple[int, bytes]:
    """GET ``path`` of a pod's port, or another method without a body; status and body.

    Raises:
        ConnectFailed: the pod, the port or the API server does not answer.
    """
    api = kubernetes.client.CoreV1Api(cluster.client)
    place = f"{namespace}/{pod}:{port}"
    try:
        forward = portforward(api.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
        try:
            stream = forward.socket(port)
            stream.settimeout(_SECONDS)
            connection = _Connection(stream)
            connection.request(method, path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            error = forward.error(port)
            forward.close()
    except (OSError, http.client.HTTPException, kubernetes.client.ApiException) as problem:
        raise ConnectFailed(f"{place} cannot be reached by port-forward: {problem}") from problem
    if error:
        raise ConnectFailed(f"{place} cannot be reached by port-forward: {error}")
    return answer.status, body

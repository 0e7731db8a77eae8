"""Objects written by server-side apply: we own the fields we set, and nobody else's are touched."""

from __future__ import annotations

from typing import Any

import trio

from controlplane.kube.status_body import gateway_status_body
from resources.encode import to_document
from resources.gateway import GatewayStatus
from resources.kube.client_driver import ApiClient, ApiRefused
from resources.kube.kinds import API_KINDS
from resources.objects import Gateway, KubernetesObject

MANAGER = "ambimesh-operator"
"""The field manager of everything we write."""


class ApiWriter:
    """A ``Writer`` for the reconciler, which calls from a worker thread of trio's."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def apply(self, value: KubernetesObject) -> None:
        """See :class:`controlplane.reconcile.driver.Writer`."""
        body = to_document(value)
        for unset in ("uid", "resourceVersion", "creationTimestamp", "generation"):
            body["metadata"].pop(unset, None)
        trio.from_thread.run(self._apply, path_of(value), body)

    def delete(self, value: KubernetesObject) -> None:
        """See :class:`controlplane.reconcile.driver.Writer`."""
        # What was looked at, and not another one that has its name by now: that would be a conflict. Of accounts, of
        # which there are many, the uid is not kept.
        uid = value.metadata.uid
        only = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}} if uid else None
        try:
            trio.from_thread.run(self._client.request, "DELETE", path_of(value), None, only)
        except ApiRefused as error:
            if error.status not in (404, 409):
                raise

    def write_gateway_status(self, gateway: Gateway, status: GatewayStatus) -> None:
        """See :class:`controlplane.reconcile.driver.Writer`."""
        body = gateway_status_body(gateway, status)
        try:
            trio.from_thread.run(self._apply, f"{path_of(gateway)}/status", body)
        except ApiRefused as error:
            if error.status != 404:  # deleted meanwhile
                raise

    async def _apply(self, path: str, body: dict[str, Any]) -> None:
        await self._client.apply(path, body, MANAGER)


def path_of(value: KubernetesObject) -> str:
    """The address of an object, in the version it was read in."""
    kind = API_KINDS[type(value).__name__]
    version = value.api_version.rpartition("/")[2]
    return kind.path(version, value.metadata.namespace, value.metadata.name)

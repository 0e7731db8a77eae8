"""Publishes the root certificates in enrolled namespaces; done by the replica that writes.

A ConfigMap of that name that somebody else has made gets the roots, too, and keeps what it had: also when its namespace
leaves the mesh, and the roots are taken out of it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

import structlog
import trio

from controlplane.kube.permissions import TRUST_BUNDLE
from controlplane.kube.trust_bundle import TAKEN_OUT, bundle_of, is_ours, is_shared
from controlplane.kube.writer_driver import MANAGER
from mesh.errors import MeshError
from resources.kube.client_driver import MERGE, ApiClient, ApiRefused

AGAIN_SECONDS = 300.0
"""How often all are written again: somebody may have changed or deleted one."""
RETRY_SECONDS = 5.0
_log = structlog.get_logger("controlplane.trust")


class TrustBundles:
    """Keeps the ConfigMaps as they should be."""

    def __init__(self, client: ApiClient, failed: Callable[[str, str], None] = lambda namespace, reason: None) -> None:
        """Begin with nothing wanted.

        Args:
            client: the API server.
            failed: told of a namespace whose ConfigMap cannot be written, and why.
        """
        self._client = client
        self._tell = failed
        self._roots = b""
        self._wanted: frozenset[str] = frozenset()
        self._written: dict[str, bytes] = {}
        """What the namespaces we wrote to have; empty: to be written again."""
        self._changed = trio.Event()
        self._problems: dict[str, str] = {}

    def update(self, roots: bytes, namespaces: frozenset[str]) -> None:
        """What should be where, from now on."""
        if (roots, namespaces) != (self._roots, self._wanted):
            self._roots, self._wanted = roots, namespaces
            self._changed.set()

    async def run(self) -> Never:
        """Write until cancelled; to be run while this replica leads."""
        self._written = dict.fromkeys(self._written, b"")
        again = trio.current_time() + AGAIN_SECONDS
        while True:
            self._changed = trio.Event()
            done = await self._write()
            if trio.current_time() >= again:
                self._written = dict.fromkeys(self._written, b"")
                again = trio.current_time() + AGAIN_SECONDS
            with trio.move_on_after(AGAIN_SECONDS if done else RETRY_SECONDS):
                await self._changed.wait()

    async def _write(self) -> bool:
        if not self._roots:
            return True
        roots, wanted = self._roots, self._wanted
        done = True
        for namespace in sorted(wanted):
            if self._written.get(namespace) != roots:
                done &= await self._apply(namespace, roots)
        for namespace in sorted(self._written.keys() - wanted):
            done &= await self._delete(namespace)
        return done

    async def _apply(self, namespace: str, roots: bytes) -> bool:
        try:
            await self._client.apply(_path(namespace), bundle_of(namespace, roots), MANAGER)
        except ApiRefused as error:
            if error.status == 404:
                return True  # the namespace is gone
            return self._failed(namespace, error)
        except MeshError as error:
            return self._failed(namespace, error)
        if namespace not in self._written:
            _log.info("roots_published", namespace=namespace)
        self._written[namespace] = roots
        self._problems.pop(namespace, None)
        return True

    async def _delete(self, namespace: str) -> bool:
        try:
            found = await self._client.get(_path(namespace))
            if is_ours(found) and is_shared(found):
                await self._client.request("PATCH", _path(namespace), body=dict(TAKEN_OUT), content_type=MERGE)
            elif is_ours(found):
                await self._client.request("DELETE", _path(namespace))
        except ApiRefused as error:
            if error.status != 404:
                return self._failed(namespace, error)
        except MeshError as error:
            return self._failed(namespace, error)
        self._written.pop(namespace, None)
        self._problems.pop(namespace, None)
        return True

    def _failed(self, namespace: str, error: MeshError) -> bool:
        if self._problems.get(namespace) != str(error):
            self._problems[namespace] = str(error)
            _log.error("roots_not_published", namespace=namespace, error=str(error), effect="tried again")
            self._tell(namespace, str(error))
        return False


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{TRUST_BUNDLE}"

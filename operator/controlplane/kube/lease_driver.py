"""Keeps one replica's part in the election."""

from __future__ import annotations

from typing import Any, Never

import msgspec
import structlog
import trio

from controlplane.kube.lease_machine import RETRY_SECONDS, LeaseMachine, LeaseSpec, Read, Write
from controlplane.kube.permissions import LEASE
from mesh.clock import utc_now
from mesh.errors import InvalidMessage, MeshError
from resources.kube.client_driver import ApiClient, ApiRefused

LOOK_SECONDS = 0.5
_RELEASE_SECONDS = 2.0
_log = structlog.get_logger("controlplane.election")


class Election:
    """Says whether this replica is the one that writes."""

    def __init__(self, client: ApiClient, namespace: str, identity: str) -> None:
        """Begin as one that does not.

        Args:
            client: the API server.
            namespace: of the Lease.
            identity: this replica, unlike all others.
        """
        self._client = client
        self._namespace = namespace
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._machine = LeaseMachine(identity)
        self._was_leader = False
        self._changed = trio.Event()
        self._problem = ""

    @property
    def leads(self) -> bool:
        """Whether this replica writes, as of now."""
        return self._machine.holds(trio.current_time())

    async def wait_until_leads(self) -> None:
        """Wait until this replica writes."""
        while not self.leads:
            await self._changed.wait()

    async def wait_until_follows(self) -> None:
        """Wait until this replica does not write."""
        while self.leads:  # noqa: ASYNC110 -- nothing tells when the last write has become too old
            await trio.sleep(LOOK_SECONDS)

    async def run(self) -> Never:
        """Take part until cancelled; gives the Lease back then."""
        try:
            while True:
                await self._turn()
                self._tell()
                await trio.sleep(RETRY_SECONDS)
        finally:
            with trio.move_on_after(_RELEASE_SECONDS, shield=True):
                await self._release()

    async def _turn(self) -> None:
        begun = trio.current_time()
        try:
            write = self._machine.decide(await self._read(), begun, _wall())
            if write is not None:
                await self._write(write)
                self._machine.written(begun)
            self._problem = ""
        except ApiRefused as error:
            if error.status == 409:
                self._machine.lost()
            else:
                self._complain(error)
        except MeshError as error:
            self._complain(error)

    async def _read(self) -> Read | None:
        try:
            body = await self._client.get(f"{self._folder}/{LEASE}")
        except ApiRefused as error:
            if error.status == 404:
                return None
            raise
        try:
            spec = msgspec.convert(_known(body.get("spec") or {}), LeaseSpec)
        except msgspec.ValidationError as error:
            raise InvalidMessage(f"the Lease {self._namespace}/{LEASE} is not one: {error}") from error
        return Read(spec, body["metadata"]["resourceVersion"])

    async def _write(self, write: Write) -> None:
        metadata = {"name": LEASE, "namespace": self._namespace}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": write.spec}
        if not write.resource_version:
            await self._client.create(self._folder, body)
            return
        metadata["resourceVersion"] = write.resource_version
        await self._client.replace(f"{self._folder}/{LEASE}", body)

    async def _release(self) -> None:
        if not self.leads:
            return
        try:
            found = await self._read()
            write = self._machine.release(found, _wall()) if found is not None else None
            if write is not None:
                await self._write(write)
                _log.info("leadership_given_back")
        except MeshError as error:
            _log.info("leadership_not_given_back", reason=str(error), effect="the next replica waits it out")

    def _tell(self) -> None:
        if self.leads != self._was_leader:
            self._was_leader = self.leads
            _log.info("leading" if self.leads else "not_leading", identity=self._machine.identity)
        if self.leads:
            self._changed.set()
            self._changed = trio.Event()

    def _complain(self, error: MeshError) -> None:
        if str(error) != self._problem:
            self._problem = str(error)
            _log.warning("election_disturbed", error=self._problem, effect="nothing is written while it lasts")


def _known(spec: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if value is not None}


def _wall() -> str:
    """With microseconds, as the API has it for Leases."""
    return utc_now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""What the operator makes of objects that were just written: its findings, as soon as it has read them.

The store gives every write a higher resource version, and the operator reads writes in their order. So when its
findings are of the last written object's version, or a later one, they are of all that was written before.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlencode

import msgspec
import trio

from ambimesh.lab.http_client import get
from ambimesh.lab.mesh_processes import OPERATOR_HTTP_PORT
from ambimesh.lab.record import Lab
from mesh.errors import ConnectFailed, InvalidMessage, ObjectMissing
from resources.folder_store import FolderStore
from resources.objects import KINDS, ObjectKey

PATIENCE_SECONDS = 3.0
"""The operator takes writes up within a quarter of a second."""
_POLL_SECONDS = 0.02


class Finding(msgspec.Struct, frozen=True):
    """One thing that an object asks for and does not get."""

    kind: str
    namespace: str
    name: str
    condition: str
    message: str

    @property
    def key(self) -> ObjectKey:
        """The object."""
        return ObjectKey(self.kind, self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    findings: tuple[Finding, ...]
    resource_version: str = ""


async def findings_of(lab: Lab, keys: Sequence[ObjectKey]) -> list[Finding]:
    """The operator's findings for these objects; none in a lab without the mesh.

    Args:
        lab: a running lab.
        keys: the objects.

    Raises:
        ConnectFailed: the operator does not answer, or has not read the objects in time.
        ConnectionLost: its answer broke off.
        InvalidMessage: its answer is not what this reads.
    """
    if not keys or not lab.record.mesh:
        return []
    wanted, last = await trio.to_thread.run_sync(_last_written, lab, keys)
    asked = frozenset(keys)
    path = f"/debug/findings?{urlencode(last._asdict())}"
    with trio.move_on_after(PATIENCE_SECONDS):
        while True:
            answer = await get(lab.layout.control_netns, OPERATOR_HTTP_PORT, path)
            try:
                page = msgspec.json.decode(answer.body, type=_Page)
            except msgspec.MsgspecError as error:
                raise InvalidMessage(f"the operator answered {answer.status} and no findings: {error}") from error
            if int(page.resource_version or 0) >= wanted:
                return [finding for finding in page.findings if finding.key in asked]
            await trio.sleep(_POLL_SECONDS)
    raise ConnectFailed(f"the operator has not read {last} after {PATIENCE_SECONDS:g} s")


def _last_written(lab: Lab, keys: Sequence[ObjectKey]) -> tuple[int, ObjectKey]:
    """The highest version among the objects, and whose it is; those that somebody has deleted meanwhile have 0."""
    store = FolderStore(lab.layout.cluster)
    versions: dict[ObjectKey, int] = dict.fromkeys(keys, 0)
    for key in keys:
        with suppress(ObjectMissing):
            versions[key] = int(store.get(KINDS[key.kind], key.namespace, key.name).metadata.resource_version)
    return max((version, key) for key, version in versions.items())

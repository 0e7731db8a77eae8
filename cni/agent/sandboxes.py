"""What the container runtime told of each pod's sandbox, remembered across restarts of the agent.

One small JSON file per pod, in a folder under ``/run``: it must not outlive a reboot, after which paths, inodes and
cookies mean other namespaces. A record is a hint where to look; the namespace is verified before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from cni.pod import checked_uid
from mesh.errors import EnvironmentLacks, InvalidValue

_log = structlog.get_logger("sandboxes")

_SUFFIX = ".json"
_MAXIMUM_RECORD = 1 << 16


class Sandbox(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One CNI attachment of a pod."""

    container_id: str
    """Of the sandbox: a pod whose sandbox is made anew keeps its uid but not this."""
    netns: str
    """Path of the network namespace."""
    inode: int
    cookie: int
    namespace: str
    name: str
    addresses: tuple[str, ...]
    """As the CNI plugins gave them."""

    def alive(self) -> bool:
        """Whether the path still leads to the same network namespace."""
        try:
            return os.stat(self.netns).st_ino == self.inode
        except OSError:
            return False


class SandboxRegister:
    """The sandboxes of this node by pod uid."""

    def __init__(self, folder: Path) -> None:
        """Read what an earlier agent left; a record that cannot be read is dropped with a word in the log.

        Raises:
            EnvironmentLacks: the folder cannot be made or read.
        """
        self._folder = folder
        self._sandboxes: dict[str, Sandbox] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in sorted(folder.glob(f"*{_SUFFIX}")):
                self._read(path)
        except OSError as error:
            raise EnvironmentLacks(f"the agent's state folder {folder} cannot be used: {error.strerror}") from error

    def _read(self, path: Path) -> None:
        try:
            uid = checked_uid(path.name.removesuffix(_SUFFIX))
            with path.open("rb") as file:
                self._sandboxes[uid] = msgspec.json.decode(file.read(_MAXIMUM_RECORD), type=Sandbox)
        except (msgspec.DecodeError, InvalidValue) as error:
            _log.warning("sandbox record dropped", record=str(path), reason=str(error))
            path.unlink()

    def find(self, uid: str) -> Sandbox | None:
        """The sandbox of a pod, if the runtime told of one."""
        return self._sandboxes.get(uid)

    def items(self) -> Iterator[tuple[str, Sandbox]]:
        """All of them, with their pods' uids."""
        return iter(tuple(self._sandboxes.items()))

    def living(self) -> frozenset[str]:
        """Uids of the pods whose sandbox still exists."""
        return frozenset(uid for uid, sandbox in self._sandboxes.items() if sandbox.alive())

    def remember(self, uid: str, sandbox: Sandbox) -> None:
        """Keep what the runtime told.

        Raises:
            EnvironmentLacks: it cannot be written.
        """
        place = self._folder / f"{checked_uid(uid)}{_SUFFIX}"
        temporary = place.with_name(f".{place.name}")
        try:
            temporary.write_bytes(msgspec.json.encode(sandbox))
            temporary.rename(place)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise EnvironmentLacks(f"{place} cannot be written: {error.strerror}") from error
        self._sandboxes[uid] = sandbox

    def forget(self, uid: str) -> None:
        """The sandbox is gone."""
        if self._sandboxes.pop(uid, None) is not None:
            with suppress(FileNotFoundError):
                (self._folder / f"{uid}{_SUFFIX}").unlink()

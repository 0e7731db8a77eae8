"""A folder as the API server's stand-in: several processes write objects, each object a file of its own.

Theory of operation. Writers exclude one another by a lock on one file of the folder, read what is there, change it and
put the new file in the old one's place by a rename, so that readers (``FolderSource``) never see half a file and need
no lock. What an API server does beyond storing is done here too: uid, creation time and resource versions are given, a
write that changes nothing is no write, and ``apply`` is a three-way merge: labels and annotations that others have set
stay, those that an earlier ``apply`` set and the new one leaves out go. What ``apply`` has set is remembered where the
API server remembers it, in ``metadata.managedFields``.

The folder belongs to the store. Calls block (briefly): from trio use ``trio.to_thread.run_sync``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mesh.errors import ConfigurationError, EnvironmentLacks, ObjectMissing
from resources.base import ObjectMeta
from resources.decode import decode_documents, with_metadata, with_namespace
from resources.encode import to_document, to_yaml
from resources.objects import CLUSTER_SCOPED, KINDS, KubernetesObject, ObjectKey, Pod, Service

LOCK_PATIENCE = 10.0
"""Seconds to wait for other writers; each holds the lock for milliseconds."""
MANAGER = "ambimesh-apply"

_Kind = TypeVar("_Kind", bound=KubernetesObject)


class FolderStore:
    """Objects kept in a folder, one YAML file each."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._path.mkdir(parents=True, exist_ok=True)

    def get(self, kind: type[_Kind], namespace: str, name: str) -> _Kind:
        """Read one object; ``namespace`` is empty for cluster-scoped kinds.

        Raises:
            ObjectMissing: there is none.
            ConfigurationError: its file is broken.
        """
        found = self._read(ObjectKey(kind.__name__, namespace, name))
        if found is None:
            raise ObjectMissing(f"{kind.__name__} {namespace}/{name} does not exist")
        assert isinstance(found, kind)
        return found

    def of_kind(self, kind: type[_Kind]) -> list[_Kind]:
        """All objects of a kind, by namespace and name.

        Raises:
            ConfigurationError: a file is broken.
        """
        result: list[_Kind] = []
        for path in sorted(self._path.glob(f"{kind.__name__.lower()}_*.yaml")):
            try:
                found = _decode(path)
            except FileNotFoundError:
                continue  # deleted since the folder was listed
            if isinstance(found, kind):
                result.append(found)
        return result

    def apply(self, value: KubernetesObject) -> KubernetesObject:
        """Create or update an object as its author wishes it, keeping what controllers wrote.

        Kept unless given: status, owner references, finalizers, a Service's allocated addresses, a Pod's node, and
        labels and annotations that were not set by an earlier ``apply``.

        Returns:
            The object as it now stands.
        """
        value = with_namespace(value)
        with self._locked():
            existing = self._read(value.key)
            return self._write(_merged(value, existing), existing)

    def replace(self, value: KubernetesObject) -> KubernetesObject:
        """Create an object or put it whole in an old one's place; uid and creation time are kept.

        Returns:
            The object as it now stands.
        """
        value = with_namespace(value)
        with self._locked():
            return self._write(value, self._read(value.key))

    def modify(
        self, kind: type[_Kind], namespace: str, name: str, change: Callable[[_Kind], _Kind]
    ) -> _Kind:
        """Read, change and write one object with no other writer in between.

        Args:
            kind: the object's kind.
            namespace: empty for cluster-scoped kinds.
            name: its name.
            change: from the object as it stands to the object as it shall be; runs under the lock.

        Returns:
            The object as it now stands.

        Raises:
            ObjectMissing: there is none.
        """
        with self._locked():
            existing = self.get(kind, namespace, name)
            result = self._write(change(existing), existing)
        assert isinstance(result, kind)
        return result

    def delete(self, kind: type[KubernetesObject], namespace: str, name: str) -> bool:
        """Remove an object; False when there was none."""
        with self._locked():
            try:
                self._file(ObjectKey(kind.__name__, namespace, name)).unlink()
            except FileNotFoundError:
                return False
            return True

    def patch_metadata(
        self,
        kind: type[_Kind],
        namespace: str,
        name: str,
        *,
        labels: Mapping[str, str | None] | None = None,
        annotations: Mapping[str, str | None] | None = None,
    ) -> _Kind:
        """Set labels and annotations; None takes one away, those not named stay.

        Raises:
            ObjectMissing: there is no such object.
        """

        def change(existing: _Kind) -> _Kind:
            metadata = msgspec.structs.replace(
                existing.metadata,
                labels=_patched(existing.metadata.labels, labels or {}),
                annotations=_patched(existing.metadata.annotations, annotations or {}),
            )
            return msgspec.structs.replace(existing, metadata=metadata)

        return self.modify(kind, namespace, name, change)

    def patch_status(self, kind: type[_Kind], namespace: str, name: str, status: msgspec.Struct) -> _Kind:
        """Put a new status in the old one's place, such as a ``PodStatus`` for a Pod.

        Raises:
            ObjectMissing: there is no such object.
            ConfigurationError: this kind has no status.
        """
        if "status" not in kind.__struct_fields__:
            raise ConfigurationError(f"a {kind.__name__} has no status")
        return self.modify(kind, namespace, name, lambda existing: msgspec.structs.replace(existing, status=status))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._path / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_PATIENCE
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        message = f"{self._path}/.lock is held by another process for {LOCK_PATIENCE:.0f} s: it hangs"
                        raise EnvironmentLacks(message) from error
                    time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)

    def _file(self, key: ObjectKey) -> Path:
        # An underscore is in no Kubernetes name, so different objects have different files.
        name = key.name
        if len(name) > 150:
            name = f"{name[:128]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        parts = (key.kind.lower(), *((key.namespace,) if key.namespace else ()), name)
        if any(part.startswith(".") or "/" in part for part in parts):
            raise ConfigurationError(f"{key} is not named as Kubernetes allows")
        return self._path / ("_".join(parts) + ".yaml")

    def _read(self, key: ObjectKey) -> KubernetesObject | None:
        try:
            return _decode(self._file(key))
        except FileNotFoundError:
            return None

    def _write(self, value: KubernetesObject, existing: KubernetesObject | None) -> KubernetesObject:
        """Give the server's fields and put the file in place; what stands is returned when nothing changes."""
        old = existing.metadata if existing else ObjectMeta()
        metadata = msgspec.structs.replace(
            value.metadata,
            uid=old.uid or value.metadata.uid or str(uuid.uuid4()),
            creation_timestamp=old.creation_timestamp or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            resource_version=old.resource_version,
        )
        value = with_metadata(value, metadata)
        if existing is not None and value == existing:
            return existing
        value = with_metadata(value, msgspec.structs.replace(metadata, resource_version=self._next_version()))
        # Decoded again: what is refused when read must not be written, and callers get exactly what readers will see.
        text = to_yaml(value)
        objects, problems = decode_documents(text, str(value.key))
        if problems:
            raise ConfigurationError(str(problems[0]))
        _put(self._file(value.key), text)
        return objects[0]

    def _next_version(self) -> str:
        path = self._path / ".resource-version"
        try:
            version = int(path.read_text()) + 1
        except FileNotFoundError:
            version = 1
        _put(path, str(version))
        return str(version)


def _put(path: Path, text: str) -> None:
    """Replace a file whole. Not synced: what a power cut takes from the folder, its writers make again."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


def _decode(path: Path) -> KubernetesObject:
    objects, problems = decode_documents(path.read_text(encoding="utf-8"), str(path))
    if problems or len(objects) != 1:
        reason = str(problems[0]) if problems else f"{path} holds {len(objects)} objects, not one"
        raise ConfigurationError(f"{reason}; mend or remove the file")
    return objects[0]


def _patched(values: Mapping[str, str], patch: Mapping[str, str | None]) -> dict[str, str]:
    result = {key: value for key, value in values.items() if key not in patch}
    result.update({key: value for key, value in patch.items() if value is not None})
    return result


def _merged(value: KubernetesObject, existing: KubernetesObject | None) -> KubernetesObject:
    """The three-way merge of ``apply``."""
    new = value.metadata
    managed = [_applied_keys(new)]
    if existing is None:
        return with_metadata(value, msgspec.structs.replace(new, managed_fields=managed))
    old = existing.metadata
    metadata = msgspec.structs.replace(
        new,
        labels=_three_way(old.labels, new.labels, _remembered(old, "labels")),
        annotations=_three_way(old.annotations, new.annotations, _remembered(old, "annotations")),
        owner_references=new.owner_references or old.owner_references,
        finalizers=new.finalizers or old.finalizers,
        managed_fields=managed,
    )
    changes: dict[str, Any] = {"metadata": metadata}
    if "status" in value.__struct_fields__ and "status" not in to_document(value):
        changes["status"] = getattr(existing, "status")  # noqa: B009 - only some kinds have it
    match value, existing:
        case Service(), Service() if not value.spec.cluster_ip and not value.spec.cluster_ips:
            old_spec = existing.spec
            changes["spec"] = msgspec.structs.replace(
                value.spec,
                cluster_ip=old_spec.cluster_ip,
                cluster_ips=old_spec.cluster_ips,
                ip_families=value.spec.ip_families or old_spec.ip_families,
            )
        case Pod(), Pod() if not value.spec.node_name:
            changes["spec"] = msgspec.structs.replace(value.spec, node_name=existing.spec.node_name)
        case _:
            pass
    return msgspec.structs.replace(value, **changes)


def _three_way(existing: Mapping[str, str], wished: Mapping[str, str], applied: set[str]) -> dict[str, str]:
    kept = {key: text for key, text in existing.items() if key not in applied}
    return {**kept, **wished}


def _applied_keys(metadata: ObjectMeta) -> dict[str, Any]:
    fields: dict[str, dict[str, dict[str, str]]] = {
        f"f:{name}": {f"f:{key}": {} for key in sorted(values)}
        for name, values in (("labels", metadata.labels), ("annotations", metadata.annotations))
        if values
    }
    return {"manager": MANAGER, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": fields}}


def _remembered(metadata: ObjectMeta, name: str) -> set[str]:
    for entry in metadata.managed_fields or ():
        if isinstance(entry, dict) and entry.get("manager") == MANAGER:
            keys = entry.get("fieldsV1", {}).get("f:metadata", {}).get(f"f:{name}", {})
            return {key.removeprefix("f:") for key in keys}
    return set()


def key_of(kind: str, namespace: str, name: str) -> tuple[type[KubernetesObject], str, str]:
    """Kind's type, namespace and name as the store's calls take them, from a user's words.

    Raises:
        ConfigurationError: the kind is not known.
    """
    for known, found in KINDS.items():
        if kind.lower() in (known.lower(), f"{known.lower()}s", known.lower().removesuffix("y") + "ies"):
            return found, "" if known in CLUSTER_SCOPED else namespace or "default", name
    raise ConfigurationError(f"the kind {kind[:64]!r} is not known; known are {', '.join(KINDS)}")

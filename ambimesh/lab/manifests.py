"""Applying and deleting manifests: what ``kubectl apply`` and the API server's admission do, for the lab's store.

What is sound is applied, whatever stands beside it; what is not is a problem that names file, document and field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mesh.errors import ConfigurationError, MeshError, ObjectMissing
from resources.decode import decode_documents
from resources.folder_source import SUFFIXES
from resources.folder_store import FolderStore
from resources.objects import CLUSTER_SCOPED, KINDS, KubernetesObject, Namespace, ObjectKey, Pod, Service

_ORDER = {"Namespace": 0, "ServiceAccount": 1}


@dataclass(slots=True)
class Report:
    """What became of some manifests."""

    done: list[tuple[ObjectKey, str]] = field(default_factory=list)
    """Each object and ``created``, ``configured``, ``unchanged``, ``replaced``, ``deleted`` or ``not found``."""
    problems: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """What of the sound ones has no effect in the mesh."""
    notices: list[str] = field(default_factory=list)


def read(paths: Iterable[Path]) -> tuple[list[tuple[str, KubernetesObject]], list[str]]:
    """The objects of files and folders, each with the file it is from, and what is wrong with the others.

    Raises:
        ConfigurationError: a path is not there, or a folder holds no manifest.
    """
    objects: list[tuple[str, KubernetesObject]] = []
    problems: list[str] = []
    for path in paths:
        for file in _files(path):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{file}: cannot be read: {error}")
                continue
            decoded, found = decode_documents(text, str(file))
            objects += [(str(file), value) for value in decoded]
            problems += [str(problem) for problem in found]
    objects.sort(key=lambda entry: _ORDER.get(entry[1].key.kind, 2))
    return objects, problems


def apply(store: FolderStore, paths: Iterable[Path]) -> Report:
    """Create or update every sound object of the manifests.

    Raises:
        ConfigurationError: a path is not there, or a folder holds no manifest.
    """
    objects, problems = read(paths)
    report = Report(problems=problems)
    for place, value in objects:
        try:
            report.done.append((value.key, _apply_one(store, value)))
        except MeshError as error:
            report.problems.append(f"{place}: {value.key}: {error}")
    if any(
        container.image for _, value in objects if isinstance(value, Pod) for container in value.spec.containers
    ):
        report.notices.append("images are ignored in the lab: a container runs its command, found on this machine")
    return report


def delete(store: FolderStore, paths: Iterable[Path]) -> Report:
    """Delete every object that the manifests name, and with a namespace all that is in it.

    Raises:
        ConfigurationError: a path is not there, or a folder holds no manifest.
    """
    objects, problems = read(paths)
    report = Report(problems=problems)
    for _, value in reversed(objects):
        if isinstance(value, Namespace):
            _empty(store, value.metadata.name)
        gone = store.delete(type(value), value.metadata.namespace, value.metadata.name)
        report.done.append((value.key, "deleted" if gone else "not found"))
    return report


def patch(text: str, what: str) -> dict[str, str | None]:
    """``KEY=VALUE`` to set, ``KEY-`` to take away.

    Raises:
        ConfigurationError: it is neither.
    """
    key, separator, value = text.partition("=")
    if separator and key:
        return {key: value}
    if text.endswith("-") and len(text) > 1:
        return {text[:-1]: None}
    raise ConfigurationError(f"{text[:128]!r} is no {what}: write KEY=VALUE to set it, KEY- to take it away")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigurationError(f"{path}: no such file or folder")
    found = sorted(
        entry
        for entry in path.rglob("*")
        if entry.suffix in SUFFIXES and entry.is_file() and not any(part.startswith(".") for part in entry.parts[1:])
    )
    if not found:
        raise ConfigurationError(f"{path}: no manifest in this folder: none ends in {', '.join(SUFFIXES)}")
    return found


def _apply_one(store: FolderStore, value: KubernetesObject) -> str:
    existing = _existing(store, value.key)
    kind, namespace, _ = value.key
    if kind not in CLUSTER_SCOPED and _existing(store, ObjectKey("Namespace", "", namespace)) is None:
        raise ConfigurationError(
            f"the namespace {namespace} does not exist; remedy: add a Namespace of that name to the manifests"
        )
    if isinstance(value, Service):
        _refuse_taken_address(store, value)
    if isinstance(value, Pod) and isinstance(existing, Pod) and _spec_changed(existing, value):
        # A running pod cannot become another one: the old goes, and the new one gets a uid of its own.
        store.delete(Pod, value.metadata.namespace, value.metadata.name)
        store.apply(value)
        return "replaced"
    applied = store.apply(value)
    if existing is None:
        return "created"
    return "unchanged" if applied == existing else "configured"


def _existing(store: FolderStore, key: ObjectKey) -> KubernetesObject | None:
    try:
        return store.get(KINDS[key.kind], key.namespace, key.name)
    except ObjectMissing:
        return None


def _spec_changed(existing: Pod, wished: Pod) -> bool:
    node = wished.spec.node_name or existing.spec.node_name
    return msgspec.structs.replace(wished.spec, node_name=node) != existing.spec


def _refuse_taken_address(store: FolderStore, service: Service) -> None:
    wanted = set(service.spec.virtual_addresses)
    for other in store.of_kind(Service) if wanted else ():
        if other.key != service.key and (taken := wanted.intersection(other.spec.virtual_addresses)):
            raise ConfigurationError(
                f"the cluster address {', '.join(sorted(taken))} belongs to {other.key}; "
                "remedy: choose another clusterIP"
            )


def _empty(store: FolderStore, namespace: str) -> None:
    for kind in KINDS.values():
        if kind.__name__ in CLUSTER_SCOPED:
            continue
        for value in store.of_kind(kind):
            if value.metadata.namespace == namespace:
                store.delete(kind, namespace, value.metadata.name)

"""What a bug report holds, read from a cluster. Secrets are never asked for; tokens in logs there are none."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ambimesh.cluster import port_forward_driver, ztunnels
from ambimesh.cluster.client_driver import Cluster
from ambimesh.dump_codec import ADMIN_PORT
from ambimesh.install import checking_driver
from ambimesh.install.checks import is_ready
from controlplane.reconcile.waypoints import MANAGED, MANAGED_LABEL
from mesh.errors import EnvironmentLacks, InvalidMessage, MeshError, ObjectMissing
from resources.kube.kinds import API_KINDS, ApiKind, Reading

_PART_OF = "app.kubernetes.io/part-of=ambimesh"
_OPERATORS = f"{_PART_OF},app.kubernetes.io/component=operator"
_OWN_KINDS = (
    ("v1", "Pod"), ("v1", "Event"), ("v1", "ConfigMap"), ("v1", "Service"), ("apps/v1", "Deployment"),
    ("apps/v1", "DaemonSet"), ("coordination.k8s.io/v1", "Lease"),
)  # fmt: skip
_MESH_KINDS = (("v1", "Node"), ("v1", "Namespace"), ("v1", "Service"), ("networking.k8s.io/v1", "NetworkPolicy"))
_POLICY_KINDS = [kind for kind in API_KINDS.values() if kind.reading is Reading.STRICT]
"""Of the Gateway API and of Istio: all that the operator reads."""
_WAYPOINTS = f"{MANAGED_LABEL}={MANAGED}"
_OPERATOR_PORT = 15014
_OPERATOR_PAGES = ("findings", "statuses", "clients")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the archive."""

    name: str
    text: str
    failed: bool = False
    """Whether ``text`` is the reason why there is no such file."""


def collect(cluster: Cluster, namespace: str, lines: int, step: Callable[[str], None]) -> Iterator[Part]:
    """All parts; one that cannot be had keeps no other from being collected.

    Args:
        cluster: the cluster.
        namespace: the mesh's.
        lines: of each log.
        step: told what is being collected.
    """
    step("checks")
    yield _part("check.yaml", lambda: _yaml(msgspec.to_builtins(checking_driver.check_cluster(cluster, namespace))))
    yield _part("version.yaml", lambda: _yaml(cluster.version()))
    step("objects of the mesh")
    for version, kind in _OWN_KINDS:
        yield _part(f"mesh/{kind.lower()}.yaml", partial(_objects, cluster, version, kind, namespace))
    for version, kind in _MESH_KINDS:
        yield _part(f"cluster/{kind.lower()}.yaml", partial(_objects, cluster, version, kind, ""))
    for each in _POLICY_KINDS:
        yield _part(f"cluster/{each.name.lower()}.yaml", partial(_policies, cluster, each))
    step("logs")
    yield from _logs(cluster, namespace, _PART_OF, lines)
    yield from _logs(cluster, "", _WAYPOINTS, lines)
    step("what ztunnels, waypoints and operators know")
    yield from _dumps(cluster, namespace)
    yield from _pages(cluster, "", _WAYPOINTS, "waypoints", ADMIN_PORT, {"": "/config_dump"})
    pages = {f".{page}": f"/debug/{page}" for page in _OPERATOR_PAGES}
    yield from _pages(cluster, namespace, _OPERATORS, "operators", _OPERATOR_PORT, pages)


def write_archive(file: Path, parts: Iterable[Part]) -> None:
    """Write the archive, readable by its owner only.

    Raises:
        EnvironmentLacks: it cannot be written.
    """
    parts = list(parts)
    reasons = "".join(f"{part.name}: {part.text}\n" for part in parts if part.failed)
    files = [(part.name, part.text) for part in parts if not part.failed]
    if reasons:
        files.append(("errors.txt", reasons))
    try:
        file.touch(mode=0o600)
        with tarfile.open(file, "w:gz") as archive:
            for name, text in files:
                data = text.encode()
                entry = tarfile.TarInfo(f"ambimesh-bug-report/{name}")
                entry.size, entry.mode = len(data), 0o600
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise EnvironmentLacks(f"{file} cannot be written: {error.strerror}") from error


def _logs(cluster: Cluster, namespace: str, labels: str, lines: int) -> Iterator[Part]:
    try:
        pods = list(cluster.all_of("v1", "Pod", namespace, labels=labels))
    except MeshError as error:
        yield Part(f"logs of {labels}", str(error), failed=True)
        return
    for pod in pods:
        space, name = pod["metadata"]["namespace"], _shown(pod, namespace)
        for container in pod["spec"]["containers"]:
            told = container["name"]
            log = partial(cluster.log, space, pod["metadata"]["name"], told, lines=lines)
            yield _part(f"logs/{name}.{told}.log", log)
            statuses = pod.get("status", {}).get("containerStatuses") or ()
            if any(one["name"] == told and one.get("restartCount") for one in statuses):
                yield _part(f"logs/{name}.{told}.previous.log", partial(log, previous=True))


def _dumps(cluster: Cluster, namespace: str) -> Iterator[Part]:
    try:
        pods = ztunnels.pods(cluster, namespace)
    except MeshError as error:
        yield Part("ztunnels", str(error), failed=True)
        return
    for node, pod in sorted(pods.items()):
        yield _part(f"ztunnels/{node}.json", partial(_dump, cluster, namespace, pod))


def _pages(
    cluster: Cluster, namespace: str, labels: str, folder: str, port: int, pages: Mapping[str, str]
) -> Iterator[Part]:
    """Pages that pods serve on a port of theirs; paths by what is added to the name of a pod's file."""
    try:
        pods = [pod for pod in cluster.all_of("v1", "Pod", namespace, labels=labels) if is_ready(pod)]
    except MeshError as error:
        yield Part(folder, str(error), failed=True)
        return
    for pod in pods:
        for ending, path in pages.items():
            page = partial(_page, cluster, pod["metadata"]["namespace"], pod["metadata"]["name"], port, path)
            yield _part(f"{folder}/{_shown(pod, namespace)}{ending}.json", page)


def _page(cluster: Cluster, namespace: str, pod: str, port: int, path: str) -> str:
    status, body = port_forward_driver.get(cluster, namespace, pod, port, path)
    text = body.decode(errors="replace")
    if status != 200:
        raise InvalidMessage(f"{namespace}/{pod} answered {status} to {path}: {text[:200]}")
    return text


def _shown(pod: Any, namespace: str) -> str:
    """A pod's name in the archive; with its namespace if it may be of any."""
    metadata = pod["metadata"]
    return str(metadata["name"] if namespace else f"{metadata['namespace']}.{metadata['name']}")


def _dump(cluster: Cluster, namespace: str, pod: str) -> str:
    return msgspec.json.format(msgspec.json.encode(ztunnels.fetch(cluster, namespace, pod))).decode()


def _objects(cluster: Cluster, version: str, kind: str, namespace: str) -> str:
    found = []
    for value in cluster.all_of(version, kind, namespace):
        value["metadata"].pop("managedFields", None)
        found.append(value)
    return "\n---\n".join(map(_yaml, found)) if found else "# none\n"


def _policies(cluster: Cluster, kind: ApiKind) -> str:
    """Objects of a kind, in the first version of ours that the cluster serves."""
    versions = [kind.api_version(version) for version in kind.versions]
    served = next((version for version in versions if cluster.has(version, kind.name)), versions[0])
    return _objects(cluster, served, kind.name, "")


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text


def _part(name: str, make: Callable[[], str]) -> Part:
    try:
        return Part(name, make())
    except ObjectMissing as error:
        return Part(name, f"# {error}\n")
    except MeshError as error:
        return Part(name, str(error), failed=True)

"""What a bug report holds, read from a cluster. Secrets are never asked for; tokens in logs there are none."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ambimesh.cluster import ztunnels
from ambimesh.cluster.client_driver import Cluster
from ambimesh.install import checking_driver
from mesh.errors import EnvironmentLacks, MeshError, ObjectMissing

_PART_OF = "app.kubernetes.io/part-of=ambimesh"
_OWN_KINDS = (
    ("v1", "Pod"), ("v1", "Event"), ("v1", "ConfigMap"), ("v1", "Service"), ("apps/v1", "Deployment"),
    ("apps/v1", "DaemonSet"), ("coordination.k8s.io/v1", "Lease"),
)  # fmt: skip
_MESH_KINDS = (
    ("v1", "Node"), ("v1", "Namespace"), ("networking.k8s.io/v1", "NetworkPolicy"),
    ("gateway.networking.k8s.io/v1", "GatewayClass"), ("gateway.networking.k8s.io/v1", "Gateway"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"), ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    ("security.istio.io/v1", "AuthorizationPolicy"), ("security.istio.io/v1", "PeerAuthentication"),
    ("security.istio.io/v1", "RequestAuthentication"), ("networking.istio.io/v1", "ServiceEntry"),
    ("networking.istio.io/v1", "DestinationRule"), ("networking.istio.io/v1", "VirtualService"),
)  # fmt: skip


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
    step("logs")
    yield from _logs(cluster, namespace, lines)
    step("what ztunnels know")
    yield from _dumps(cluster, namespace)


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


def _logs(cluster: Cluster, namespace: str, lines: int) -> Iterator[Part]:
    try:
        pods = list(cluster.all_of("v1", "Pod", namespace, labels=_PART_OF))
    except MeshError as error:
        yield Part("logs", str(error), failed=True)
        return
    for pod in pods:
        name = pod["metadata"]["name"]
        for container in pod["spec"]["containers"]:
            told = container["name"]
            log = partial(cluster.log, namespace, name, told, lines=lines)
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


def _dump(cluster: Cluster, namespace: str, pod: str) -> str:
    return msgspec.json.format(msgspec.json.encode(ztunnels.fetch(cluster, namespace, pod))).decode()


def _objects(cluster: Cluster, version: str, kind: str, namespace: str) -> str:
    found = []
    for value in cluster.all_of(version, kind, namespace):
        value["metadata"].pop("managedFields", None)
        found.append(value)
    return "\n---\n".join(map(_yaml, found)) if found else "# none\n"


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

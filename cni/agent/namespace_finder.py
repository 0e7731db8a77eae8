"""Finds a pod's network namespace and proves that it is the pod's.

Theory of operation. ztunnel speaks with the identity of the pod whose namespace it was given, so a namespace mixed up
is an identity stolen: this is a security boundary. Whatever the way to a candidate (the container runtime's word, a
record of it, the processes in the pod's cgroup), the candidate is held open by a descriptor, which cannot come to
mean something else, and is accepted only when its interfaces hold every address the pod has. The node's own namespace
never is.

A pod that was started before the agent was installed is found by its processes. A pod's cgroup can also hold processes
that are not in the pod's namespace (a runtime's monitor stays in the node's), so candidates go by age, the oldest
process first, and each must pass the same proof.
"""

from __future__ import annotations

import glob
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import trio
from pyroute2 import IPRoute

from cni.agent.sandboxes import Sandbox
from cni.pod import PodFacts
from mesh.addresses import IpBytes, format_ip, parse_ip
from mesh.errors import EnvironmentLacks, InvalidAddress, MeshError
from mesh.netns import NetworkNamespace

_MAXIMUM_PROCESSES = 4096
"""Of one pod, looked at."""


class WrongNamespace(EnvironmentLacks):
    """A network namespace is not the pod's; nothing is done with it."""


class NamespaceUnknown(EnvironmentLacks):
    """No network namespace of this pod could be found."""


class Namespaces(Protocol):
    """What enrolment needs to know of namespaces. The caller closes what is returned."""

    async def at_path(self, path: str) -> NetworkNamespace:
        """The namespace a container runtime names."""

    async def of_sandbox(self, sandbox: Sandbox) -> NetworkNamespace | None:
        """The namespace of a remembered sandbox, if it is still the same."""

    async def of_processes(self, pod: PodFacts) -> NetworkNamespace:
        """The namespace of a pod's processes."""

    async def verify(self, namespace: NetworkNamespace, addresses: Sequence[IpBytes], owner: str) -> None:
        """Raise WrongNamespace unless the namespace holds all these addresses of ``owner``."""


class NamespaceFinder:
    """Finds namespaces on this node."""

    def __init__(self, cgroup_patterns: Sequence[str], proc: Path = Path("/proc")) -> None:
        """Use these places.

        Args:
            cgroup_patterns: glob patterns of a pod's cgroup folders, with ``{uid}``, ``{uid_underscored}``,
                ``{namespace}`` and ``{name}`` filled in.
            proc: the node's process file system, all processes in it.
        """
        self._patterns = tuple(cgroup_patterns)
        self._proc = proc

    async def at_path(self, path: str) -> NetworkNamespace:
        """Open the namespace a container runtime names.

        Raises:
            WrongNamespace: it is the node's own.
            EnvironmentLacks: there is none.
        """
        return await trio.to_thread.run_sync(self._open_path, path)

    def _open_path(self, path: str) -> NetworkNamespace:
        namespace = NetworkNamespace.open(path)
        if namespace.inode in self._own_inodes():
            namespace.close()
            raise WrongNamespace(f"{path} is the node's own network namespace: a pod that shares it is not enrolled")
        return namespace

    async def of_sandbox(self, sandbox: Sandbox) -> NetworkNamespace | None:
        """The namespace of a remembered sandbox; None when the path is gone or leads elsewhere."""
        try:
            namespace = await self.at_path(sandbox.netns)
        except MeshError:
            return None
        if (namespace.inode, namespace.cookie()) == (sandbox.inode, sandbox.cookie):
            return namespace
        namespace.close()
        return None

    async def of_processes(self, pod: PodFacts) -> NetworkNamespace:
        """The namespace of the oldest process in the pod's cgroup that holds the pod's addresses.

        Raises:
            NamespaceUnknown: no process, or none in such a namespace.
        """
        return await trio.to_thread.run_sync(self._search, pod)

    async def verify(self, namespace: NetworkNamespace, addresses: Sequence[IpBytes], owner: str) -> None:
        """Prove that a namespace is a pod's.

        Args:
            namespace: the candidate.
            addresses: all of the pod's.
            owner: the pod, for the message.

        Raises:
            WrongNamespace: it lacks one of them, or there is none to prove it by.
        """
        await trio.to_thread.run_sync(_verify, namespace, addresses, owner)

    def _search(self, pod: PodFacts) -> NetworkNamespace:
        folders = self._cgroups(pod)
        refused = ""
        seen = self._own_inodes()
        for link in self._namespace_links(folders):
            try:
                namespace = NetworkNamespace.open(link)
            except MeshError:
                continue  # the process has ended
            if namespace.inode not in seen:
                seen.add(namespace.inode)
                try:
                    _verify(namespace, pod.addresses, str(pod.key))
                except MeshError as error:
                    refused = f"; {error}"
                else:
                    return namespace
            namespace.close()
        where = ", ".join(folders) if folders else f"no cgroup matches {', '.join(self._patterns) or '(no pattern)'}"
        raise NamespaceUnknown(
            f"no process of pod {pod.key} was found in a network namespace of its own with its addresses ({where})"
            f"{refused}; see the agent's pod_cgroups setting"
        )

    def _cgroups(self, pod: PodFacts) -> list[str]:
        values = {
            "uid": pod.uid,
            "uid_underscored": pod.uid.replace("-", "_"),
            "namespace": pod.namespace,
            "name": pod.name,
        }
        escaped = {key: glob.escape(value) for key, value in values.items()}
        filled = (pattern.format(**escaped) for pattern in self._patterns)
        return sorted({folder for pattern in filled for folder in glob.glob(pattern, recursive=True)})

    def _namespace_links(self, folders: Iterable[str]) -> list[Path]:
        """The ``ns/net`` links of all processes in these cgroups and below, the oldest process first."""
        aged: list[tuple[int, Path]] = []
        for pid in _processes(folders):
            with suppress(OSError, ValueError, IndexError):  # the process has ended meanwhile
                # After the command's name, which may hold anything: field 22 is the start time (proc(5)).
                status = (self._proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
                aged.append((int(status[19]), self._proc / str(pid) / "ns" / "net"))
        return [link for _, link in sorted(aged)[:_MAXIMUM_PROCESSES]]

    def _own_inodes(self) -> set[int]:
        found = set()
        for owner in ("self", "1"):
            with suppress(OSError):
                found.add(os.stat(self._proc / owner / "ns" / "net").st_ino)
        return found


def _processes(folders: Iterable[str]) -> Iterator[int]:
    for folder in folders:
        for place, _, _ in os.walk(folder):
            with suppress(OSError, ValueError):
                for line in Path(place, "cgroup.procs").read_text().split():
                    if line != "0":  # of another process namespace, not to be followed
                        yield int(line)


def _verify(namespace: NetworkNamespace, addresses: Sequence[IpBytes], owner: str) -> None:
    if not addresses:
        raise WrongNamespace(f"pod {owner} has no address yet: nothing proves that a network namespace is its own")
    held = addresses_in(namespace)
    missing = [format_ip(address) for address in addresses if address not in held]
    if missing:
        raise WrongNamespace(
            f"network namespace {namespace.inode} does not hold {', '.join(missing)} of pod {owner}: it belongs to "
            "another pod, or the pod's network changed; it is refused, as it would lend the pod's identity to others"
        )


def addresses_in(namespace: NetworkNamespace) -> frozenset[IpBytes]:
    """All addresses of all interfaces in a namespace. Blocks for about a millisecond.

    Raises:
        EnvironmentLacks: it cannot be entered or asked.
    """
    found = set()
    try:
        with namespace.entered(), IPRoute() as route:
            for message in route.get_addr():
                # IFA_LOCAL is the interface's own address where IFA_ADDRESS is a point-to-point peer's.
                text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                if text and message["family"] in (socket.AF_INET, socket.AF_INET6):
                    with suppress(InvalidAddress):
                        found.add(parse_ip(text))
    except OSError as error:
        raise EnvironmentLacks(f"network namespace {namespace.inode}: no addresses can be read: {error}") from error
    return frozenset(found)

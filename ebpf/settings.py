"""What a node's programs are loaded with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ebpf.paths import PinPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSizes:
    """Entries per map. A map keeps the size it was made with until ``detach_all``: the kernel cannot resize one."""

    pods: int = 1024
    """Enrolled pods of the node; Kubernetes' usual limit is 110 to 250."""
    pod_addresses: int = 4096
    """Their addresses, two each in a dual-stack cluster."""
    excluded_ports: int = 16384
    """Excluded ports, over all pods and both directions."""
    excluded_networks: int = 16384
    """Excluded networks, over all pods."""
    caller_roles: int = 64
    """Control groups of ztunnel and kubelet."""
    handoffs: int = 16384
    """Captured connections between SYN and establishment; the oldest gives way."""
    tickets: int = 16384
    """Ticketed connections between SYN and establishment; the oldest gives way."""
    listeners: int = 32768
    """Three per pod address and worker of ztunnel."""
    fast_verdicts: int = 65536
    """Admitted pairs of a pod and a destination port on this node."""
    fast_services: int = 4096
    """Pairs of a pod and a service port with endpoints on this node; 1.3 kB each while used."""
    fast_connections: int = 65536
    """Live fast connections; more take the slow path."""
    fast_closed: int = 65536
    """Fast connections that ended and whose record ztunnel has not read yet; it reads several times a second."""
    fast_talkers: int = 262144
    """Bytes (a power of two, of pages) for connections that wait to be spliced, 64 each; more stay on TCP."""
    fast_sockets: int = 131072
    """Ends of live fast connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """One node: where its programs are pinned and attached, and whose connections are whose."""

    node: str
    """The node's name; several nodes may share one kernel."""
    bpffs: Path
    """A mounted bpf file system."""
    cgroup: Path
    """The cgroup v2 folder that the programs are attached to: the root in production. Connections of processes outside
    it are not seen."""
    ztunnel_cgroups: tuple[Path, ...] = ()
    """The very cgroups ztunnel's processes are in (not their ancestors); two while one ztunnel replaces another. None:
    they become known later (``set_caller_roles``), and loading leaves those that are known."""
    kubelet_cgroups: tuple[Path, ...] = ()
    """The very cgroups of kubelet: its connections are probes and are let through to applications."""
    map_sizes: MapSizes = field(default_factory=MapSizes)

    @property
    def paths(self) -> PinPaths:
        """Where everything is pinned."""
        return PinPaths(self.bpffs, self.node)

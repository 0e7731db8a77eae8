"""ztunnel's configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from ebpf.layout import MAX_WORKERS
from mesh.config import Port, Seconds, Settings
from mesh.control_plane import ControlPlaneGroup
from mesh.tls.kernel_driver import KernelTlsWish
from mesh.xds.discovery_codec import NodeInfo


class NodeGroup(Settings, frozen=True, kw_only=True):
    """Where this ztunnel runs."""

    name: str
    """The node's name, as workloads state theirs."""
    cluster_id: str = "Kubernetes"
    network: str = ""
    trust_domain: str = "cluster.local"
    pod_name: str = "ztunnel"
    """Of ztunnel itself, as the control plane's logs show it."""
    pod_namespace: str = "ambimesh-system"
    pod_ip: str = "127.0.0.1"

    def info(self) -> NodeInfo:
        """What the control plane is told of this proxy."""
        return NodeInfo(
            pod=self.pod_name,
            namespace=self.pod_namespace,
            ip=self.pod_ip,
            node=self.name,
            cluster_id=self.cluster_id,
        )


class BpfGroup(Settings, frozen=True, kw_only=True):
    """What the agent has pinned."""

    bpffs: Path = Path("/sys/fs/bpf")


class AdminGroup(Settings, frozen=True, kw_only=True):
    """Ports in ztunnel's own namespace."""

    admin_port: Port = 15000
    """On loopback only: it shows everything and can stop the process."""
    metrics_port: Port = 15020
    readiness_port: Port = 15021


class LogGroup(Settings, frozen=True, kw_only=True):
    """What is written, and how."""

    level: str = "info"
    access_level: str = "info"
    """``info`` for a record per connection, ``warning`` for failures only, ``off`` for none."""
    format: Literal["text", "json"] = "text"


class FastPathGroup(Settings, frozen=True, kw_only=True):
    """Connections between pods of this node, carried by the kernel once ztunnel has admitted the like of them."""

    enabled: bool = True
    """Pods and namespaces opt out by the annotation ``ambimesh.dev/fast-path: disabled``."""
    splice: bool = True
    """Whether payload may go past TCP, where the kernel was found to do it right; without, it is plain TCP."""


Workers = Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)]


class ZtunnelSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    node: NodeGroup
    control_plane: ControlPlaneGroup
    zds_socket: Path = Path("/run/ambimesh/ztunnel.sock")
    bpf: BpfGroup = BpfGroup()
    fast_path: FastPathGroup = FastPathGroup()
    workers: Workers | Literal["auto"] = "auto"
    """Processes that move bytes. ``auto``: as many as there are cores to use, by affinity and processor quota. With 1
    there is but one process, which is the supervisor as well; each further one takes some 20 MiB."""
    kernel_tls: KernelTlsWish = "never"
    """Who encrypts what tunnels carry once OpenSSL has done their handshakes. ``never``: OpenSSL; ``auto``: the kernel,
    where it can (it has its module ``tls``, and stands a trial at the start), else OpenSSL. A peer that changes its
    keys loses a tunnel of the kernel's."""
    admin: AdminGroup = AdminGroup()
    log: LogGroup = LogGroup()
    drain_seconds: Seconds = 25.0
    """After SIGTERM: how long established connections may go on. Kubernetes' grace period less five seconds."""
    certificate_lifetime_seconds: int = 24 * 3600
    """What is asked for; renewed at half of what is given."""

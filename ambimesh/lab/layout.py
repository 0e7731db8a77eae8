"""Where everything of a lab is: names, folders, addresses. Pure: nothing here touches the machine.

One lab owns ``/run/ambimesh/<name>``, the network namespaces and the cgroup that carry its name, and nothing else. All
network links live inside its own namespaces, so labs with the same addresses run beside each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import ConfigurationError

DEFAULT_LAB = "ambimesh"
STATE_ROOT = Path("/run/ambimesh")
NETNS_ROOT = Path("/run/netns")
CNI_PROGRAMS = Path("/usr/lib/cni")

MAX_NODES = 16
SERVICE_RANGE_IPV4 = "10.96.0.0/16"
SERVICE_RANGE_IPV6 = "fd00:10:96::/112"
CONTROL_IPV4 = "172.18.0.2"
CONTROL_IPV6 = "fd00:172:18::2"
OPERATOR_PORT = 15012

_PROGRAMS = "programs"
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """One node: its name, its folders and its addresses."""

    lab: str
    index: int
    root: Path
    """``<lab root>/<node name>``"""

    @property
    def name(self) -> str:
        """``node1``, ``node2``, ..."""
        return f"node{self.index}"

    @property
    def netns(self) -> Path:
        """The node's own network namespace."""
        return NETNS_ROOT / f"{self.lab}-{self.name}"

    @property
    def ipv4(self) -> str:
        """The node's address on the link between nodes."""
        return f"172.18.0.{10 + self.index}"

    @property
    def ipv6(self) -> str:
        """The node's IPv6 address on the link between nodes."""
        return f"fd00:172:18::{10 + self.index}"

    @property
    def pods_ipv4(self) -> str:
        """The range its pods' IPv4 addresses come from."""
        return f"10.244.{self.index}.0/24"

    @property
    def pods_ipv6(self) -> str:
        """The range its pods' IPv6 addresses come from."""
        return f"fd00:10:244:{self.index}::/64"

    @property
    def cni_config(self) -> Path:
        """What ``/etc/cni/net.d`` is on a real node."""
        return self.root / "cni" / "net.d"

    @property
    def cni_programs(self) -> Path:
        """What ``/opt/cni/bin`` is on a real node: where the agent puts its plugin."""
        return self.root.parent / _PROGRAMS / self.name

    @property
    def run(self) -> Path:
        """What ``/var/run/ambimesh`` is on a real node: the agent's sockets."""
        return self.root / "run"

    @property
    def pods(self) -> Path:
        """A folder per pod that runs here: its hosts file and its CNI result."""
        return self.root / "pods"


@dataclass(frozen=True, slots=True)
class LabLayout:
    """One lab."""

    name: str
    state_root: Path = STATE_ROOT

    @staticmethod
    def named(name: str, state_root: Path = STATE_ROOT) -> LabLayout:
        """The layout of the lab with this name.

        Raises:
            ConfigurationError: the name could not be part of a namespace's and a cgroup's name.
        """
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name[:64]!r} cannot name a lab: use at most 30 small letters, digits and dashes, a letter first"
            )
        return LabLayout(name, state_root)

    @property
    def root(self) -> Path:
        """Everything the lab keeps in files."""
        return self.state_root / self.name

    @property
    def cluster(self) -> Path:
        """The object store: what the API server is in a real cluster."""
        return self.root / "cluster"

    @property
    def config(self) -> Path:
        """Configuration files of the lab's processes."""
        return self.root / "config"

    @property
    def logs(self) -> Path:
        """A log file per process, and one per container under ``pods/``."""
        return self.root / "logs"

    @property
    def pids(self) -> Path:
        """A record per started process."""
        return self.root / "pids"

    @property
    def bpffs(self) -> Path:
        """The lab's own BPF filesystem."""
        return self.root / "bpf"

    @property
    def programs(self) -> Path:
        """The lab's own file system for what is executed: Debian mounts ``/run`` with ``noexec``."""
        return self.root / _PROGRAMS

    @property
    def tokens(self) -> Path:
        """What processes authenticate with at the operator."""
        return self.root / "tokens"

    @property
    def certificates(self) -> Path:
        """The operator's certificate authority."""
        return self.root / "ca"

    @property
    def namespaces(self) -> Path:
        """An empty file per network namespace that this lab made; what ``lab down`` removes."""
        return self.root / "netns"

    @property
    def record(self) -> Path:
        """What ``lab up`` was asked for."""
        return self.root / "lab.json"

    @property
    def control_netns(self) -> Path:
        """Where the operator runs."""
        return NETNS_ROOT / f"{self.name}-control"

    @property
    def fabric_netns(self) -> Path:
        """Where the bridge is that joins the nodes."""
        return NETNS_ROOT / f"{self.name}-fabric"

    def node(self, index: int) -> NodeLayout:
        """The node with this number, from 1."""
        return NodeLayout(self.name, index, self.root / f"node{index}")

    def nodes(self, count: int) -> tuple[NodeLayout, ...]:
        """The first ``count`` nodes."""
        return tuple(self.node(index) for index in range(1, count + 1))

    def pod_netns(self, namespace: str, pod: str) -> Path:
        """A pod's own network namespace."""
        return NETNS_ROOT / f"{self.name}-{namespace}-{pod}"

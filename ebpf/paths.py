"""Where a node's programs, maps and links are pinned.

Everything of one node stands under ``<bpffs>/ambimesh/<node>/v<ABI>``. The version is in the path, so that an agent
never opens a map whose layout it does not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from ebpf.layout import ABI_VERSION
from mesh.errors import ConfigurationError

# bpffs reserves names with dots; bcc separates a map's type from its path with a colon.
_NODE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class PinPaths:
    """The pinned names of one node.

    Raises:
        ConfigurationError: a node name or path that bpffs or bcc could not hold.
    """

    bpffs: Path
    """The mount point of a bpf file system."""
    node: str
    """The node's name; dots (``node1.example``) are written as ``_`` in the path."""

    def __post_init__(self) -> None:
        if not _NODE.fullmatch(self._node_folder):
            raise ConfigurationError(f"{self.node!r} cannot name a node: letters, digits, '-', '_' and '.' only")
        if ":" in str(self.bpffs) or '"' in str(self.bpffs) or not self.bpffs.is_absolute():
            raise ConfigurationError(f"bpffs path {str(self.bpffs)!r}: give an absolute path without ':' and quotes")

    @property
    def _node_folder(self) -> str:
        return self.node.replace(".", "_")

    @property
    def mesh(self) -> Path:
        """All nodes of this bpffs."""
        return self.bpffs / "ambimesh"

    @property
    def node_root(self) -> Path:
        """All versions of this node."""
        return self.mesh / self._node_folder

    @property
    def root(self) -> Path:
        """This version's objects."""
        return self.node_root / f"v{ABI_VERSION}"

    @property
    def maps(self) -> Path:
        """Pinned maps, by the names of ``programs/maps.h``."""
        return self.root / "maps"

    @property
    def programs(self) -> Path:
        """Pinned programs, by function name."""
        return self.root / "programs"

    @property
    def links(self) -> Path:
        """Pinned links to the node's cgroup, by function name."""
        return self.root / "links"

    @property
    def pods(self) -> Path:
        """Pinned sk_lookup links, one per enrolled pod."""
        return self.root / "pods"

    def pod_link(self, cookie: int, uid: str) -> Path:
        """The link of one pod; cookie and uid can be read back from the name (``read_pod_link``).

        Raises:
            ConfigurationError: the uid is empty or too long for a file name.
        """
        name = f"{cookie:016x}-{quote(uid, safe='').replace('.', '%2E')}"
        if not uid or len(name) > _LONGEST_NAME:
            raise ConfigurationError(f"pod uid {uid[:64]!r}: must have 1 to some 200 characters")
        return self.pods / name


def read_pod_link(name: str) -> tuple[int, str] | None:
    """Cookie and uid of a pinned pod link's file name; None for a name that is no pod's."""
    cookie, separator, uid = name.partition("-")
    if not separator or len(cookie) != 16 or not uid:
        return None
    try:
        return int(cookie, 16), unquote(uid)
    except ValueError:
        return None

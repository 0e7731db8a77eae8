"""The network that the machines of a cluster share: a network namespace with a bridge, where its control plane runs.

A cluster is nothing to the machine it runs on: it uses none of its addresses, ports, routes and packet filters, and
several clusters may use the same. Who wants to talk to it goes inside: programs by ``Segment.command``, Python's own
connections by ``Segment.entered``.

Addresses, of the same form in every cluster: 10.250.0.1 is the control plane, 10.250.0.(10+n) node n, 10.244.n.0/24 its
pods.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mesh.errors import EnvironmentLacks
from mesh.netns import NetworkNamespace
from tests.e2e.kit.processes import Process

BRIDGE = "machines"
CONTROL_PLANE_ADDRESS = "10.250.0.1"
POD_RANGE = "10.244.0.0/16"
_COMMAND_SECONDS = 30.0
_START_SECONDS = 30.0


def node_address(number: int) -> str:
    """The address of node ``number``, from 1."""
    return f"10.250.0.{10 + number}"


def pod_range(number: int) -> str:
    """The addresses of its pods."""
    return f"10.244.{number}.0/24"


def execute(*command: str | Path) -> str:
    """Run a short command and return what it printed.

    Raises:
        EnvironmentLacks: it failed; the message is what it said.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS)
    if done.returncode:
        raise EnvironmentLacks(f"{' '.join(words)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Segment:
    """One that exists; made by `segment`."""

    def __init__(self, pause: Path, folder: Path) -> None:
        """Make the namespace, with the bridge; ``pause`` is the program that keeps it."""
        ours = NetworkNamespace.open("/proc/self/ns/net")
        self._keeper = Process("segment", ["unshare", "--net", "--", pause], folder / "segment.log")
        try:
            self._keeper.wait_until(lambda: _other_namespace(self._keeper.pid, ours), _START_SECONDS)
            self._namespace = NetworkNamespace.open(f"/proc/{self._keeper.pid}/ns/net")
        except BaseException:
            self._keeper.kill()
            raise
        finally:
            ours.close()

    def command(self, *command: str | Path) -> list[str]:
        """The command that runs this command inside."""
        return ["nsenter", f"--net=/proc/{self._keeper.pid}/ns/net", "--", *map(str, command)]

    def execute(self, *command: str | Path) -> str:
        """Run a short command inside and return what it printed.

        Raises:
            EnvironmentLacks: it failed; the message is what it said.
        """
        return execute(*self.command(*command))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside with this thread; sockets made there stay there."""
        with self._namespace.entered():
            yield

    def prepare(self) -> None:
        """Give it its interfaces and addresses."""
        self.execute("ip", "link", "set", "lo", "up")
        self.execute("ip", "link", "add", BRIDGE, "type", "bridge")
        self.execute("ip", "address", "add", f"{CONTROL_PLANE_ADDRESS}/24", "dev", BRIDGE)
        self.execute("ip", "link", "set", BRIDGE, "up")

    def connect(self, name: str, number: int, pid: int) -> None:
        """Join a node to it, whose process ``pid`` lives in the node's network namespace.

        Args:
            name: of the segment's end of the link.
            number: the node's.
            pid: as the kit sees it; the node's end becomes ``eth0`` there, down.
        """
        self.execute("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self.execute("ip", "link", "set", name, "master", BRIDGE, "up")
        self.execute("ip", "route", "replace", pod_range(number), "via", node_address(number))

    def disconnect(self, name: str) -> None:
        """Take a node's link away, at once: the kernel removes it some time after the node's namespace has ended."""
        if name not in self._links():
            return
        try:
            self.execute("ip", "link", "delete", name)
        except EnvironmentLacks:
            if name in self._links():
                raise  # else the kernel was faster

    def _links(self) -> set[str]:
        lines = self.execute("ip", "-oneline", "link", "show", "type", "veth").splitlines()
        return {line.split(":")[1].partition("@")[0].strip() for line in lines}

    def route_services(self, services: str, number: int) -> None:
        """Reach Services through a node, since the control plane has no kube-proxy of its own."""
        self.execute("ip", "route", "replace", services, "via", node_address(number))

    def close(self) -> None:
        """End it; its interfaces go with it once nobody else is inside."""
        self._namespace.close()
        self._keeper.kill()


@contextmanager
def segment(pause: Path, folder: Path) -> Iterator[Segment]:
    """A network for the length of the block."""
    made = Segment(pause, folder)
    try:
        made.prepare()
        yield made
    finally:
        made.close()


def _other_namespace(pid: int, than: NetworkNamespace) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino != than.inode
    except OSError:
        return False


def nodes_routes(number: int, nodes: Sequence[int]) -> list[tuple[str, str]]:
    """Where node ``number`` finds what is not on it: pairs of destination and gateway."""
    others = [(pod_range(other), node_address(other)) for other in nodes if other != number]
    return [("default", CONTROL_PLANE_ADDRESS), *others]

"""The network of a lab: namespaces for nodes, a bridge that joins them, routes between their pods.

Every link is made inside the lab's own namespaces: a bridge in ``<lab>-fabric``, and for each node and the control
plane a veth pair with one end in that bridge and the other, ``eth0``, in the node. The root namespace is not touched
at all, so nothing there can be left behind and labs do not meet. Forwarding is switched on in the nodes' namespaces
alone, as on any Kubernetes node.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ambimesh.lab.layout import CONTROL_IPV4, CONTROL_IPV6, LabLayout, NodeLayout
from ambimesh.lab.programs import Place, ProgramFailed, run, run_for_status
from mesh.errors import EnvironmentLacks

_BRIDGE = "br0"
UPLINK = "eth0"
"""A node's interface on the link between nodes, in its own namespace."""

_NODE_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    # Replies between two pods of a node go through the bridge alone; without these the Service translation, which is
    # tracked by the IP layer, would never see them. Kubernetes asks for the same.
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}


def attach_commands(port: str, netns: str) -> list[str]:
    """``ip -batch`` lines, for the fabric's namespace, that join ``netns`` to the bridge.

    Args:
        port: name of the bridge's end, at most 15 characters.
        netns: name under /run/netns of the namespace that gets ``eth0``.
    """
    return [
        f"link add {port} type veth peer name {UPLINK} netns {netns}",
        f"link set {port} master {_BRIDGE} up",
    ]


def address_commands(ipv4: str, ipv6: str) -> list[str]:
    """``ip -batch`` lines, for a node's namespace, that give it its addresses."""
    return [
        "link set lo up",
        f"addr add {ipv4}/24 dev {UPLINK}",
        # Duplicate detection would keep the address unusable for a second or two; the lab allots them itself.
        f"addr add {ipv6}/64 dev {UPLINK} nodad",
        f"link set {UPLINK} up",
    ]


def route_commands(node: NodeLayout, nodes: Sequence[NodeLayout]) -> list[str]:
    """``ip -batch`` lines, for this node's namespace, that lead to the pods of all others."""
    return control_route_commands([other for other in nodes if other.index != node.index])


def control_route_commands(nodes: Sequence[NodeLayout]) -> list[str]:
    """``ip -batch`` lines, for the control plane's namespace, that lead to every pod."""
    lines: list[str] = []
    for node in nodes:
        lines.append(f"route add {node.pods_ipv4} via {node.ipv4} dev {UPLINK}")
        lines.append(f"route add {node.pods_ipv6} via {node.ipv6} dev {UPLINK}")
    return lines


async def build(layout: LabLayout, nodes: Sequence[NodeLayout]) -> None:
    """Make the namespaces and links of the nodes, the control plane and the fabric.

    Raises:
        EnvironmentLacks: the kernel or iproute2 refused.
    """
    for netns in (layout.fabric_netns, layout.control_netns, *(node.netns for node in nodes)):
        await add_namespace(layout, netns)
    lines = [f"link add {_BRIDGE} type bridge", f"link set {_BRIDGE} up", "link set lo up"]
    lines += attach_commands("control", layout.control_netns.name)
    for node in nodes:
        lines += attach_commands(node.name, node.netns.name)
    await ip_batch(layout.fabric_netns, lines)
    await ip_batch(layout.control_netns, address_commands(CONTROL_IPV4, CONTROL_IPV6) + control_route_commands(nodes))
    for node in nodes:
        await set_sysctls(node.netns, _NODE_SYSCTLS)
        await ip_batch(node.netns, address_commands(node.ipv4, node.ipv6) + route_commands(node, nodes))


async def add_namespace(layout: LabLayout, netns: Path) -> None:
    """Make a network namespace with its loopback up, and note that it is the lab's.

    Raises:
        EnvironmentLacks: it exists already, or the kernel refused.
    """
    # Noted first: a namespace that is made but not noted would be left behind.
    mark = layout.namespaces / netns.name
    if netns.exists() and not mark.exists():
        raise EnvironmentLacks(
            f"a network namespace {netns.name} exists that is not this lab's; remedy: ip netns del {netns.name}"
        )
    mark.touch()
    await run(["ip", "netns", "add", netns.name])
    await ip_batch(netns, ["link set lo up"])


async def remove_namespace(layout: LabLayout, netns: Path) -> None:
    """Remove a network namespace of the lab's with all its links; one that is gone already is no error."""
    if netns.exists():
        status, _, errors = await run_for_status(["ip", "netns", "del", netns.name])
        if status != 0 and netns.exists():
            raise ProgramFailed(f"cannot remove the namespace {netns.name}: {errors.decode(errors='replace').strip()}")
    (layout.namespaces / netns.name).unlink(missing_ok=True)


async def ip_batch(netns: Path, lines: Sequence[str]) -> None:
    """Give iproute2 these commands inside a namespace, all or an error.

    Raises:
        ProgramFailed: one was refused; the message names it.
    """
    if not lines:
        return
    status, _, errors = await run_for_status(
        ["ip", "-netns", netns.name, "-batch", "-"], stdin="\n".join(lines).encode() + b"\n"
    )
    if status != 0:
        words = errors.decode(errors="replace").strip()
        raise ProgramFailed(f"setting up the network of {netns.name} failed: {words}")


async def set_sysctls(netns: Path, values: dict[str, str]) -> None:
    """Set kernel parameters of one network namespace.

    Raises:
        ProgramFailed: the kernel lacks one of them.
    """
    assignments = [f"{key}={value}" for key, value in values.items()]
    await run(["sysctl", "-q", "-w", *assignments], place=Place(netns=netns))

from __future__ import annotations

from ambimesh.lab import fabric
from ambimesh.lab.layout import MAX_NODES, LabLayout

LAB = LabLayout.named("lab")


def test_a_node_has_routes_to_the_pods_of_all_others_but_its_own() -> None:
    nodes = LAB.nodes(3)
    assert fabric.route_commands(nodes[0], nodes) == [
        "route add 10.244.2.0/24 via 172.18.0.12 dev eth0",
        "route add fd00:10:244:2::/64 via fd00:172:18::12 dev eth0",
        "route add 10.244.3.0/24 via 172.18.0.13 dev eth0",
        "route add fd00:10:244:3::/64 via fd00:172:18::13 dev eth0",
    ]


def test_the_control_plane_reaches_every_node() -> None:
    assert len(fabric.control_route_commands(LAB.nodes(3))) == 6


def test_interface_names_fit_the_kernels_limit() -> None:
    for node in LAB.nodes(MAX_NODES):
        words = " ".join(fabric.attach_commands(node.name, node.netns.name)).split()
        ports = [words[index + 1] for index, word in enumerate(words[:-1]) if word in ("add", "set", "name")]
        assert ports
        assert all(len(name) <= 15 for name in ports)


def test_addresses_are_usable_at_once() -> None:
    commands = fabric.address_commands("172.18.0.11", "fd00:172:18::11")
    assert "addr add fd00:172:18::11/64 dev eth0 nodad" in commands

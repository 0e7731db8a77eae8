from __future__ import annotations

import ipaddress
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambimesh.lab.layout import MAX_NODES, LabLayout
from mesh.errors import ConfigurationError


def test_addresses_of_nodes_and_pods() -> None:
    node = LabLayout.named("lab").node(2)
    assert (node.name, node.ipv4, node.ipv6) == ("node2", "172.18.0.12", "fd00:172:18::12")
    assert (node.pods_ipv4, node.pods_ipv6) == ("10.244.2.0/24", "fd00:10:244:2::/64")
    assert node.netns == Path("/run/netns/lab-node2")


def test_no_two_nodes_share_an_address_or_a_range() -> None:
    nodes = LabLayout.named("lab").nodes(MAX_NODES)
    for kind in ("ipv4", "ipv6", "pods_ipv4", "pods_ipv6"):
        assert len({getattr(node, kind) for node in nodes}) == MAX_NODES
    for node in nodes:
        ipaddress.ip_network(node.pods_ipv6)


def test_everything_of_a_lab_is_below_its_folder(tmp_path: Path) -> None:
    layout = LabLayout.named("one", tmp_path)
    for place in (layout.cluster, layout.logs, layout.pids, layout.bpffs, layout.tokens, layout.node(1).run):
        assert place.is_relative_to(tmp_path / "one")
    programs = {node.cni_programs for node in layout.nodes(2)}
    assert {place.parent for place in programs} == {layout.programs}
    assert len(programs) == 2


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "1a", "a/b", "a b", "..", "a" * 31])
def test_names_that_could_not_be_a_namespace_or_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a lab"):
        LabLayout.named(name)


@given(st.text(string.ascii_letters + string.digits + "-./_ ", max_size=40))
def test_an_accepted_name_is_one_plain_path_component(name: str) -> None:
    try:
        layout = LabLayout.named(name)
    except ConfigurationError:
        return
    assert layout.root.name == name
    assert layout.root.parent == layout.state_root

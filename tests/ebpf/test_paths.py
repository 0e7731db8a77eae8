"""Pinned names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.layout import ABI_VERSION
from ebpf.paths import PinPaths, read_pod_link
from mesh.errors import ConfigurationError

BPFFS = Path("/sys/fs/bpf")


def test_everything_of_a_version_stands_under_one_folder() -> None:
    paths = PinPaths(BPFFS, "node1.example.org")
    assert paths.root == BPFFS / "ambimesh" / "node1_example_org" / f"v{ABI_VERSION}"
    for folder in (paths.maps, paths.programs, paths.links, paths.pods):
        assert folder.parent == paths.root


@pytest.mark.parametrize("node", ["", "a/b", "..:", "nöde", "a b"])
def test_a_node_name_bpffs_cannot_hold(node: str) -> None:
    with pytest.raises(ConfigurationError):
        PinPaths(BPFFS, node)


@pytest.mark.parametrize("bpffs", ["relative", "/with:colon", '/with"quote'])
def test_a_path_bcc_cannot_hold(bpffs: str) -> None:
    with pytest.raises(ConfigurationError):
        PinPaths(Path(bpffs), "node1")


@given(cookie=st.integers(0, 2**64 - 1), uid=st.text(min_size=1, max_size=15))
def test_cookie_and_uid_are_read_back_from_a_link_name(cookie: int, uid: str) -> None:
    pin = PinPaths(BPFFS, "node1").pod_link(cookie, uid)
    assert pin.parent == BPFFS / f"ambimesh/node1/v{ABI_VERSION}/pods"
    assert "." not in pin.name
    assert read_pod_link(pin.name) == (cookie, uid)


@pytest.mark.parametrize("uid", ["", "x" * 300])
def test_a_uid_that_is_no_file_name(uid: str) -> None:
    with pytest.raises(ConfigurationError):
        PinPaths(BPFFS, "node1").pod_link(1, uid)


@pytest.mark.parametrize("name", ["", "sk_lookup", "0000000000000001-", "zzzzzzzzzzzzzzzz-uid", "1-uid"])
def test_names_that_are_no_pods(name: str) -> None:
    assert read_pod_link(name) is None

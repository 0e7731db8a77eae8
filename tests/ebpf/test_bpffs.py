"""Mounting a bpf file system and telling it from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpf.bpffs import is_bpffs, locked, mount_bpffs, require_bpffs, unmount_bpffs
from mesh.errors import EnvironmentLacks


def test_an_ordinary_folder_is_none(tmp_path: Path) -> None:
    assert not is_bpffs(tmp_path)
    with pytest.raises(EnvironmentLacks, match="mount -t bpf"):
        require_bpffs(tmp_path)
    unmount_bpffs(tmp_path)  # nothing to do


def test_a_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            pass


@pytest.mark.root
def test_mounted_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    point = tmp_path / "with space" / "bpf"
    try:
        mount_bpffs(point)
        mount_bpffs(point)
        assert is_bpffs(point)
        assert Path("/proc/self/mountinfo").read_text().count(str(point).replace(" ", "\\040")) == 1
        assert not is_bpffs(point.parent)
    finally:
        unmount_bpffs(point)
    assert not is_bpffs(point)

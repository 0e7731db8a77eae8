"""The installer on disks that are full: real ones, of a few kilobytes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cni.installer.driver import Installation, Look, install_once, keep_installed, uninstall_once
from mesh.errors import EnvironmentLacks

pytestmark = pytest.mark.root

LIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "odd": {"kept": [1]}}]}
PAGE = 4096
PLUGIN = b"plugin" * PAGE
"""Six pages."""


class Disk:
    """A file system of so many pages."""

    def __init__(self, folder: Path, pages: int) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", folder], check=True)

    def fill(self) -> None:
        """Leave no page free."""
        with (self.folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(PAGE))

    def free(self) -> None:
        """Take away what filled it."""
        (self.folder / "filler").unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", self.folder], check=True)


@pytest.fixture
def configurations(tmp_path: Path) -> Iterator[Disk]:
    """Holds one configuration."""
    disk = Disk(tmp_path / "net.d", 4)
    (disk.folder / "10-net.conflist").write_text(json.dumps(LIST))
    yield disk
    disk.unmount()


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "bin", 16)
    yield disk
    disk.unmount()


@pytest.fixture
def place(tmp_path: Path, configurations: Disk, plugins: Disk) -> Installation:
    (tmp_path / "built").write_bytes(PLUGIN)
    return Installation(
        net_directory=configurations.folder,
        binary_directory=plugins.folder,
        binary=tmp_path / "built",
        agent_socket=Path("/run/a.sock"),
    )


def content(disk: Disk) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in disk.folder.iterdir() if entry.name != "filler"}


def test_without_room_for_the_plugin_nothing_is_changed(
    place: Installation, configurations: Disk, plugins: Disk
) -> None:
    before = content(configurations)
    plugins.fill()
    with pytest.raises(EnvironmentLacks, match=rf"No space left on device \({plugins.folder}/ambimesh-cni\)"):
        install_once(place)
    assert (content(configurations), content(plugins)) == (before, {})
    plugins.free()
    assert install_once(place) is not None


def test_of_a_full_disk_the_node_hears_its_own_names(place: Installation, plugins: Disk) -> None:
    plugins.fill()
    with pytest.raises(EnvironmentLacks, match=r"No space left on device \(/opt/cni/bin/ambimesh-cni\)"):
        install_once(replace(place, binary_directory_of_node=Path("/opt/cni/bin")))


def test_without_room_for_a_newer_plugin_the_older_stays(place: Installation, plugins: Disk, tmp_path: Path) -> None:
    """Each pod that starts executes it: at no time may it be missing or cut."""
    install_once(place)
    plugins.fill()
    (tmp_path / "newer").write_bytes(PLUGIN[::-1])
    with pytest.raises(EnvironmentLacks, match="No space left"):
        install_once(replace(place, binary=tmp_path / "newer"))
    assert content(plugins) == {"ambimesh-cni": PLUGIN}


def test_without_room_for_the_entry_the_configuration_is_as_it_was(
    place: Installation, configurations: Disk
) -> None:
    before = content(configurations)
    configurations.fill()
    with pytest.raises(EnvironmentLacks, match=rf"No space left on device \({configurations.folder}/10-net.conflist\)"):
        install_once(place)
    assert content(configurations) == before


def test_on_a_full_disk_it_cannot_be_taken_out_and_stays_whole(place: Installation, configurations: Disk) -> None:
    """With the entry the plugin stays, too: without it no pod would start."""
    install_once(place)
    before = content(configurations)
    configurations.fill()
    with pytest.raises(EnvironmentLacks, match="No space left"):
        uninstall_once(place)
    assert content(configurations) == before
    assert (place.binary_directory / "ambimesh-cni").exists()
    configurations.free()
    assert uninstall_once(place) == [configurations.folder / "10-net.conflist"]
    assert json.loads((configurations.folder / "10-net.conflist").read_text()) == LIST


async def test_it_goes_on_when_there_is_room_again(place: Installation, configurations: Disk) -> None:
    configurations.fill()
    outcomes: list[tuple[Path | None, str]] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            def report(look: Look) -> None:
                outcomes.append((look.path, str(look.missing_because)))
                if look.path is not None:
                    nursery.cancel_scope.cancel()
                elif len(outcomes) == 1:
                    configurations.free()

            await keep_installed(place, report)
    assert "No space left" in outcomes[0][1]
    assert outcomes[-1][0] == configurations.folder / "10-net.conflist"

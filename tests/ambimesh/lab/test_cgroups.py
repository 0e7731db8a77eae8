from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ambimesh.lab import cgroups
from mesh.errors import EnvironmentLacks

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw
"""


def test_the_hierarchy_is_found_wherever_it_is_mounted() -> None:
    assert cgroups.hierarchy(MOUNTINFO) == Path("/sys/fs/cgroup/unified")


def test_without_the_hierarchy_the_remedy_is_named() -> None:
    with pytest.raises(EnvironmentLacks, match="mount -t cgroup2"):
        cgroups.hierarchy(MOUNTINFO.replace("cgroup2", "cgroup"))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    folder = cgroups.find_hierarchy() / f"ambimesh-test-{os.getpid()}"
    (folder / "inner").mkdir(parents=True)
    yield folder
    for place in (folder / "inner", folder):
        if place.exists():
            (place / "cgroup.kill").write_text("1")
            place.rmdir()


@pytest.mark.root
async def test_removing_kills_what_is_inside_with_its_children(cgroup: Path) -> None:
    script = f"echo $$ > {cgroup}/inner/cgroup.procs; trap '' TERM; sleep 1000 & sleep 1000"
    child = await trio.lowlevel.open_process(["sh", "-c", script])
    with trio.fail_after(5):
        while len(cgroups.processes_in(cgroup)) < 3:  # noqa: ASYNC110 -- nothing to wait for
            await trio.sleep(0.01)
        await cgroups.remove(cgroup)
        assert await child.wait() == -9
    assert cgroups.processes_in(cgroup) == []
    with pytest.raises(FileNotFoundError):
        os.stat(cgroup)


@pytest.mark.root
async def test_what_is_gone_is_no_error(cgroup: Path) -> None:
    await cgroups.remove(cgroup)
    await cgroups.remove(cgroup)
    assert cgroups.processes_in(cgroup) == []

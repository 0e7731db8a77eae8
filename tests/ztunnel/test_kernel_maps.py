from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
import trio.testing

from ebpf.paths import PinPaths
from ztunnel.kernel_maps import open_maps


async def test_maps_are_waited_for(
    maps: Any, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    paths = PinPaths(tmp_path, "node1")
    maps.take_away(maps.kinds[-1])
    found: list[Any] = []

    async def wait() -> None:
        found.append(await open_maps(paths, trio.Event()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(2.5)
        assert not found
        assert len(maps.opened) >= 6
        assert all(one.closed for one in maps.opened)  # what was opened in vain does not pile up
        maps.take_away(None)
    assert [type(one) for one in maps.opened[-5:]] == maps.kinds
    assert not any(one.closed for one in maps.opened[-5:])


async def test_waiting_for_maps_ends_when_we_are_to_stop(maps: Any, tmp_path: Path) -> None:
    maps.take_away(maps.kinds[0])
    stopping = trio.Event()
    stopping.set()
    with trio.fail_after(2):
        assert await open_maps(PinPaths(tmp_path, "node1"), stopping) is None

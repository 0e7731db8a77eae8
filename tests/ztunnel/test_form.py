"""The ztunnels of a lab run the compiled form of the hot modules: every lab test is a test of it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ambimesh.lab.ztunnel_admin import fetch
from mesh import compiled


@pytest.mark.lab
async def test_the_ztunnels_of_a_lab_run_the_compiled_form(scene: Any) -> None:
    for node in ("node1", "node2"):
        processes = (await fetch(scene.lab, node))["processes"]
        assert processes
        for process in processes:
            assert (process["form"], process["formDetail"]) == ("compiled", str(compiled.FOLDER))
            loaded = await trio.Path(f"/proc/{process['pid']}/maps").read_text()
            # The library with the code of all its modules; the waypoint's is another one, for which it has no use.
            files = compiled.read_manifest(compiled.FOLDER).files
            assert str(compiled.FOLDER / files["ambimesh__mypyc"]) in loaded
            assert str(compiled.FOLDER / files["waypoint__mypyc"]) not in loaded

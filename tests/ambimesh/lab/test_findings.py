from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio.testing

from ambimesh.lab import findings
from ambimesh.lab.findings import Finding, findings_of
from ambimesh.lab.http_client import Answer
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.record import Lab, LabRecord
from mesh.errors import ConnectFailed, InvalidMessage
from resources.base import ObjectMeta
from resources.folder_store import FolderStore
from resources.objects import Namespace, ObjectKey

SHOP, OTHER = ObjectKey("Namespace", "", "shop"), ObjectKey("Namespace", "", "other")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    layout = LabLayout("lab", tmp_path)
    store = FolderStore(layout.cluster)
    for key in (OTHER, SHOP):
        store.apply(Namespace(metadata=ObjectMeta(name=key.name)))
    return Lab(layout, LabRecord(name="lab", nodes=1, mesh=True, cgroup="/c"))


def finding(name: str) -> dict[str, str]:
    return {"kind": "Namespace", "namespace": "", "name": name, "condition": "NotApplied", "message": f"of {name}"}


def page(version: str, *names: str) -> Answer:
    found = {"findings": [finding(name) for name in names], "problems": ["x"], "resourceVersion": version}
    return Answer(200, msgspec.json.encode(found))


def operator(monkeypatch: pytest.MonkeyPatch, answer: Callable[[int], Answer]) -> list[Any]:
    """Answer each request by its number; what was asked is in the list."""
    asked: list[Any] = []

    async def get(netns: Path, port: int, path: str) -> Answer:
        await trio.lowlevel.checkpoint()
        asked.append((netns.name, port, path))
        return answer(len(asked))

    monkeypatch.setattr(findings, "get", get)
    return asked


async def test_findings_are_waited_for_until_the_operator_has_read_the_last_object(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    asked = operator(monkeypatch, lambda count: page(("", "1", "2")[count - 1], "shop"))
    assert await findings_of(lab, [SHOP, OTHER]) == [Finding("Namespace", "", "shop", "NotApplied", "of shop")]
    assert asked == [("lab-control", 15014, "/debug/findings?kind=Namespace&namespace=&name=shop")] * 3


async def test_only_the_objects_asked_about_are_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    operator(monkeypatch, lambda _: page("9", "shop", "third", "other"))
    assert [str(found) for found in await findings_of(lab, [SHOP])] == ["Namespace shop: of shop"]
    assert [found.name for found in await findings_of(lab, [OTHER, SHOP])] == ["shop", "other"]


async def test_an_operator_that_does_not_read_is_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    operator(monkeypatch, lambda _: page("1"))
    with pytest.raises(ConnectFailed, match="has not read Namespace shop after 3 s"):
        await findings_of(lab, [SHOP])


async def test_an_object_deleted_meanwhile_is_not_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    FolderStore(lab.layout.cluster).delete(Namespace, "", "shop")
    asked = operator(monkeypatch, lambda _: page(""))
    assert await findings_of(lab, [SHOP]) == []
    assert len(asked) == 1


async def test_what_is_no_page_of_findings_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    operator(monkeypatch, lambda _: Answer(503, b"starting"))
    with pytest.raises(InvalidMessage, match="answered 503 and no findings"):
        await findings_of(lab, [SHOP])


async def test_without_the_mesh_or_objects_nobody_is_asked(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = operator(monkeypatch, lambda _: page("9", "shop"))
    bare = Lab(lab.layout, LabRecord(name="lab", nodes=1, mesh=False, cgroup="/c"))
    assert (await findings_of(bare, [SHOP]), await findings_of(lab, [])) == ([], [])
    assert asked == []

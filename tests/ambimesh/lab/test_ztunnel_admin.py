from __future__ import annotations

from pathlib import Path

import pytest

from ambimesh.lab.http_client import Answer
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.record import Lab, LabRecord
from ambimesh.lab.ztunnel_admin import ask, fetch
from mesh.errors import ConfigurationError, InvalidMessage


def lab(mesh: bool) -> Lab:
    return Lab(LabLayout.named("lab"), LabRecord(name="lab", nodes=1, mesh=mesh, cgroup="/c"))


def answering(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> list[tuple[Path, int, str]]:
    asked: list[tuple[Path, int, str]] = []

    async def get(netns: Path, port: int, path: str, *, method: str, timeout: float) -> Answer:
        asked.append((netns, port, f"{method} {path}"))
        return answer

    monkeypatch.setattr("ambimesh.lab.ztunnel_admin.get", get)
    return asked


async def test_the_dump_is_fetched_from_the_nodes_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, Answer(200, b'{"workloads": []}'))
    assert await fetch(lab(mesh=True), "node1") == {"workloads": []}
    assert asked == [(Path("/run/netns/lab-node1"), 15000, "GET /config_dump")]


@pytest.mark.parametrize("answer", [Answer(200, b"text"), Answer(200, b"[]"), Answer(404, b"{}")])
async def test_what_is_no_dump_is_refused(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(InvalidMessage, match=f"ztunnel of node1 answered {answer.status}"):
        await fetch(lab(mesh=True), "node1")


async def test_a_refusal_is_told_as_it_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, Answer(400, b"'loud' is not a log level"))
    with pytest.raises(InvalidMessage, match=r"node1 answered 400 to POST /logging.*'loud' is not a log level"):
        await ask(lab(mesh=True), "node1", "/logging?level=loud", "POST")
    assert asked == [(Path("/run/netns/lab-node1"), 15000, "POST /logging?level=loud")]


async def test_without_the_mesh_there_is_nobody_to_ask() -> None:
    with pytest.raises(ConfigurationError, match="runs without the mesh"):
        await fetch(lab(mesh=False), "node1")

"""``ambimesh namespace`` against a folder of objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ambimesh.commands import namespace
from mesh.errors import ConfigurationError
from resources.base import ObjectMeta
from resources.folder_store import FolderStore
from resources.objects import Namespace, Pod
from resources.pod import Container, PodSpec, PodStatus


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    made = FolderStore(tmp_path)
    monkeypatch.setattr(namespace, "store_of", lambda _lab, _context: made)
    for name in ("demo", "other", "kube-system"):
        made.replace(Namespace(metadata=ObjectMeta(name=name)))
    return made


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(namespace.app, arguments)
    if result.exception is not None:
        raise result.exception
    return str(result.output)


def _labels(store: FolderStore, name: str) -> dict[str, str]:
    return store.get(Namespace, "", name).metadata.labels


def _pod(store: FolderStore, name: str, *, captured: bool = False, host: bool = False, phase: str = "Running") -> None:
    annotations = {namespace.REDIRECTION: "enabled"} if captured else {}
    spec = PodSpec(containers=(Container(name="c"),), host_network=host)
    metadata = ObjectMeta(name=name, namespace="demo", annotations=annotations)
    store.replace(Pod(metadata=metadata, spec=spec, status=PodStatus(phase=phase)))


def test_namespaces_go_in_and_out(store: FolderStore) -> None:
    assert "namespace demo is in the mesh" in _run("enroll", "demo", "other")
    assert _labels(store, "other") == {namespace.MODE_LABEL: "ambient"}
    store.patch_metadata(Namespace, "", "demo", labels={namespace.USE_LABEL: "w"})
    assert "still labelled" in _run("unenroll", "demo")
    assert _labels(store, "demo") == {namespace.USE_LABEL: "w"}


def test_the_list_counts_pods_that_can_be_captured(store: FolderStore) -> None:
    assert _run("list") == "No namespaces are in the mesh.\n"
    _run("enroll", "demo")
    _pod(store, "a", captured=True)
    _pod(store, "b")
    _pod(store, "host", host=True)
    _pod(store, "ended", phase="Succeeded")
    expected = {"namespace": "demo", "mode": "ambient", "waypoint": "", "captured": 1, "pods": 2}
    assert json.loads(_run("list", "-o", "json")) == [expected]
    assert _run("list").splitlines()[1].split() == ["demo", "ambient", "None", "1/2"]
    assert len(json.loads(_run("list", "--all", "-o", "json"))) == 3


@pytest.mark.parametrize("arguments", [("enroll", "absent"), ("unenroll", "absent"), ("enroll", "kube-system")])
def test_what_cannot_be_is_refused(store: FolderStore, arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match=arguments[1]):
        _run(*arguments)
    assert _labels(store, "kube-system") == {}


def test_sidecars_are_warned_of(store: FolderStore) -> None:
    store.patch_metadata(Namespace, "", "demo", labels={"istio-injection": "enabled"})
    assert "sidecars" in _run("enroll", "demo")

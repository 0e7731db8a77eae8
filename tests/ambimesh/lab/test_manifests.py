from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ambimesh.lab import manifests
from mesh.errors import ConfigurationError
from resources.base import ObjectMeta
from resources.folder_store import FolderStore
from resources.objects import Namespace, Pod, Service

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {containers: [{name: c, image: nginx, command: [serve]}]}
"""
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "cluster")


def written(tmp_path: Path, *documents: str, name: str = "a.yaml") -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text("---\n".join(documents))
    return folder


def outcomes(report: manifests.Report) -> list[str]:
    return [f"{key.kind} {what}" for key, what in report.done]


def test_namespaces_come_first_whatever_their_file(tmp_path: Path, store: FolderStore) -> None:
    written(tmp_path, POD, name="1.yaml")
    folder = written(tmp_path, NAMESPACE, name="2.yaml")
    report = manifests.apply(store, [folder])
    assert outcomes(report) == ["Namespace created", "Pod created"]
    assert report.problems == []
    assert outcomes(manifests.apply(store, [folder])) == ["Namespace unchanged", "Pod unchanged"]


def test_images_are_ignored_with_a_notice(tmp_path: Path, store: FolderStore) -> None:
    assert "images are ignored" in manifests.apply(store, [written(tmp_path, NAMESPACE, POD)]).notices[0]


def test_a_changed_pod_is_another_pod_a_relabelled_one_is_not(tmp_path: Path, store: FolderStore) -> None:
    folder = written(tmp_path, NAMESPACE, POD)
    manifests.apply(store, [folder])
    store.modify(Pod, "shop", "web", lambda pod: _on_node(pod))
    first = store.get(Pod, "shop", "web")
    written(tmp_path, NAMESPACE, POD.replace("namespace: shop}", "namespace: shop, labels: {a: b}}"))
    assert outcomes(manifests.apply(store, [folder]))[1] == "Pod configured"
    assert store.get(Pod, "shop", "web").metadata.uid == first.metadata.uid
    written(tmp_path, NAMESPACE, POD.replace("serve", "other"))
    assert outcomes(manifests.apply(store, [folder]))[1] == "Pod replaced"
    assert store.get(Pod, "shop", "web").metadata.uid != first.metadata.uid


def _on_node(pod: Pod) -> Pod:
    return msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name="node1"))


def test_what_is_sound_is_applied_and_the_rest_is_named(tmp_path: Path, store: FolderStore) -> None:
    bad = POD.replace("name: web", "name: bad").replace("command", "comand")
    folder = written(tmp_path, NAMESPACE, bad, POD)
    report = manifests.apply(store, [folder])
    assert outcomes(report) == ["Namespace created", "Pod created"]
    (problem,) = report.problems
    assert str(folder / "a.yaml") in problem
    assert "(document 2)" in problem
    assert "$.spec.containers[0].comand" in problem


def test_a_namespace_that_is_not_there_is_named_with_the_remedy(tmp_path: Path, store: FolderStore) -> None:
    (problem,) = manifests.apply(store, [written(tmp_path, POD)]).problems
    assert "the namespace shop does not exist; remedy: add a Namespace" in problem
    assert store.of_kind(Pod) == []


def test_a_cluster_address_belongs_to_one_service(tmp_path: Path, store: FolderStore) -> None:
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: shop}\n"
    service += "spec: {clusterIP: 10.96.7.7, ports: [{port: 80}]}\n"
    report = manifests.apply(store, [written(tmp_path, NAMESPACE, service % "a", service % "b")])
    assert "10.96.7.7 belongs to Service shop/a; remedy" in report.problems[0]
    assert [entry.metadata.name for entry in store.of_kind(Service)] == ["a"]


def test_a_namespace_goes_with_what_is_in_it(tmp_path: Path, store: FolderStore) -> None:
    manifests.apply(store, [written(tmp_path, NAMESPACE, POD)])
    store.apply(Namespace(metadata=ObjectMeta(name="other")))
    report = manifests.delete(store, [written(tmp_path, NAMESPACE)])
    assert outcomes(report) == ["Namespace deleted"]
    assert store.of_kind(Pod) == []
    assert [entry.metadata.name for entry in store.of_kind(Namespace)] == ["other"]
    assert outcomes(manifests.delete(store, [tmp_path / "manifests"])) == ["Namespace not found"]


def test_a_mistyped_path_and_an_empty_folder_are_errors(tmp_path: Path, store: FolderStore) -> None:
    with pytest.raises(ConfigurationError, match="no such file or folder"):
        manifests.apply(store, [tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="no manifest in this folder"):
        manifests.apply(store, [tmp_path / "empty"])


def test_patches() -> None:
    assert manifests.patch("a=b=c", "label") == {"a": "b=c"}
    assert manifests.patch("a=", "label") == {"a": ""}
    assert manifests.patch("istio.io/dataplane-mode-", "label") == {"istio.io/dataplane-mode": None}
    for text in ("a", "-", "=b", ""):
        with pytest.raises(ConfigurationError, match="is no label"):
            manifests.patch(text, "label")

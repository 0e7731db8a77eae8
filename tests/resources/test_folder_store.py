from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from mesh.errors import ConfigurationError, ObjectMissing
from resources.base import Condition, ObjectMeta
from resources.decode import decode_documents
from resources.folder_source import FolderSource
from resources.folder_store import FolderStore, key_of
from resources.network import ServicePort, ServiceSpec
from resources.objects import ConfigMap, Namespace, Pod, Service, ServiceAccount
from resources.pod import Container, PodSpec, PodStatus


def pod(name: str = "web", **labels: str) -> Pod:
    metadata = ObjectMeta(name=name, namespace="n", labels=labels)
    return Pod(metadata=metadata, spec=PodSpec(containers=(Container(name="c"),)))


def test_what_is_applied_is_read_back(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    applied = store.apply(pod(app="web"))
    assert applied.metadata.uid
    assert applied.metadata.creation_timestamp
    assert store.get(Pod, "n", "web") == applied
    assert store.of_kind(Pod) == [applied]
    assert store.of_kind(Namespace) == []


async def test_a_config_map_is_read_as_it_was_written(tmp_path: Path) -> None:
    text = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    wish = ConfigMap(metadata=ObjectMeta(name="roots", namespace="n"), data={"ca.crt": text, "other": " x: \t'#\n\n"})
    applied = FolderStore(tmp_path).apply(wish)
    source = FolderSource(tmp_path)
    async with source.open():
        found = list((await source.wait_change()).values())
    assert found == [applied]
    assert isinstance(applied, ConfigMap)
    assert applied.data == wish.data


def test_apply_keeps_what_controllers_wrote(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    first = store.apply(pod(app="web", old="label"))
    annotations: dict[str, str | None] = {"ambient.istio.io/redirection": "enabled"}
    store.patch_metadata(Pod, "n", "web", labels={"mesh": "yes"}, annotations=annotations)
    status = PodStatus(phase="Running", pod_ip="10.0.0.1", conditions=(Condition(type="Ready", status="True"),))
    store.patch_status(Pod, "n", "web", status)
    second = store.apply(pod(app="web2"))
    assert isinstance(second, Pod)
    assert second.metadata.labels == {"app": "web2", "mesh": "yes"}
    assert second.metadata.annotations == {"ambient.istio.io/redirection": "enabled"}
    assert second.status == status
    assert second.metadata.uid == first.metadata.uid
    assert int(second.metadata.resource_version) > int(first.metadata.resource_version)


def test_a_write_that_changes_nothing_is_no_write(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    first = store.apply(pod(app="web"))
    assert store.apply(pod(app="web")) == first
    assert store.patch_metadata(Pod, "n", "web", labels={"none": None}) == first


def test_addresses_of_a_service_stay(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    wish = Service(metadata=ObjectMeta(name="s", namespace="n"), spec=ServiceSpec(ports=(ServicePort(port=80),)))
    store.apply(wish)
    given = ServiceSpec(ports=(ServicePort(port=80),), cluster_ip="10.96.0.1", cluster_ips=("10.96.0.1",))
    store.replace(Service(metadata=wish.metadata, spec=given))
    again = store.apply(wish)
    assert isinstance(again, Service)
    assert again.spec.virtual_addresses == ("10.96.0.1",)


def test_patch_takes_labels_away(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.apply(Namespace(metadata=ObjectMeta(name="n", labels={"a": "1", "b": "2"})))
    changed = store.patch_metadata(Namespace, "", "n", labels={"a": None, "c": "3"})
    assert changed.metadata.labels == {"b": "2", "c": "3"}


def test_missing_objects(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(ObjectMissing):
        store.get(Pod, "n", "web")
    with pytest.raises(ObjectMissing):
        store.patch_metadata(Pod, "n", "web", labels={"a": "b"})
    assert store.delete(Pod, "n", "web") is False
    store.apply(pod())
    assert store.delete(Pod, "n", "web") is True
    assert store.of_kind(Pod) == []


def test_what_readers_would_refuse_is_not_written(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(ConfigurationError, match="not a name Kubernetes allows"):
        store.apply(pod("Bad_Name"))
    with pytest.raises(ConfigurationError, match="has no status"):
        store.patch_status(ServiceAccount, "n", "a", PodStatus())
    with pytest.raises(ConfigurationError):
        store.get(Pod, "..", "/etc/passwd")
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_long_names_have_files_of_their_own(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for last in "ab":
        store.apply(pod("x" * 240 + last))
    assert len(store.of_kind(Pod)) == 2


WRITER = """
import sys
from resources.folder_store import FolderStore
from resources.objects import Namespace
store = FolderStore(sys.argv[1])
for index in range(20):
    store.patch_metadata(Namespace, "", "n", labels={f"w{sys.argv[2]}-{index}": "x"})
"""


def test_writers_of_several_processes_lose_nothing(tmp_path: Path) -> None:
    FolderStore(tmp_path).apply(Namespace(metadata=ObjectMeta(name="n")))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(who)]) for who in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(FolderStore(tmp_path).get(Namespace, "", "n").metadata.labels) == 60


async def test_the_source_sees_what_the_store_writes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    source = FolderSource(tmp_path)
    async with source.open():
        assert dict(await source.wait_change()) == {}
        written = store.apply(pod(app="web"))
        with trio.fail_after(5):
            objects = await source.wait_change()
        assert list(objects.values()) == [written]
        assert source.problems == ()


def test_words_of_a_user_to_a_kind() -> None:
    assert key_of("pods", "", "x") == (Pod, "default", "x")
    assert key_of("authorizationpolicies", "a", "x")[0].__name__ == "AuthorizationPolicy"
    assert key_of("Namespace", "a", "x") == (Namespace, "", "x")
    with pytest.raises(ConfigurationError):
        key_of("frob", "", "x")


def test_files_are_plain_manifests(tmp_path: Path) -> None:
    FolderStore(tmp_path).apply(pod(app="web"))
    objects, problems = decode_documents((tmp_path / "pod_n_web.yaml").read_text(), "f")
    assert problems == []
    assert [value.key.name for value in objects] == ["web"]


def test_a_file_that_goes_while_the_folder_is_read_is_passed_over(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    applied = store.apply(pod())
    gone = tmp_path / "pod_demo_gone.yaml"
    gone.symlink_to(tmp_path / "nothing")
    assert store.of_kind(Pod) == [applied]

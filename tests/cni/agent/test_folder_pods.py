import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from cni.agent.folder_pods import FolderPods
from cni.agent.pod_source import PodSource
from cni.pod import NodeView, PodFacts, PodName
from mesh.addresses import parse_ip
from mesh.errors import ConfigurationError
from resources.decode import decode_documents
from resources.folder_store import FolderStore
from resources.objects import Pod


def manifest(name: str, **changes: Any) -> str:
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "labels": {"app": name}}
    metadata |= changes.pop("meta", {})
    spec = {"nodeName": "node1", "serviceAccountName": "client", "containers": [{"name": "main"}]} | changes
    status = {"phase": "Running", "podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd00::7"}]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})


NAMESPACE = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"a": "b"}}}'


@asynccontextmanager
async def following(folder: Path) -> AsyncIterator[FolderPods]:
    source = FolderPods(folder, "node1")
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        yield source
        nursery.cancel_scope.cancel()


async def wait_for(source: PodSource, serial: int) -> NodeView:
    with trio.fail_after(5):
        return await source.changed(serial)


async def test_the_nodes_pods_and_all_namespaces(tmp_path: Path) -> None:
    documents = [NAMESPACE, manifest("client"), manifest("other", nodeName="node2"), manifest("host", hostNetwork=True)]
    (tmp_path / "all.yaml").write_text("\n---\n".join(documents))
    async with following(tmp_path) as source:
        assert source.view.complete
        assert source.view.namespaces == {"shop": {"a": "b"}}
        assert set(source.view.pods) == {PodName("shop", "client"), PodName("shop", "host")}
        client = source.view.pods[PodName("shop", "client")]
        assert client == PodFacts(
            uid="uid-client",
            namespace="shop",
            name="client",
            service_account="client",
            labels={"app": "client"},
            addresses=(parse_ip("10.244.1.7"), parse_ip("fd00::7")),
        )
        assert source.view.pods[PodName("shop", "host")].host_network


async def test_changes_arrive_and_those_of_others_do_not_disturb(tmp_path: Path) -> None:
    (tmp_path / "client.yaml").write_text(manifest("client"))
    async with following(tmp_path) as source:
        serial = source.view.serial
        (tmp_path / "other.yaml").write_text(manifest("other", nodeName="node2"))
        (tmp_path / "ns.yaml").write_text(NAMESPACE)
        view = await wait_for(source, serial)
        assert view.namespaces
        with trio.move_on_after(0.2) as waiting:
            (tmp_path / "other.yaml").write_text(manifest("other", nodeName="node3"))
            await source.changed(view.serial)
        assert waiting.cancelled_caught
        (tmp_path / "client.yaml").unlink()
        assert (await wait_for(source, view.serial)).pods == {}


async def test_a_view_with_unreadable_objects_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "client.yaml").write_text(manifest("client"))
    (tmp_path / "broken.yaml").write_text("kind: [")
    async with following(tmp_path) as source:
        assert not source.view.complete
        assert len(source.view.pods) == 1
        serial = source.view.serial
        (tmp_path / "broken.yaml").unlink()
        assert (await wait_for(source, serial)).complete


@pytest.mark.parametrize("uid", ["../../etc/cron.d/x", "a/b", ".hidden", "x" * 129])
async def test_a_pod_with_a_uid_that_is_none_is_left_out(tmp_path: Path, uid: str) -> None:
    (tmp_path / "client.yaml").write_text(manifest("client", meta={"uid": uid}))
    async with following(tmp_path) as source:
        assert (source.view.pods, source.view.complete) == ({}, False)


async def test_a_pod_that_is_being_deleted_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("client", meta={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    async with following(tmp_path) as source:
        assert source.view.pods[PodName("shop", "client")].leaving


async def test_two_pods_of_one_uid_are_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("client"))
    (tmp_path / "b.yaml").write_text(manifest("copy", meta={"uid": "uid-client"}))
    async with following(tmp_path) as source:
        assert (len(source.view.pods), source.view.complete) == (1, False)


async def test_annotations_are_written_and_taken_away(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.apply(decode_documents(manifest("client"), "test")[0][0])
    async with following(tmp_path) as source:
        pod = source.view.pods[PodName("shop", "client")]
        await source.annotate(pod, "x/y", "enabled")
        view = await wait_for(source, source.view.serial)
        assert view.pods[pod.key].annotations["x/y"] == "enabled"
        await source.annotate(pod, "x/y", None)
        assert "x/y" not in store.get(Pod, "shop", "client").metadata.annotations
        store.delete(Pod, "shop", "client")
        await source.annotate(pod, "x/y", "enabled")


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.RaisesGroup(ConfigurationError, flatten_subgroups=True):
        async with following(tmp_path / "nowhere"):
            raise AssertionError("never reached")

"""From a folder to the snapshots, in step; each finding is told once."""

from __future__ import annotations

from pathlib import Path

import trio
from structlog.testing import capture_logs

from controlplane.ca.placement import Placement
from controlplane.pipeline import Pipeline
from controlplane.publisher import Publisher
from controlplane.translate.settings import MeshSettings
from controlplane.translate.translator import Translator
from mesh.xds.codec import ADDRESS_TYPE
from mesh.xds.server_driver import SnapshotStore
from resources.folder_source import FolderSource

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: node1, serviceAccountName: web, containers: [{name: c}]}
status: {podIP: 10.0.0.1}
"""
EXTERNAL = """
apiVersion: v1
kind: Service
metadata: {name: out, namespace: shop}
spec: {type: ExternalName, externalName: x.example}
"""


async def test_a_change_reaches_placement_and_snapshot(tmp_path: Path) -> None:
    source, store, placement = FolderSource(tmp_path), SnapshotStore(), Placement()
    pipeline = Pipeline(source, Translator(MeshSettings()), placement, Publisher(store, b"secret"))

    async def until_offered(names: set[str]) -> None:
        while set(store.current().of(ADDRESS_TYPE).entries) != names:
            await store.changed(store.current().serial)

    with capture_logs() as logs:
        async with source.open(), trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.run)
            with trio.fail_after(10):
                await pipeline.ready.wait()
                (tmp_path / "out.yaml").write_text(EXTERNAL)
                (tmp_path / "web.yaml").write_text(POD)
                await until_offered({"Kubernetes//Pod/shop/web"})
                assert placement.runs_on("shop", "web", "node1")
                (tmp_path / "web.yaml").unlink()
                await until_offered(set())
                assert not placement.runs_on("shop", "web", "node1")
            assert [finding.object.name for finding in pipeline.findings()] == ["out"]
            nursery.cancel_scope.cancel()
    assert [line["object"] for line in logs if line["event"] == "finding"] == ["Service shop/out"]
    assert any(line["event"] == "model_updated" and line["addresses_updated"] == 1 for line in logs)

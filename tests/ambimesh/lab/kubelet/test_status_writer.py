from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from ambimesh.lab.kubelet.status_writer import StatusWriter
from resources.base import ObjectMeta
from resources.folder_store import FolderStore
from resources.objects import Pod
from resources.pod import Container, PodSpec, PodStatus

POD = Pod(
    metadata=ObjectMeta(name="p", namespace="n"), spec=PodSpec(containers=(Container(name="c", command=("true",)),))
)


async def write(store: FolderStore, *submitted: tuple[Pod, PodStatus]) -> None:
    writer = StatusWriter(store)
    for pod, status in submitted:
        writer.submit(pod, status)
    with trio.move_on_after(0.3):
        await writer.run()


async def test_the_newest_status_of_a_pod_is_written(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    pod = store.apply(POD)
    assert isinstance(pod, Pod)
    await write(store, (pod, PodStatus(phase="Pending")), (pod, PodStatus(phase="Running")))
    assert store.get(Pod, "n", "p").status.phase == "Running"


async def test_another_pod_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    pod = store.apply(POD)
    assert isinstance(pod, Pod)
    older = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, uid="another"))
    await write(store, (older, PodStatus(phase="Failed")))
    assert store.get(Pod, "n", "p").status.phase == ""


async def test_a_deleted_pod_holds_nobody_up(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    pod = store.apply(POD)
    assert isinstance(pod, Pod)
    gone = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, name="gone"))
    await write(store, (gone, PodStatus(phase="Failed")), (pod, PodStatus(phase="Running")))
    assert store.get(Pod, "n", "p").status.phase == "Running"

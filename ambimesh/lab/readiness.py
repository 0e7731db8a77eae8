"""Waiting until what was started is ready."""

from __future__ import annotations

import trio

from ambimesh.lab.record import Lab
from resources.folder_source import FolderSource
from resources.objects import Pod


async def wait_for_pods(lab: Lab, seconds: float) -> list[tuple[str, str]]:
    """Wait until every pod is ready or has ended well; those that are not by then, each with the reason.

    Args:
        lab: a running lab.
        seconds: how long to wait at most.
    """
    source = FolderSource(lab.layout.cluster)
    unready: list[tuple[str, str]] = []
    with trio.move_on_after(seconds):
        async with source.open():
            while True:
                objects = await source.wait_change()
                unready = [
                    (f"{pod.metadata.namespace}/{pod.metadata.name}", _reason(pod))
                    for pod in objects.of_kind(Pod)
                    if not pod.status.ready and pod.status.phase != "Succeeded"
                ]
                if not unready:
                    return []
    return unready


def _reason(pod: Pod) -> str:
    if pod.status.message:
        return pod.status.message
    for status in pod.status.container_statuses or ():
        waiting = status.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', 'waiting')}: {waiting.get('message', '')}".rstrip(": ")
    if not pod.spec.node_name:
        return "it is on no node yet"
    return next((one.message for one in pod.status.conditions if one.type == "Ready"), "") or "it has not started yet"

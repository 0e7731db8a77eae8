"""Waiting until what was started is ready."""

from __future__ import annotations

from pathlib import Path

import trio

from ambimesh.lab.http_client import get
from ambimesh.lab.processes import Processes, ProcessSpec
from ambimesh.lab.record import Lab
from mesh.errors import ConnectFailed, ConnectionLost
from resources.folder_source import FolderSource
from resources.objects import Pod

READY_SECONDS = 180.0
"""For a process. Longer than the agents' loaders give themselves (`ebpf.programs_driver`): on a slow machine several
nodes' compile for more than a minute, and of a loader that gives up the word is the better one. What ends is told of at
once."""
_POLL_SECONDS = 0.05
_PROCESS_POLL_SECONDS = 1.0


async def wait_for_process(processes: Processes, spec: ProcessSpec, seconds: float) -> None:
    """Wait until a started process says that it is ready; one without a port for that only has to stay alive.

    Raises:
        ProcessFailed: it ended, or is not ready after ``seconds``; with the end of its log.
    """
    said = ""
    deadline = trio.current_time() + seconds
    while True:
        if not processes.is_running(spec.name):
            raise processes.failure(spec.name, "ended")
        if not spec.ready_port:
            return
        try:
            answer = await get(Path(spec.netns), spec.ready_port, "/healthz/ready", timeout=2.0)
            if answer.status == 200:
                return
            said = f" (it says: {answer.body.decode(errors='replace').strip()[:200]})"
        except (ConnectFailed, ConnectionLost):
            pass
        if trio.current_time() > deadline:
            raise processes.failure(spec.name, f"is not ready after {seconds:g} s{said}")
        await trio.sleep(_POLL_SECONDS)


async def wait_for_pods(lab: Lab, seconds: float) -> list[tuple[str, str]]:
    """Wait until every pod is ready or has ended well; those that are not by then, each with the reason.

    Args:
        lab: a running lab.
        seconds: how long to wait at most.

    Raises:
        ProcessFailed: pods wait, and a process of the lab has ended without having been told to (one that ends
            meanwhile is told of at once); with the end of its log. Without it the pods might wait for ever.
    """
    source = FolderSource(lab.layout.cluster)
    processes = Processes(lab.layout)
    nodes = frozenset(node.name for node in lab.nodes)
    unready: list[tuple[str, str]] = []
    with trio.move_on_after(seconds) as scope:
        async with source.open(), trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_one_ends, processes, scope)
            while True:
                objects = await source.wait_change()
                waiting = [
                    pod for pod in objects.of_kind(Pod) if not pod.status.ready and pod.status.phase != "Succeeded"
                ]
                unready = sorted(
                    (f"{pod.metadata.namespace}/{pod.metadata.name}", _reason(pod, nodes)) for pod in waiting
                )
                # A pod for a node that is not there is not waited for: nobody will ever start it.
                if all(pod.spec.node_name and pod.spec.node_name not in nodes for pod in waiting):
                    break
            nursery.cancel_scope.cancel()
    if unready and (ended := processes.ended_unasked()):
        raise processes.failure(ended[0], "ended")
    return unready


async def _cancel_when_one_ends(processes: Processes, scope: trio.CancelScope) -> None:
    """Those that had ended before may have been somebody's wish, so only a further one ends the wait."""
    before = set(processes.ended_unasked())
    while before.issuperset(processes.ended_unasked()):  # noqa: ASYNC110 -- they are daemons, nobody's children
        await trio.sleep(_PROCESS_POLL_SECONDS)
    scope.cancel()


def _reason(pod: Pod, nodes: frozenset[str]) -> str:
    if pod.spec.node_name and pod.spec.node_name not in nodes:
        return f"the lab has no node {pod.spec.node_name}"
    if pod.status.message:
        return pod.status.message
    for status in pod.status.container_statuses or ():
        waiting = status.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', 'waiting')}: {waiting.get('message', '')}".rstrip(": ")
    if not pod.spec.node_name:
        return "it is on no node yet"
    return next((one.message for one in pod.status.conditions if one.type == "Ready"), "") or "it has not started yet"

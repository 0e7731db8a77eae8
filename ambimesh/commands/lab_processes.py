"""``ambimesh lab logs|restart|stop|start|capture``: the lab's processes and its wire."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import trio
import typer

from ambimesh.commands.options import LabName
from ambimesh.lab import capture as wire
from ambimesh.lab import pods, record
from ambimesh.lab.layout import DEFAULT_LAB, LabLayout
from ambimesh.lab.processes import Processes
from ambimesh.lab.readiness import READY_SECONDS, wait_for_process
from ambimesh.lab.record import Lab
from ambimesh.output import console, say
from mesh.errors import ConfigurationError

ProcessName = Annotated[str, typer.Argument(help="Such as operator, agent-node1, ztunnel-node2.")]
Kill = Annotated[bool, typer.Option("--kill", help="With SIGKILL, at once.")]
_FOLLOW_SECONDS = 0.2


def register(app: typer.Typer) -> None:
    """Add the commands to ``ambimesh lab``."""
    for command in (logs, restart, stop, start, capture):
        app.command()(command)


def logs(
    process: Annotated[str, typer.Argument(metavar="PROCESS|NAMESPACE/POD")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it is written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Only the last so many; 0 for all.")] = 0,
    lab: LabName = DEFAULT_LAB,
) -> None:
    """Show what a process of the lab, or a pod, wrote."""
    found = record.require(LabLayout.named(lab))
    files = log_files(found, process)
    for file in files:
        if len(files) > 1:
            say(f"==> {file.name} <==")
        text = file.read_text(errors="replace") if file.exists() else ""
        kept = text.splitlines()[-lines:] if lines else text.splitlines()
        for line in kept:
            console.out(line, highlight=False)
    if follow:
        try:
            trio.run(_follow, files[0])
        except KeyboardInterrupt:
            pass


def log_files(lab: Lab, name: str) -> list[Path]:
    """The log of a process, or of each of a pod's containers.

    Raises:
        ConfigurationError: the lab has neither.
    """
    if "/" not in name:
        processes = Processes(lab.layout)
        return [processes.log_file(processes.spec(name).name)]
    namespace, pod = pods.split_name(name)
    found = pods.find_pod(lab, namespace, pod)
    containers = [*found.spec.init_containers, *found.spec.containers]
    return [lab.layout.logs / "pods" / f"{namespace}_{pod}_{container.name}.log" for container in containers]


async def _follow(file: Path) -> None:
    """Print what is appended to a file, for ever."""
    file.touch()
    with file.open(errors="replace") as log:
        log.seek(0, os.SEEK_END)
        while True:
            if text := log.read():
                console.out(text, end="", highlight=False)
            await trio.sleep(_FOLLOW_SECONDS)


def restart(process: ProcessName, kill: Kill = False, lab: LabName = DEFAULT_LAB) -> None:
    """Stop a process and start it again as it was started, and wait until it is ready."""
    found = record.require(LabLayout.named(lab))

    async def work() -> None:
        processes = Processes(found.layout)
        pid = await processes.restart(process, kill=kill)
        await wait_for_process(processes, processes.spec(process), READY_SECONDS)
        say(f"{process} runs again, process {pid}")

    trio.run(work)


def stop(process: ProcessName, kill: Kill = False, lab: LabName = DEFAULT_LAB) -> None:
    """Stop a process and leave it stopped."""
    found = record.require(LabLayout.named(lab))
    processes = Processes(found.layout)
    trio.run(lambda: processes.stop(processes.spec(process).name, kill=kill))
    say(f"{process} is stopped")


def start(process: ProcessName, lab: LabName = DEFAULT_LAB) -> None:
    """Start a stopped process as it was started before, and wait until it is ready."""
    found = record.require(LabLayout.named(lab))

    async def work() -> None:
        processes = Processes(found.layout)
        pid = await processes.start(processes.spec(process))
        await wait_for_process(processes, processes.spec(process), READY_SECONDS)
        say(f"{process} runs, process {pid}")

    trio.run(work)


def capture(
    seconds: Annotated[float | None, typer.Option(help="End after so long; else at Ctrl-C.")] = None,
    node: Annotated[str, typer.Option(help="On whose end of the link.")] = "node1",
    text: Annotated[str, typer.Option("--filter", help="A pcap filter, such as 'port 15008'.")] = "",
    lab: LabName = DEFAULT_LAB,
) -> None:
    """Show what the link between the nodes carries, packet by packet, with the payload as text."""
    found = record.require(LabLayout.named(lab))
    command = wire.show_arguments(found.node(node), seconds, text)
    if seconds is not None and seconds <= 0:
        raise ConfigurationError("--seconds takes a number above 0")
    os.execv(command[0], command)

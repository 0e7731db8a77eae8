"""What the link between nodes carries: tcpdump on a node's uplink, in the node's namespace."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ambimesh.lab.fabric import UPLINK
from ambimesh.lab.layout import NodeLayout
from ambimesh.lab.programs import Place, launch_arguments
from mesh.errors import EnvironmentLacks

_START_SECONDS = 5.0
_STOP_SECONDS = 5.0
_RING_KIB = 32768
_DROPPED = re.compile(rb"(\d+) packets? dropped by kernel")
_FILTER = "not arp and not icmp6 and not ip6 multicast"
"""Neighbour discovery says nothing of what pods send."""


def show_arguments(node: NodeLayout, seconds: float | None, text: str) -> list[str]:
    """The command that prints packets as they pass, readable, with their payload as text.

    Args:
        node: whose uplink.
        seconds: when to end; None for at Ctrl-C.
        text: a pcap filter in place of the usual one; empty for the usual one.
    """
    command = ["tcpdump", "-i", UPLINK, "-n", "-l", "--immediate-mode", "-A", "-s", "0", text or _FILTER]
    if seconds is not None:
        command = ["timeout", "--signal=INT", f"{seconds:g}", *command]
    return launch_arguments(command, Place(netns=node.netns))


@asynccontextmanager
async def recording(node: NodeLayout, file: Path, text: str = _FILTER) -> AsyncIterator[None]:
    """Record what passes a node's uplink into a pcap file for the length of the block; on leaving it is complete.

    Raises:
        EnvironmentLacks: tcpdump is not installed or did not start, or it missed packets.
    """
    command = ["tcpdump", "-i", UPLINK, "-n", "-U", "--immediate-mode", "-s", "0", "-B", str(_RING_KIB)]
    command += ["-Z", "root", "-w", str(file), text]
    process = await trio.lowlevel.open_process(
        launch_arguments(command, Place(netns=node.netns)), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = b""
        with trio.move_on_after(_START_SECONDS):
            while b"listening on" not in said and (more := await process.stderr.receive_some(4096)):
                said += more
        if b"listening on" not in said:
            raise EnvironmentLacks(f"tcpdump did not start: {said.decode(errors='replace').strip()}; is it installed?")
        yield
        # What is on its way through the kernel's ring still belongs to the block.
        await trio.sleep(0.1)
    finally:
        with trio.CancelScope(shield=True):
            last_words = await _end(process)
    dropped = _DROPPED.search(last_words)
    if dropped is None or int(dropped[1]):
        words = last_words.decode(errors="replace")[-200:].strip()
        raise EnvironmentLacks(f"the recording of {node.name}'s uplink is not whole: {words}")


async def _end(process: trio.Process) -> bytes:
    """Tell tcpdump to finish its file; its closing statistics."""
    assert process.stderr is not None
    said = b""
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
    with trio.move_on_after(_STOP_SECONDS):
        async for more in process.stderr:
            said += more
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.stderr.aclose()
    return said

"""Plays the lines in a lab of their own, prints each with its evidence, and removes the lab."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from ambimesh import output
from ambimesh.demo import (
    lines_capture,
    lines_identity,
    lines_policy,
    lines_requests,
    lines_resilience,
    lines_traces,
    lines_waypoint,
    pod_state,
)
from ambimesh.demo.stage import NotShown, Stage, require
from ambimesh.lab import manifests, pods, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.record import Lab
from ambimesh.lab.take_down import take_down
from ambimesh.output import console, progress_console
from mesh.errors import MeshError
from resources.folder_store import FolderStore

MANIFESTS = Path(__file__).parent.parent / "manifests" / "demo"
CERTIFICATE_SECONDS = 14
_POD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the main job."""

    number: int
    claim: str
    play: Callable[[Stage], Awaitable[str]]


LINES = (
    Line(1, "before enrolment a marker is readable between the nodes", lines_capture.readable_before),
    Line(2, "a label captures running pods, the CNI plugin new ones", lines_capture.enrolled_without_restart),
    Line(3, "on the link only TLS to port 15008; pods' network settings unchanged", lines_capture.only_tls),
    Line(4, "server sees the client's own address, client the one it dialled", lines_identity.addresses_kept),
    Line(5, "both access logs and metrics name both identities", lines_identity.identities_named),
    Line(6, "calls by Service address spread over both nodes", lines_identity.spread),
    Line(7, "a policy admits account a, refuses b, cuts b's live connection", lines_policy.authorization),
    Line(8, "STRICT refuses plain clients, PERMISSIVE admits them, probes pass", lines_policy.strict_and_permissive),
    Line(9, "ztunnel killed under traffic: refused, nothing in clear, back", lines_resilience.killed_under_traffic),
)
ROTATION = (10, f"certificates of {CERTIFICATE_SECONDS} s rotate under traffic without a failure")
WAYPOINT_LINES = (
    Line(11, "one command makes a waypoint: traffic passes it, the caller stays known", lines_waypoint.applied),
    Line(12, "routes by header and by weight, and a redirection", lines_waypoint.routed),
    Line(13, "a retry hides a flaky backend, a timeout ends a slow one", lines_requests.recovered),
    Line(14, "faults hit by percentage, a mirror gets copies", lines_requests.disturbed),
    Line(15, "requests with a bad token are refused, with a good one admitted", lines_requests.tokens),
    Line(16, "a rate limit for each client", lines_requests.limited),
    Line(17, "replicas replaced under load without a failed request", lines_waypoint.replaced),
    Line(18, "a policy of identity, method and path holds, with no way past the waypoint", lines_waypoint.guarded),
    Line(19, "a trace joins caller, waypoint and server at a collector in the mesh", lines_traces.traced),
)
LAST = WAYPOINT_LINES[-1].number


class Show:
    """One showing: which lines, and how many failed."""

    def __init__(self, stage: Stage, only: frozenset[int]) -> None:
        self._stage = stage
        self._only = only
        self.failed = 0

    def _wanted(self, number: int) -> bool:
        return not self._only or number in self._only

    async def play(self) -> None:
        """Show the wanted lines in their order."""
        first = LINES[:3]
        during = LINES[3:8]
        for line in first:
            await self._enrol_before(line.number)
            await self._show(line.number, line.claim, line.play)
        await self._enrol_before(ROTATION[0])
        verdict: tuple[bool, str, float] | None = None
        if any(self._wanted(line.number) for line in during) or self._wanted(ROTATION[0]):
            async with AsyncExitStack() as traffic:
                rotation: lines_resilience.Rotation | None = None
                if self._wanted(ROTATION[0]):
                    rotation = await traffic.enter_async_context(lines_resilience.rotating(self._stage))
                for line in during:
                    await self._show(line.number, line.claim, line.play)
                if rotation is not None:
                    # The kill of line 9 would fail its traffic, so it is measured before, and told after.
                    progress_console.print("[dim]waiting for certificates to be renewed under traffic[/dim]")
                    running = rotation
                    verdict = await judge(lambda: lines_resilience.rotated(self._stage, running))
        for line in LINES[8:]:
            await self._show(line.number, line.claim, line.play)
        if verdict is not None:
            self._print(*ROTATION, verdict)
        for line in WAYPOINT_LINES:
            await self._enrol_before(line.number)
            if self._wanted(line.number):
                await lines_waypoint.prepare(self._stage, line.number)
            await self._show(line.number, line.claim, line.play)

    async def _enrol_before(self, number: int) -> None:
        """Do quietly what the line needs of the first two, when they are not shown."""
        stage = self._stage
        if stage.enrolled or number < 3 or not any(self._wanted(one) for one in range(3, LAST + 1)):
            return
        for name in lines_capture.PODS:
            stage.before[name] = await pod_state.snapshot(pods.place_of(stage.lab, stage.pod(name)))
        await stage.enrol()

    async def _show(self, number: int, claim: str, play: Callable[[Stage], Awaitable[str]]) -> None:
        if self._wanted(number):
            self._print(number, claim, await judge(lambda: play(self._stage)))

    def _print(self, number: int, claim: str, verdict: tuple[bool, str, float]) -> None:
        held, evidence, seconds = verdict
        self.failed += not held
        mark = "[green]shown [/green]" if held else "[red]FAILED[/red]"
        console.print(f"{number:2} {mark} [bold]{claim}[/bold] [dim]({seconds:.1f} s)[/dim]")
        console.out(f"          {evidence}", highlight=False)


async def judge(play: Callable[[], Awaitable[str]]) -> tuple[bool, str, float]:
    """Play a line: whether it holds, the evidence or what is wrong, and the seconds it took."""
    started = trio.current_time()
    try:
        evidence, held = await play(), True
    except MeshError as error:
        evidence, held = str(error), False
    except BaseExceptionGroup as group:
        # A line that fails inside a nursery comes wrapped; anything but our own errors is a bug, to be shown whole.
        expected, others = group.split(MeshError)
        if others is not None or expected is None:
            raise
        evidence, held = str(first_leaf(expected)), False
    return held, evidence, trio.current_time() - started


def first_leaf(error: BaseException) -> BaseException:
    """The first error in nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def run(
    layout: LabLayout, *, only: frozenset[int], keep: bool, workers: int | Literal["auto"] | None = None
) -> int:
    """Bring the lab up, show the lines, remove the lab; how many lines failed.

    Args:
        layout: of a lab that does not exist yet.
        only: the numbers of the lines to show; none means all.
        keep: leave the lab running.
        workers: of each ztunnel; None leaves it to ztunnel's default.

    Raises:
        MeshError: the lab could not be brought up or removed.
    """
    started = trio.current_time()
    with output.steps() as step:
        wish = Wish(
            layout=layout, nodes=2, certificate_lifetime_seconds=CERTIFICATE_SECONDS, workers=workers
        )
        lab = await bring_up(wish, step)
    try:
        show = Show(Stage(lab), only)
        await _apply(lab)
        await show.play()
    finally:
        if not keep:
            with trio.CancelScope(shield=True):
                await take_down(lab, lambda _: None)
    count = len(only) or LAST
    summary = f"{count - show.failed} of {count} lines shown in {trio.current_time() - started:.0f} s"
    console.print(f"[green]{summary}[/green]" if not show.failed else f"[red]{summary}[/red]")
    return show.failed


async def _apply(lab: Lab) -> None:
    report = manifests.apply(FolderStore(lab.layout.cluster), [MANIFESTS])
    require(not report.problems, "; ".join(report.problems))
    unready = await readiness.wait_for_pods(lab, _POD_SECONDS)
    if unready:
        raise NotShown("; ".join(f"pod {pod} is not ready: {reason}" for pod, reason in unready))

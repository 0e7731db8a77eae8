"""``python -m benchmarks [--quick] [--output DIR] [--only CASE] [--subjects KEY,KEY]``: a lab, the figures, no lab."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import trio
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ambimesh.lab.layout import LabLayout
from ambimesh.output import print_table, progress_console, remark, say, steps
from benchmarks import machine, picture, report
from benchmarks.bed import Tools, open_bed
from benchmarks.build import build_rr, install_envoy
from benchmarks.cases import CASES, ENVOY, FULL, IDLE, QUICK, SUBJECTS, Plan, choose, choose_subjects
from benchmarks.measure import Measured, measure
from benchmarks.results import Results, results
from mesh.errors import MeshError

DEFAULT_LAB = "ambimesh-bench"
COMMITTED = Path(__file__).parent


def main() -> int:
    """Run the suite; returns the exit status: 0 also when a bound was not reached, for a time is no test."""
    arguments = _arguments()
    folder: Path | None = arguments.output
    if folder is None and not (arguments.quick or arguments.only or arguments.subjects):
        folder = COMMITTED
    status = 0
    try:
        plan = planned(quick=arguments.quick, only=arguments.only, subjects=arguments.subjects)
        _show(trio.run(_run, LabLayout.named(arguments.lab), plan), folder)
    except* KeyboardInterrupt:
        status = 130
    except* MeshError as group:
        for error in group.exceptions:
            remark("error", "red", str(error))
        status = 1
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the mesh against no mesh and Envoy, in a lab of its own that is gone afterwards (root).",
        epilog=f"Cases: {', '.join(case.name for case in CASES)}, {IDLE}.",
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes, without held loads; writes nothing")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write results.md, .json and .png there")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="only this case; repeatable")
    parser.add_argument(
        "--subjects",
        type=lambda text: [key for key in text.split(",") if key],
        default=[],
        metavar="KEY,KEY",
        help=f"only these of {','.join(subject.key for subject in SUBJECTS)}",
    )
    parser.add_argument("--lab", default=DEFAULT_LAB, help=f"the lab's name; {DEFAULT_LAB} when left out")
    return parser.parse_args()


def planned(*, quick: bool, only: list[str], subjects: list[str]) -> Plan:
    """The plan of a command line.

    Raises:
        ConfigurationError: a case or a subject is not known.
    """
    plan = QUICK if quick else FULL
    if subjects:
        plan = dataclasses.replace(plan, subjects=choose_subjects(subjects))
    if not only:
        return plan
    cases, idle = choose(only)
    # A held case that is asked for by name is held for some seconds even in a quick run.
    held = plan.held_seconds or 5 * plan.seconds
    return dataclasses.replace(
        plan, cases=cases, held_seconds=held, idle_connections=plan.idle_connections if idle else 0
    )


async def _run(layout: LabLayout, plan: Plan) -> Results:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_interrupt_on_sigterm)
        with steps() as step:
            tools = await _tools(plan, step)
        described = await machine.describe(tools.envoy)
        measured = await _measure(layout, tools, plan)
        nursery.cancel_scope.cancel()
    return results(described, plan, measured)


async def _tools(plan: Plan, step: Callable[[str], None]) -> Tools:
    step("building the load generator")
    rr = await build_rr()
    if ENVOY not in plan.subjects:
        return Tools(rr)
    step("installing Envoy")
    return Tools(rr, await install_envoy())


async def _measure(layout: LabLayout, tools: Tools, plan: Plan) -> Measured:
    async with AsyncExitStack() as stack:
        with steps() as step:
            bed = await stack.enter_async_context(open_bed(layout, tools, plan.subjects, step))
        with _progress(plan.loads) as tell:
            return await measure(bed, plan, tell)


async def _interrupt_on_sigterm() -> None:
    """End as with Ctrl-C, so that the lab is taken down."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            raise KeyboardInterrupt


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """Show what runs: a bar on a terminal, a line per load elsewhere."""
    if not progress_console.is_terminal:
        yield lambda text, done: progress_console.print(f"{done + 1}/{total} {text}", markup=False)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress_console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda text, done: bar.update(task, description=text, completed=done)


def _show(found: Results, folder: Path | None) -> None:
    for table in report.tables(found):
        say(f"\n{table.title}")
        print_table(table.columns, table.rows)
    say("")
    for line in report.notes(found):
        say(line)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.md").write_text(report.markdown(found))
        (folder / "results.json").write_bytes(report.encoded(found))
        picture.draw(found, folder / report.PICTURE)
        say(f"written: results.md, results.json and {report.PICTURE} in {folder}")


if __name__ == "__main__":
    sys.exit(main())

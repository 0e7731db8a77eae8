"""``python -m benchmarks [--quick] [--output DIR] [--only CASE] [--subjects KEY,KEY]``: a lab, the figures, no lab."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ambimesh.lab.layout import LabLayout
from ambimesh.output import print_table, progress_console, remark, say, steps
from benchmarks import machine, picture, report
from benchmarks.bed import Tools, open_bed
from benchmarks.build import build_http, build_rr, install_envoy
from benchmarks.cases import CASES, ENVOY, FULL, IDLE, QUICK, SUBJECTS, Plan, choose, choose_subjects
from benchmarks.layer7 import cases as layer7_cases
from benchmarks.layer7 import measure as layer7_measure
from benchmarks.layer7 import report as layer7_report
from benchmarks.measure import Measured, measure
from benchmarks.results import Results, results
from mesh.errors import ConfigurationError, MeshError

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
        plan, plan7 = planned_both(quick=arguments.quick, only=arguments.only, subjects=arguments.subjects)
        layout = LabLayout.named(arguments.lab)
        if plan is not None:
            _show(trio.run(_run, layout, plan), folder)
        if plan7 is not None:
            trio.run(_run_layer7, layout, plan7, folder)
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
        epilog=f"Cases: {', '.join(case.name for case in CASES)}, {IDLE}; {', '.join(layer7_cases.NAMES)}.",
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


def planned_both(
    *, quick: bool, only: list[str], subjects: list[str]
) -> tuple[Plan | None, layer7_cases.Plan | None]:
    """The plans of a command line for layers 4 and 7; None where nothing is to be done.

    Raises:
        ConfigurationError: a case or a subject is not known.
    """
    of_layer7 = [name for name in only if name in layer7_cases.NAMES]
    others = [name for name in only if name not in of_layer7]
    if of_layer7 and subjects:
        raise ConfigurationError("--subjects chooses among those of layer 4; the cases of layer 7 have their own")
    plan = planned(quick=quick, only=others, subjects=subjects) if others or not only else None
    if subjects or (only and not of_layer7):
        return plan, None
    plan7 = layer7_cases.QUICK if quick else layer7_cases.Plan()
    return plan, dataclasses.replace(plan7, cases=layer7_cases.chosen(of_layer7)) if of_layer7 else plan7


async def _run_layer7(layout: LabLayout, plan: layer7_cases.Plan, folder: Path | None) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_interrupt_on_sigterm)
        with steps() as step:
            step("building the load generator")
            http = await build_http()
            step("installing Envoy")
            envoy = await install_envoy()
        described = await machine.describe(envoy)
        with TemporaryDirectory(prefix="ambimesh-bench-") as logs, _progress(plan.loads) as tell:
            found = await layer7_measure.measure(plan, http, envoy, Path(logs), layout, tell)
        nursery.cancel_scope.cancel()
    made = layer7_report.table(found)
    say(f"\n{made.title}")
    print_table(made.columns, made.rows)
    say("")
    for line in layer7_report.notes(found, described):
        say(line)
    if folder is not None:
        layer7_report.write(found, described, folder)
        say(f"written: {layer7_report.NAME}.md, .json and .png in {folder}")


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

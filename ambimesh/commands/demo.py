"""``ambimesh demo``: the main job, line by line, with what was measured."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import trio
import typer

from ambimesh.commands.options import LabName, Workers, workers_wish
from ambimesh.demo.run import LAST, run
from ambimesh.lab.layout import LabLayout
from mesh.errors import ConfigurationError

DEMO_LAB = "ambimesh-demo"


def demo(
    only: Annotated[list[int] | None, typer.Option(help="Only this line. Repeatable.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab running.")] = False,
    workers: Workers = None,
    lab: LabName = DEMO_LAB,
) -> None:
    """Bring a lab up, show what the mesh does in ten lines with their evidence, and remove it."""
    wanted = frozenset(only or ())
    if not all(1 <= number <= LAST for number in wanted):
        raise ConfigurationError(f"the lines are numbered 1 to {LAST}")
    if trio.run(partial(run, LabLayout.named(lab), only=wanted, keep=keep, workers=workers_wish(workers))):
        raise typer.Exit(1)

"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ambimesh.output import OutputFormat

LabName = Annotated[str, typer.Option("--lab", envvar="AMBIMESH_LAB", help="Which lab.")]
Files = Annotated[list[Path], typer.Option("--filename", "-f", help="A manifest, or a folder of them. Repeatable.")]
Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print.")]

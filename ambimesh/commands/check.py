"""``ambimesh check``: whether this machine can run a mesh, and what to do where it cannot."""

from __future__ import annotations

import typer
from rich.text import Text

from ambimesh import output
from ambimesh.commands.options import Output
from ambimesh.lab import preflight
from ambimesh.output import OutputFormat, console
from ebpf.features import FeatureCheck


def check(out: Output = OutputFormat.SHORT) -> None:
    """Look at privileges, programs, kernel features, headers and bcc; exit 1 when something is missing."""
    found = preflight.checks(mesh=True)
    if out is not OutputFormat.SHORT:
        output.print_value(
            [{"name": one.name, "ok": one.ok, "detail": one.detail, "remedy": one.remedy} for one in found], out
        )
    else:
        output.print_table(["CHECK", "RESULT", "FOUND", "REMEDY"], rows(found))
        failed = sum(1 for one in found if not one.ok)
        console.print(f"[red]{failed} of {len(found)} are missing[/red]" if failed else "[green]all is there[/green]")
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def rows(found: list[FeatureCheck]) -> list[list[str | Text]]:
    """A row per check, what is missing first."""
    ordered = sorted(found, key=lambda one: one.ok)
    return [
        [one.name, Text("ok", "green") if one.ok else Text("missing", "red"), one.detail, one.remedy] for one in ordered
    ]

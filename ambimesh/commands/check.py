"""``ambimesh check``: whether this machine, or a cluster, can run a mesh, and what to do where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from ambimesh import output
from ambimesh.cluster.client_driver import Cluster
from ambimesh.commands.options import Context, MeshNamespace, Output
from ambimesh.install import checking_driver
from ambimesh.install.checks import Finding, Level
from ambimesh.lab import preflight
from ambimesh.output import OutputFormat, console
from ebpf.features import FeatureCheck

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "red"}


def check(
    cluster: Annotated[bool, typer.Option("--cluster", help="Look at the current cluster.")] = False,
    namespace: MeshNamespace = "ambimesh-system",
    context: Context = None,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Look at this machine (privileges, kernel, headers, bcc), or at a cluster before or after an installation.

    Exit 1 when something is missing.
    """
    if cluster or context is not None:
        _check_cluster(Cluster(context), namespace, out)
        return
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


def _check_cluster(cluster: Cluster, namespace: str, out: OutputFormat) -> None:
    found = checking_driver.check_cluster(cluster, namespace)
    failed = checking_driver.failed(found)
    if out is not OutputFormat.SHORT:
        output.print_value(found, out)
    else:
        output.print_table(["CHECK", "RESULT", "FOUND", "REMEDY"], finding_rows(found))
        text = f"[red]{len(failed)} of {len(found)} failed[/red]" if failed else "[green]nothing is in the way[/green]"
        console.print(text)
    if failed:
        raise typer.Exit(1)


def finding_rows(found: Sequence[Finding]) -> list[list[str | Text]]:
    """A row per finding, what failed first."""
    order = [Level.FAILED, Level.WARNING, Level.OK]
    return [
        [one.name, Text(one.level.value, _STYLES[one.level]), one.detail, one.remedy]
        for one in sorted(found, key=lambda one: order.index(one.level))
    ]

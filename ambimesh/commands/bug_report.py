"""``ambimesh bug-report``: what somebody who helps will ask for, in one archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ambimesh.cluster.client_driver import Cluster
from ambimesh.commands.options import Context, MeshNamespace, Output
from ambimesh.install.reporting_driver import collect, write_archive
from ambimesh.output import OutputFormat, print_value, progress, remark, say

_DEFAULT = Path("ambimesh-bug-report.tar.gz")


def bug_report(
    file: Annotated[Path, typer.Option("--file", "-f", help="Where the archive goes.")] = _DEFAULT,
    lines: Annotated[int, typer.Option(min=1, help="Of each log.")] = 2000,
    namespace: MeshNamespace = "ambimesh-system",
    context: Context = None,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Collect checks, objects, logs, and what ztunnels, waypoints and operators know, in one archive.

    Secrets are left out. What could not be had is named in the archive.
    """
    cluster = Cluster(context)
    with progress() as shown:
        parts = list(collect(cluster, namespace, lines, shown.step))
    write_archive(file, parts)
    missing = [part for part in parts if part.failed]
    if missing:
        remark("notice", "cyan", f"{len(missing)} of {len(parts)} parts could not be had: errors.txt has the reasons")
    if out is OutputFormat.SHORT:
        say(f"✅ {file}: {len(parts) - len(missing)} files; look through it before you hand it on")
        return
    names = [part.name for part in parts if not part.failed]
    print_value({"file": str(file), "parts": names, "missing": [part.name for part in missing]}, out)

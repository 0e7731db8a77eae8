"""The ``ambimesh`` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ambimesh.commands import lab, namespace, waypoint, ztunnel_config
from ambimesh.commands.bug_report import bug_report
from ambimesh.commands.check import check
from ambimesh.commands.demo import demo
from ambimesh.commands.installation import install, uninstall, upgrade
from ambimesh.commands.version import show_version, version
from ambimesh.output import remark
from mesh.errors import MeshError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(lab.app, name="lab")
app.add_typer(namespace.app, name="namespace")
app.add_typer(waypoint.app, name="waypoint")
app.add_typer(ztunnel_config.app, name="ztunnel-config")
for command in (check, demo, version, install, upgrade, uninstall, bug_report):
    app.command()(command)


@app.callback()
def ambimesh(
    _version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A sidecarless service mesh: eBPF capture, one mTLS tunnel per node."""


def main() -> None:
    """Run the command; an error of the mesh is one message and exit status 1."""
    try:
        app()
    except MeshError as error:
        remark("error", "red", "; ".join([str(error), *getattr(error, "__notes__", ())]))
        sys.exit(1)


if __name__ == "__main__":
    main()

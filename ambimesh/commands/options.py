"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ambimesh.output import OutputFormat
from mesh.errors import ConfigurationError

Workers = Annotated[
    str | None, typer.Option(metavar="NUMBER|auto", help="Processes of each ztunnel that move bytes.")
]

LabName = Annotated[str, typer.Option("--lab", envvar="AMBIMESH_LAB", help="Which lab.")]
Context = Annotated[
    str | None, typer.Option("--context", envvar="AMBIMESH_CONTEXT", help="A cluster: a context of the kubeconfig.")
]
MeshNamespace = Annotated[str, typer.Option("--mesh-namespace", help="Where the mesh's own parts are.")]
Files = Annotated[list[Path], typer.Option("--filename", "-f", help="A manifest, or a folder of them. Repeatable.")]
Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print.")]


def workers_wish(text: str | None) -> int | Literal["auto"] | None:
    """What ``--workers`` says.

    Raises:
        ConfigurationError: neither a number nor ``auto``.
    """
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(f"--workers {text[:32]!r}: give a number or auto") from None
